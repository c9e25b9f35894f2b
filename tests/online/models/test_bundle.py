import _pickle
import ast
import hashlib
import os
import pickle
import random
import shutil
from pathlib import Path

import msgspec
import pytest
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from online.models import bundle
from online.models.bundle import (
    BundleRefused,
    DriftReference,
    File,
    Manifest,
    SignalReference,
    Training,
    load_bundle,
    native_margins,
)


@pytest.fixture
def trusted(signing_key):
    return [signing_key.public_key()]


@pytest.fixture
def folder(write, tmp_path):
    return write(tmp_path / "bundles")


def resign(folder, key, **changed):
    """Let the key's owner say something else in the manifest."""
    path = folder / "manifest.json"
    manifest = msgspec.structs.replace(msgspec.json.decode(path.read_bytes(), type=Manifest), **changed)
    path.write_bytes(msgspec.json.encode(manifest, order="sorted"))
    (folder / "manifest.sig").write_bytes(key.sign(path.read_bytes()))


def test_a_bundle_comes_back_as_it_was_written(folder, trusted, trained):
    loaded = load_bundle(folder, trusted)

    assert folder.name == loaded.version
    assert loaded.version.startswith("20261123-")
    assert loaded.manifest.parent is None
    assert loaded.classifier.margins(trained.X).tobytes() == native_margins(trained.classifier, trained.X).tobytes()
    assert loaded.risk.margins(trained.X).tobytes() == native_margins(trained.risk, trained.X).tobytes()


def test_a_bundle_says_what_it_replaces_what_it_read_and_what_drift_is_told_against(write, tmp_path, trusted):
    training = Training(
        source="topic features", start=0, end=1, rows=2, horizon_ms=3, base_rate=0.1, offsets={"features-0": (7, 90)}
    )
    reference = DriftReference(
        signals={"latency_p99": SignalReference(mean=2.5, sd=0.1, ar1=0.9)}, skill=0.5, false_time=0.02
    )

    folder = write(tmp_path, training=training, parent="20261101-0a0a0a0a", reference=reference)

    manifest = load_bundle(folder, trusted).manifest
    assert (manifest.parent, manifest.training, manifest.reference) == ("20261101-0a0a0a0a", training, reference)


def test_a_bundle_of_the_release_before_loads_and_an_unknown_field_is_refused(folder, trusted, signing_key):
    path = folder / "manifest.json"
    said = msgspec.json.decode(path.read_bytes())
    del said["reference"], said["training"]["offsets"]

    def says(manifest):
        path.write_bytes(msgspec.json.encode(manifest, order="sorted"))
        (folder / "manifest.sig").write_bytes(signing_key.sign(path.read_bytes()))

    says(said)
    assert load_bundle(folder, trusted).manifest.reference is None
    says(said | {"of_a_later_release": 1})
    with pytest.raises(BundleRefused, match=r"of_a_later_release.*retrain"):
        load_bundle(folder, trusted)


def test_the_same_bundle_written_twice_is_one_folder(folder, write, tmp_path):
    assert write(tmp_path / "bundles") == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_thousand_mutated_bundles_are_all_refused_and_none_is_parsed(folder, trusted, tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(bundle, "_parse", lambda path, content, n_outputs: parsed.append(path))
    rng = random.Random(20_261_123)
    mutant = tmp_path / "mutant"
    shutil.copytree(folder, mutant)
    original = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = 0
    for _ in range(1_000):
        name = rng.choice(sorted(original))
        (mutant / name).write_bytes(mutated(original[name], rng))
        with pytest.raises(BundleRefused):
            load_bundle(mutant, trusted)
        refused += 1
        (mutant / name).write_bytes(original[name])

    assert refused == 1_000
    assert parsed == []


def mutated(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    kind = rng.choice(["flip", "cut", "insert", "empty"])
    if kind == "flip":
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == "cut":
        return content[:at]
    return content[:at] + rng.randbytes(9) + content[at:] if kind == "insert" else b""


def test_a_manifest_is_not_even_decoded_before_its_signature_holds(folder, monkeypatch):
    monkeypatch.setattr(bundle.msgspec.json, "decode", pytest.fail)
    stranger = Ed25519PrivateKey.generate().public_key()

    with pytest.raises(BundleRefused, match="none of the 1 trusted keys"):
        load_bundle(folder, [stranger])
    with pytest.raises(BundleRefused, match="none of the 0 trusted keys"):
        load_bundle(folder, [])
    (folder / "manifest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(BundleRefused, match="none of the 1 trusted keys"):
        load_bundle(folder, [stranger])


def test_nothing_is_unpickled_while_a_bundle_is_loaded(folder, trusted, monkeypatch):
    load_bundle(folder, trusted)  # Numba's own cache of compiled code, beside the code, is pickled
    for module in (pickle, _pickle):
        for name in ("load", "loads", "Unpickler"):
            monkeypatch.setattr(module, name, pytest.fail)

    assert load_bundle(folder, trusted)


def test_no_module_of_ours_imports_what_unpickles():
    root = Path(bundle.__file__).parents[2]
    sources = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    imported = {name.partition(".")[0] for path in sources for name in imports(ast.parse(path.read_bytes()))}

    assert "msgspec" in imported
    assert not imported & {"_pickle", "cloudpickle", "copyreg", "dill", "joblib", "marshal", "pickle", "shelve"}


PACKAGES = ("streams", "online", "offline", "lambda_adapter", "infra", "bench")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_any_of_several_trusted_keys_will_do(folder, trusted):
    assert load_bundle(folder, [Ed25519PrivateKey.generate().public_key(), *trusted])


@pytest.mark.parametrize("name", ["classifier.ubj", "risk.ubj", "manifest.json", "manifest.sig"])
def test_a_missing_file_is_named(folder, trusted, name):
    (folder / name).unlink()

    with pytest.raises(BundleRefused, match=f"{name}: No such file"):
        load_bundle(folder, trusted)


def test_a_file_beyond_its_size_is_refused_before_anything_else(folder, trusted):
    with (folder / "risk.ubj").open("r+b") as file:
        file.truncate((16 << 20) + 1)

    with pytest.raises(BundleRefused, match="larger than"):
        load_bundle(folder, trusted)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"xgboost": "3.1.2"}, "trained with xgboost 3.1.2.*Install xgboost==3.1.2"),
        ({"xgboost": "4.2.0"}, "trained with xgboost 4.2.0"),
        ({"feature_set": "extended"}, "feature set extended"),
        ({"features": ("a", "b")}, "features"),
        ({"feature_code": "0" * 64}, "feature code 0000"),
        ({"classes": ("healthy",)}, "classes"),
        ({"thresholds": {"opened_from": 50.0}}, "thresholds"),
        ({"files": {}}, "lists"),
    ],
)
def test_what_would_score_wrongly_here_is_refused_though_well_signed(folder, trusted, signing_key, changed, told):
    resign(folder, signing_key, **changed)

    with pytest.raises(BundleRefused, match=told):
        load_bundle(folder, trusted)


def test_another_patch_release_of_xgboost_is_fine(folder, trusted, signing_key):
    resign(folder, signing_key, xgboost=".".join([*xgb.__version__.split(".")[:2], "99"]))

    assert load_bundle(folder, trusted)


@pytest.mark.parametrize("model", ["classifier", "risk"])
def test_one_differing_bit_of_a_golden_margin_is_refused(folder, trusted, signing_key, model):
    golden = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest).golden
    margins = bytearray(getattr(golden, model))
    margins[-4] ^= 1
    resign(folder, signing_key, golden=msgspec.structs.replace(golden, **{model: bytes(margins)}))

    with pytest.raises(BundleRefused, match="other margins on the golden rows"):
        load_bundle(folder, trusted)


def test_a_bundle_without_golden_rows_proves_nothing(folder, trusted, signing_key):
    resign(folder, signing_key, golden=bundle.Golden(rows=b"", classifier=b"", risk=b""))

    with pytest.raises(BundleRefused, match="no golden rows"):
        load_bundle(folder, trusted)


def test_a_manifest_of_another_version_of_linkcast_is_refused_in_words(folder, trusted, signing_key):
    (folder / "manifest.json").write_bytes(b'{"v": 2}')
    (folder / "manifest.sig").write_bytes(signing_key.sign(b'{"v": 2}'))

    with pytest.raises(BundleRefused, match="another version of linkcast"):
        load_bundle(folder, trusted)


def sign_as_risk(folder, key, content):
    (folder / "risk.ubj").write_bytes(content)
    files = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest).files
    resign(folder, key, files=files | {"risk.ubj": File(hashlib.sha256(content).hexdigest(), len(content))})


@pytest.mark.parametrize("left", [0, 1, 40, -100])  # XGBoost aborts the process at the first
def test_a_well_signed_model_that_is_cut_off_is_refused(folder, trusted, signing_key, left):
    sign_as_risk(folder, signing_key, (folder / "risk.ubj").read_bytes()[:left])

    with pytest.raises(BundleRefused, match=r"^\S+risk\.ubj: at byte \d+: ends early[^\n]+ Retrain the bundle\.$"):
        load_bundle(folder, trusted)


def test_a_well_signed_model_of_other_outputs_is_refused(folder, trusted, signing_key):
    sign_as_risk(folder, signing_key, (folder / "classifier.ubj").read_bytes())

    with pytest.raises(BundleRefused, match=r"risk\.ubj: 24 features to 11 outputs"):
        load_bundle(folder, trusted)


@pytest.mark.parametrize("name", ["risk.ubj", "manifest.json"])
def test_what_is_no_regular_file_is_refused_at_once(folder, trusted, name):
    path = folder / name
    for make in (os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path.unlink()
        make(path)

        with pytest.raises(BundleRefused, match=f"{name}: not a regular file"):
            load_bundle(folder, trusted)
        path.rename(folder / f"was-{make.__name__}")
        path.touch()


def test_a_folder_and_files_behind_symbolic_links_are_as_good(folder, trusted, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    (tmp_path / "current").symlink_to(linked)

    assert load_bundle(tmp_path / "current", trusted).version == folder.name


@pytest.mark.parametrize("said", ["v" * 100_000, "3\n2026-11-30 model v8 scores from now on", "\x1b[2J\u2028" * 9_999])
def test_a_refusal_is_one_short_line_whatever_a_manifest_says(folder, trusted, signing_key, said):
    for changed in (
        {"xgboost": said},
        {"feature_set": said},
        {"features": (said,)},
        {"files": {said: File("0" * 64, 1)}},
    ):
        resign(folder, signing_key, **changed)

        with pytest.raises(BundleRefused) as refused:
            load_bundle(folder, trusted)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 900
        assert str(refused.value).endswith(("retrain the bundle.", "retrain it."))
