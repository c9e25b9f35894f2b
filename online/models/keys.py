"""The keys that bundles are signed with and trusted by: Ed25519 in PEM files.

Whoever trains has the private key; a worker has public keys only, and loads what one of them signed.
"""

import logging
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from online.models.files import read_regular, write_whole
from streams.contract import LinkcastError

log = logging.getLogger(__name__)

KEY_BYTES_MAX = 1 << 16


class KeyRefused(LinkcastError):
    """A key file that can't be read, or holds something else."""


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Return the signing key in `path`, made first where there is none, for its owner's eyes only (mode 0600).

    Its public half lies beside it in `PATH.pub`: that file is what a worker is given to trust. It is written anew where
    it is missing or holds no key, as after a disk that was full. Raises `KeyRefused`, and `OSError` where a new
    key can't be written.
    """
    if is_new := not path.exists():
        _create_key(path)
    try:
        key = serialization.load_pem_private_key(read_regular(path, KEY_BYTES_MAX), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{path}: no readable private key ({error}). Move it away to have a new one made.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyRefused(f"{path}: not an Ed25519 key. Move it away to have a new one made.")
    try:
        _write_public_half(key, path.with_name(path.name + ".pub"), is_new=is_new)
    except OSError as error:
        if is_new:
            raise
        # The key signs all the same: it may well be mounted where nobody writes.
        log.warning("%s: %s, so workers can't be given it to trust", error.filename, error.strerror)
    return key


def _create_key(path: Path) -> None:
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # of two processes that make a key at once the first one's stays
        write_whole(path, private, mode=0o600, replace=False)


def _write_public_half(key: Ed25519PrivateKey, path: Path, *, is_new: bool) -> None:
    if path.exists():
        try:
            found = _load_public_key(path)
        except KeyRefused:
            log.warning("%s: holds no key, so it is written anew", path)
        else:
            if found == key.public_key():
                return
            if not is_new:
                log.warning("%s: another key's, and left alone: who trusts it refuses what this key signs", path)
                return
            log.warning("%s: of a key that was here before, so it is written anew", path)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    write_whole(path, public, mode=0o644, replace=True)


def load_trusted_keys(path: Path) -> list[Ed25519PublicKey]:
    """Return the public keys to trust: of the file `path`, or of all `*.pub` files in the folder `path`."""
    paths = sorted(path.glob("*.pub")) if path.is_dir() else [path]
    if not paths:
        raise KeyRefused(
            f"{path}: no *.pub file in it, so no bundle could be trusted. Copy the trainer's .pub file there."
        )
    return [_load_public_key(file) for file in paths]


def _load_public_key(path: Path) -> Ed25519PublicKey:
    try:
        pem = read_regular(path, KEY_BYTES_MAX)
    except OSError as error:
        raise KeyRefused(f"{path}: no readable public key ({error}). Give the .pub file beside the key.") from error
    return public_key(pem, str(path))


def public_key(pem: bytes, where: str) -> Ed25519PublicKey:
    """Return the public key of a .pub file's bytes; raises `KeyRefused`, which names `where` they are from."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{where}: no readable public key ({error}). Give the .pub file beside the key.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyRefused(f"{where}: not an Ed25519 key. Give the .pub file beside the key that signs bundles.")
    return key
