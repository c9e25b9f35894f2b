"""Dead letters on a real topic, and what becomes of them without one."""

import asyncio
import base64
import datetime
import gc
import ssl
import struct
from ipaddress import ip_address
from urllib.parse import parse_qs, urlsplit

import pytest
from aiokafka.protocol.admin import ApiVersionResponse_v0, SaslAuthenticateResponse_v0, SaslHandShakeResponse_v1
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lambda_adapter.dead_letters import DeadLetter, DeadLetters, DeadLetterUndelivered
from lambda_adapter.records import KafkaRecord, RecordRefused


def letter(offset, value=b"{", key=b"leaf-012"):
    return DeadLetter(
        KafkaRecord("linkcast.predictions", 3, offset, key, value), RecordRefused("not_json", "the value is no JSON")
    )


@pytest.mark.kafka
async def test_dead_letters_arrive_with_their_bytes_and_where_they_came_from(kafka, topics, consume_all):
    topic = f"{topics}metrics.dead"
    letters = [letter(7), letter(8, value=None, key=None), letter(9, value=b"\xff" * 2_000_000)]

    # From inside an event loop on purpose: the event-source emulator may call the handler from one.
    DeadLetters(topic, kafka.bootstrap).send(letters)

    arrived = {dict(record.headers)["offset"]: record for record in await consume_all(topic)}
    assert arrived.keys() == {b"7", b"8", b"9"}
    assert [(arrived[o].key, arrived[o].value) for o in (b"7", b"8", b"9")] == [
        (b"leaf-012", b"{"), (None, b""), (b"leaf-012", b"\xff" * 900 * 1024),
    ]  # fmt: skip
    assert dict(arrived[b"7"].headers) == {
        "reason": b"not_json",
        "detail": b"the value is no JSON",
        "topic": b"linkcast.predictions",
        "partition": b"3",
        "offset": b"7",
        "bytes": b"1",
    }
    assert dict(arrived[b"9"].headers)["bytes"] == b"2000000"


@pytest.mark.kafka
def test_a_topic_that_is_not_there_is_an_error_within_the_time(kafka):
    with pytest.raises(DeadLetterUndelivered, match=r"nowhere .* Is the topic there"):
        DeadLetters("nowhere", kafka.bootstrap, seconds=1).send([letter(1)])
    gc.collect()  # a client left open would warn


async def test_a_broker_that_does_not_answer_is_an_error_within_the_time():
    left = asyncio.Event()

    async def silent(reader, writer):
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(DeadLetterUndelivered, match="1 dead letters to t at"):
        await asyncio.to_thread(DeadLetters("t", f"127.0.0.1:{port}", seconds=0.5).send, [letter(1)])
    await left.wait()
    server.close()
    gc.collect()  # a client left open would warn


async def test_msk_is_shown_the_roles_signature_for_the_functions_region_over_tls(tmp_path, monkeypatch):
    for name, value in {
        "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "example",
        "AWS_SESSION_TOKEN": "of the role",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    shown: list[bytes] = []
    certificate, tls = certified(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = await asyncio.start_server(lambda r, w: refusing_broker(r, w, shown), "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]

    letters = DeadLetters(
        "t", f"127.0.0.1:{port}", security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM", seconds=600
    )
    with pytest.raises(DeadLetterUndelivered, match="1 dead letters to t at"):
        await asyncio.to_thread(letters.send, [letter(1)])

    token = shown[0].split(b"auth=Bearer ")[1].split(b"\x01")[0]
    url = urlsplit(base64.urlsafe_b64decode(token + b"==").decode())
    asked = parse_qs(url.query)
    assert url.netloc == "kafka.eu-central-1.amazonaws.com"
    assert (asked["Action"], asked["X-Amz-Security-Token"]) == (["kafka-cluster:Connect"], ["of the role"])
    assert asked["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    server.close()
    gc.collect()  # a client left open would warn


async def refusing_broker(reader, writer, shown):
    """Speak Kafka as far as SASL, keep what is shown there, and let nobody in."""
    answers = {
        ApiVersionResponse_v0.API_KEY: ApiVersionResponse_v0(0, [(17, 1, 1), (18, 0, 0), (36, 0, 0)]),
        SaslHandShakeResponse_v1.API_KEY: SaslHandShakeResponse_v1(0, ["OAUTHBEARER"]),
        SaslAuthenticateResponse_v0.API_KEY: SaslAuthenticateResponse_v0(58, "Access denied", b""),
    }
    try:
        while True:
            (size,) = struct.unpack(">i", await reader.readexactly(4))
            request = await reader.readexactly(size)
            key, _version, correlation = struct.unpack_from(">hhi", request)
            if key == SaslAuthenticateResponse_v0.API_KEY:
                shown.append(request)
            answer = struct.pack(">i", correlation) + answers[key].encode()
            writer.write(struct.pack(">i", len(answer)) + answer)
    except asyncio.IncompleteReadError:
        writer.close()


def certified(folder):
    """Return the file of a certificate for 127.0.0.1 that signs itself, and what a server needs to show it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, key_pem = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem, key_pem)
    return pem, tls


def test_no_dead_letter_needs_no_broker():
    DeadLetters("t", "127.0.0.1:1").send([])
