import errno
import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from online.models import files
from online.models.keys import KeyRefused, load_or_create_key, load_trusted_keys


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


def test_a_disk_without_room_for_a_key_gets_none_and_is_told(tmp_path, room_for):
    path = tmp_path / "keys" / "signing.pem"

    with (
        room_for(0),
        pytest.raises(OSError, match=r"File too large: '.*/keys/signing\.pem'$"),
    ):
        load_or_create_key(path)

    assert list(path.parent.iterdir()) == []
    load_or_create_key(path).sign(b"")


@pytest.mark.parametrize("step", range(4))  # to the disk: key, its name, public half, its name
def test_a_disk_that_is_full_at_any_step_leaves_each_file_whole_or_none_and_is_mended_later(
    step, tmp_path, monkeypatch
):
    path, real, done = tmp_path / "signing.pem", os.fsync, []

    def full(file):
        done.append(file)
        if len(done) == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/signing\.pem(\.pub)?'$"):
        load_or_create_key(path)

    assert len(done) == step + 1
    assert {file.name for file in tmp_path.iterdir()} <= {"signing.pem", "signing.pem.pub"}
    assert all(file.stat().st_size for file in tmp_path.iterdir())
    signature = load_or_create_key(path).sign(b"manifest")
    (public,) = load_trusted_keys(tmp_path)
    public.verify(signature, b"manifest")


@pytest.mark.parametrize("left", [None, b"", b"-----BEGIN PUB", bytes(113)])
def test_a_public_half_that_is_missing_or_broken_is_written_anew(left, tmp_path):
    path, public = tmp_path / "signing.pem", tmp_path / "signing.pem.pub"
    load_or_create_key(path)
    whole = public.read_bytes()
    public.unlink()
    if left is not None:
        public.write_bytes(left)

    load_or_create_key(path)

    assert public.read_bytes() == whole


def test_a_key_where_nobody_may_write_signs_and_says_that_its_public_half_is_missing(tmp_path, caplog, room_for):
    path = tmp_path / "signing.pem"
    load_or_create_key(path)
    (tmp_path / "signing.pem.pub").unlink()

    with room_for(0):
        load_or_create_key(path).sign(b"")

    assert "signing.pem.pub: File too large, so workers can't be given it to trust" in caplog.text


def test_a_fifo_or_a_device_in_the_place_of_a_key_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "key.pub")
    (tmp_path / "zero").symlink_to("/dev/zero")

    for load, path in ((load_trusted_keys, tmp_path), (load_or_create_key, tmp_path / "zero")):
        with pytest.raises(KeyRefused, match="not a regular file"):
            load(path)


def test_a_new_key_does_not_keep_the_public_half_of_the_one_before(tmp_path) -> None:
    path = tmp_path / "signing.key"
    load_or_create_key(path)
    path.unlink()

    key = load_or_create_key(path)

    assert load_trusted_keys(tmp_path) == [key.public_key()]
