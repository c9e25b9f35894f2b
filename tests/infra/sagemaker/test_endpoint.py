"""The endpoint's container over HTTP: what it answers, what it refuses, and how it ends."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.sagemaker import rows
from infra.sagemaker.endpoint import BODY_BYTES_MAX, CONNECTIONS_MAX, Model
from infra.sagemaker.trust import TRUSTED_PEM, as_pem
from online.models.bundle import Manifest, load_bundle
from online.models.scoring import Scorer
from streams.contract import CLASSES, FEATURES
from streams.features.kernel import Rows
from tests.infra.sagemaker.conftest import Asker, serving


def named(x):
    return {name: None if np.isnan(value) else float(value) for name, value in zip(FEATURES, x, strict=True)}


def scores_in_process(folder, key, X):
    n = len(X)
    of_rules = np.zeros(n, np.int8), np.zeros(n), np.zeros(n), np.zeros(n, bool)
    return Scorer(load_bundle(folder, [key.public_key()])).score(Rows(np.arange(n), X, *of_rules))


def resign(folder, key, **changed):
    path = folder / "manifest.json"
    manifest = msgspec.structs.replace(msgspec.json.decode(path.read_bytes(), type=Manifest), **changed)
    path.write_bytes(msgspec.json.encode(manifest, order="sorted"))
    (folder / "manifest.sig").write_bytes(key.sign(path.read_bytes()))


def assert_refused(folder, environment, told):
    model = Model()
    model.load(folder, environment)
    with serving(model) as endpoint:
        ask = Asker(endpoint)
        ping = ask("GET", "/ping")
        invoked = ask("POST", "/invocations", b'{"features":{"hour":1}}', Content_Type="application/json")

    assert ping == invoked == (503, {"error": model.refused})
    assert told in model.refused


def test_single_rows_over_http_have_the_bits_of_the_workers_scorer(invoke, folder, signing_key, trained):
    X = trained.X[:100]
    expected = scores_in_process(folder, signing_key, X)

    for i, x in enumerate(X):
        status, answer = invoke(json.dumps({"features": named(x)}))

        assert status == 200
        assert answer == {
            "class": CLASSES[expected.code[i]],
            "risk": expected.risk[i],
            "confidence": expected.confidence[i],
            "probabilities": dict(zip(CLASSES, expected.probabilities[i], strict=True)),
            "model": folder.name,
        }


def test_rows_are_answered_in_their_order_with_the_bits_of_single_ones(invoke, trained):
    sent = [named(x) for x in trained.X[:7]]
    alone = [invoke(json.dumps({"features": row}))[1] for row in sent]

    assert invoke(json.dumps({"rows": sent})) == (200, {"rows": alone})


def test_a_name_left_out_is_as_missing_as_a_null_and_neither_is_a_zero(invoke, trained):
    lacking = [named(x) for x in trained.X[np.isnan(trained.X[:, 5])][:50]]
    left_out = [{name: value for name, value in row.items() if value is not None} for row in lacking]
    zeros = [{name: value or 0.0 for name, value in row.items()} for row in lacking]
    of_nulls, of_none, of_zeros = (invoke(json.dumps({"rows": sent})) for sent in (lacking, left_out, zeros))

    assert of_nulls[0] == 200
    assert of_nulls == of_none
    assert of_nulls != of_zeros


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"features":{"utilisation":1}}', "unknown field `utilisation` - at `$.features`"),
        (b'{"rows":[{"hour":1},{"Hour":1}]}', "unknown field `Hour` - at `$.rows[1]`"),
        (b'{"features":{"hour":NaN}}', "malformed"),
        (b'{"features":{"hour":-Infinity}}', "malformed"),
        (b'{"features":{"hour":1e999}}', "out of range - at `$.features.hour`"),
        (b'{"features":{"hour":1e39}}', "<= 3.40"),
        (b'{"features":{"hour":"1"}}', "got `str`"),
        (b'{"features":{"hour":true}}', "got `bool`"),
        (b'{"features":[1,2]}', "got `array`"),
        (b"", "truncated"),
        (b"not json", "malformed"),
        (b"\xff\xfe{}", "malformed"),
        (b'{"features":{"\xff":1}}', "utf-8"),
        (b"{}", "either"),
        (b'{"rows":[]}', "length >= 1"),
        (b'{"features":{"hour":1},"rows":[{"hour":1}]}', "either"),
        (b'{"features":{}}', "row 0 has no value"),
        (b'{"rows":[{"hour":1},{"hour":null}]}', "row 1 has no value"),
        (b'{"rows":[' + b",".join([b'{"hour":1}'] * (rows.ROWS_MAX + 1)) + b"]}", "length <= 1024"),
    ],
)
def test_a_body_that_is_no_row_is_a_400_that_says_why_and_the_connection_goes_on(invoke, body, told):
    status, answer = invoke(body)

    assert status == 400
    assert told in answer["error"]
    assert invoke(b'{"features":{"hour":1}}')[0] == 200


@pytest.mark.parametrize("content_type", ["text/csv", "application/x-npy", "application/jsonlines", ""])
def test_another_content_type_is_a_415(invoke, content_type):
    status, answer = invoke(b'{"features":{"hour":1}}', content_type)

    assert status == 415
    assert "send application/json" in answer["error"]


def test_the_content_type_may_have_a_charset(invoke):
    assert invoke(b'{"features":{"hour":1}}', "Application/JSON; charset=utf-8")[0] == 200


def test_a_body_as_large_as_allowed_is_read_and_one_byte_more_is_a_413(endpoint, invoke):
    largest = b'{"features":{"hour":1}}'.ljust(BODY_BYTES_MAX)

    assert invoke(largest)[0] == 200
    assert invoke(largest + b" ")[0] == 413
    assert Asker(endpoint)("POST", "/invocations", b"x" * (6 << 20), Content_Type="application/json")[0] == 413


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 411),
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 411),
        (b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 411),
        (b"Content-Length: -1\r\n\r\n", 411),
        (b"Content-Length: +2\r\n\r\n{}", 411),
        (b"Content-Length: 999999999999999999999\r\n\r\n", 413),
        (b"\r\n", 411),
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused_and_nothing_after_it_is_read(endpoint, head, status):
    smuggled = b"GET /ping HTTP/1.1\r\n\r\n"
    with socket.create_connection(endpoint.server_address) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nContent-Type: application/json\r\n" + head + smuggled)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("POST", "/ping", 405), ("GET", "/invocations", 405), ("PUT", "/invocations", 501),
     ("GET", "/ping?x=1", 404)],
)  # fmt: skip
def test_there_is_nothing_else_to_ask_for(ask, method, path, status):
    assert ask(method, path, b"{}" if method == "POST" else None)[0] == status


def test_ping_says_which_model_answers(ask, folder):
    assert ask("GET", "/ping") == (200, {"model": folder.name})


def test_until_the_bundle_is_loaded_ping_and_invocations_are_503():
    with serving(Model()) as endpoint:
        ask = Asker(endpoint)

        assert ask("GET", "/ping") == (503, {"error": "the bundle is being loaded"})
        assert ask("POST", "/invocations", b"{}", Content_Type="application/json")[0] == 503


def test_a_bundle_as_a_training_job_leaves_it_one_folder_below_is_found(folder, environment):
    model = Model()
    model.load(folder.parent, environment)

    assert model.bundle.version == folder.name


def test_a_bundle_of_another_minor_of_xgboost_is_refused_by_ping(folder, environment, signing_key):
    resign(folder, signing_key, xgboost="3.0.5")

    assert_refused(folder, environment, "trained with xgboost 3.0.5")


def test_a_bundle_that_nobody_trusted_signed_is_refused_by_ping(folder):
    stranger = {TRUSTED_PEM: as_pem([Ed25519PrivateKey.generate().public_key()])}

    assert_refused(folder, stranger, "signed by none of the 1 trusted keys")


def test_a_broken_signature_is_refused_by_ping(folder, environment):
    signature = bytearray((folder / "manifest.sig").read_bytes())
    signature[7] ^= 1
    (folder / "manifest.sig").write_bytes(signature)

    assert_refused(folder, environment, "signed by none")


def test_a_model_that_was_changed_under_a_good_signature_is_refused_by_ping(folder, environment):
    changed = bytearray((folder / "risk.ubj").read_bytes())
    changed[-9] ^= 1
    (folder / "risk.ubj").write_bytes(changed)

    assert_refused(folder, environment, "risk.ubj: size or SHA-256 is not the signed one")


def test_a_golden_row_that_differs_in_a_bit_is_refused_by_ping(folder, environment, signing_key):
    golden = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest).golden
    margins = bytearray(golden.risk)
    margins[0] ^= 1
    resign(folder, signing_key, golden=msgspec.structs.replace(golden, risk=bytes(margins)))

    assert_refused(folder, environment, "other margins on the golden rows")


@pytest.mark.parametrize("pem", [None, "", "ssh-ed25519 AAAA"])
def test_without_a_key_to_trust_nothing_is_served(folder, pem):
    assert_refused(folder, {} if pem is None else {TRUSTED_PEM: pem}, "holds no public key")


def test_a_key_that_is_none_is_said_by_ping(folder):
    torn = "-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----"

    assert_refused(folder, {TRUSTED_PEM: torn}, "no readable public key")


def test_whatever_else_breaks_while_loading_is_said_by_ping(folder, environment, monkeypatch):
    def broken(*_):
        raise RuntimeError("no locator available for file")

    monkeypatch.setattr(rows, "scored", broken)
    assert_refused(folder, environment, "loading broke: RuntimeError('no locator available for file')")


def test_an_empty_model_folder_is_said_by_ping(tmp_path, environment):
    assert_refused(tmp_path, environment, "manifest.json: No such file")


def test_the_access_log_has_no_payload_and_no_path_of_a_strangers(ask, invoke, caplog):
    caplog.set_level(logging.INFO, "infra.sagemaker.endpoint")
    invoke(b'{"features":{"utilization":97.125}}')
    invoke(b'{"features":{"secret-host-12":97.125}}')
    ask("GET", "/secret-host-12")
    ask("GET", "/ping")

    said = [record.getMessage().rsplit(" ", 2)[0] for record in caplog.records]
    assert said == ["POST /invocations 200", "POST /invocations 400", "GET elsewhere 404"]


def test_connections_beyond_the_limit_are_closed_and_the_others_go_on(endpoint, ask):
    assert ask("GET", "/ping")[0] == 200
    others = [socket.create_connection(endpoint.server_address) for _ in range(CONNECTIONS_MAX - 1)]
    with socket.create_connection(endpoint.server_address) as one_too_many:
        assert one_too_many.recv(1) == b""

    assert ask("GET", "/ping")[0] == 200
    for other in others:
        other.close()


def test_a_stop_answers_what_has_begun_and_closes_what_waits(model):
    begun, answered = threading.Event(), threading.Event()

    class Slow:
        version = "slow"

        @property
        def manifest(self):  # the first thing that scoring asks for
            begun.set()
            answered.wait(600)  # a thread outlives a test that failed
            return quick.manifest

        classifier = property(lambda self: quick.classifier)
        risk = property(lambda self: quick.risk)

    quick, model.bundle = model.bundle, Slow()
    with serving(model) as endpoint:
        busy, waiting = Asker(endpoint), Asker(endpoint)
        assert waiting("GET", "/ping")[0] == 200
        busy.connection.request(
            "POST", "/invocations", b'{"features":{"hour":1}}', {"Content-Type": "application/json"}
        )
        begun.wait()
        stopped = []
        stopping = threading.Thread(target=lambda: stopped.append(endpoint.stop()))
        stopping.start()
        assert waiting.connection.sock.recv(1) == b""
        answered.set()
        response = busy.connection.getresponse()

        assert (response.status, response.headers["Connection"]) == (200, "close")
        assert json.loads(response.read())["model"] == "slow"
        stopping.join()
        assert stopped == [True]


def test_the_container_needs_neither_boto3_nor_kafka_nor_pandas():
    code = (
        "import sys, infra.commands.sagemaker, infra.sagemaker.endpoint, infra.sagemaker.rows, infra.sagemaker.trust;"
        "print(sorted({'boto3', 'botocore', 'aiokafka', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_command_serves_a_bundle_and_ends_well_on_sigterm(folder, environment, tmp_path):
    bundle = shutil.copytree(folder, tmp_path / "opt-ml-model")
    command = [sys.executable, "-m", "infra.command", "sagemaker", "serve", "--model", str(bundle)]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    ) as process:
        try:
            url = process.stderr.readline().strip()
            assert any("serving" in line for line in process.stderr)
            with urllib.request.urlopen(f"{url}/ping") as response:
                assert json.loads(response.read()) == {"model": folder.name}
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert process.returncode == 0
