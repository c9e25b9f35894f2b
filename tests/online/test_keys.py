import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from online.keys import KeyRefused, load_or_create_key, load_trusted_keys


def test_a_key_is_made_once_for_its_owners_eyes_and_its_public_half_trusts_it(tmp_path):
    path = tmp_path / "keys" / "signing.pem"
    key = load_or_create_key(path)
    again = load_or_create_key(path)
    signature = again.sign(b"manifest")

    assert again.private_bytes_raw() == key.private_bytes_raw()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in path.parent.iterdir()) == ["signing.pem", "signing.pem.pub"]
    for trusted in (path.parent, tmp_path / "keys" / "signing.pem.pub"):
        (public,) = load_trusted_keys(trusted)
        public.verify(signature, b"manifest")


def test_a_key_file_that_is_none_is_refused_and_kept(tmp_path):
    path = tmp_path / "signing.pem"
    path.write_text("not a key")

    with pytest.raises(KeyRefused, match=r"signing\.pem: no readable private key"):
        load_or_create_key(path)
    assert path.read_text() == "not a key"
    with pytest.raises(KeyRefused, match="no readable public key"):
        load_trusted_keys(path)


def test_a_key_of_another_kind_is_refused(tmp_path):
    key = generate_private_key(SECP256R1())
    pem = serialization.Encoding.PEM
    (tmp_path / "ec.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "ec.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    with pytest.raises(KeyRefused, match="not an Ed25519 key"):
        load_or_create_key(tmp_path / "ec.pem")
    with pytest.raises(KeyRefused, match="not an Ed25519 key"):
        load_trusted_keys(tmp_path)


def test_a_folder_or_file_without_a_key_to_trust_is_refused(tmp_path):
    with pytest.raises(KeyRefused, match=r"no \*\.pub file"):
        load_trusted_keys(tmp_path)
    with pytest.raises(KeyRefused, match="no readable public key"):
        load_trusted_keys(tmp_path / "missing.pub")
