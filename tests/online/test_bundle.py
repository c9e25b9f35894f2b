import hashlib
import random
import shutil

import msgspec
import pytest
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from online import bundle
from online.bundle import BundleRefused, File, Manifest, load_bundle, native_margins


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


def test_the_same_bundle_written_twice_is_one_folder(folder, write, tmp_path):
    assert write(tmp_path / "bundles") == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_thousand_mutated_bundles_are_all_refused_and_none_is_parsed(folder, trusted, tmp_path, monkeypatch):
    parsed = []
    monkeypatch.setattr(bundle, "_parse", lambda path, content: parsed.append(path))
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


def test_any_of_several_trusted_keys_will_do(folder, trusted):
    assert load_bundle(folder, [Ed25519PrivateKey.generate().public_key(), *trusted])


@pytest.mark.parametrize("name", ["classifier.ubj", "risk.ubj", "manifest.json", "manifest.sig"])
def test_a_missing_file_is_named(folder, trusted, name):
    (folder / name).unlink()

    with pytest.raises(BundleRefused, match=f"{name}: No such file"):
        load_bundle(folder, trusted)


def test_a_file_beyond_its_size_is_refused_before_anything_else(folder, trusted):
    with (folder / "risk.ubj").open("r+b") as file:
        file.truncate(65 << 20)

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


def test_a_well_signed_model_that_is_none_is_refused_in_its_parsers_words(folder, trusted, signing_key):
    torn = (folder / "risk.ubj").read_bytes()[:-100]
    (folder / "risk.ubj").write_bytes(torn)
    files = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest).files
    resign(folder, signing_key, files=files | {"risk.ubj": File(hashlib.sha256(torn).hexdigest(), len(torn))})

    with pytest.raises(BundleRefused, match=r"^\S+risk\.ubj: [^\n]+ Retrain the bundle\.$"):
        load_bundle(folder, trusted)
