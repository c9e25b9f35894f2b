"""The keys that bundles are signed with and trusted by: Ed25519 in PEM files.

Whoever trains has the private key; a worker has public keys only, and loads what one of them signed.
"""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from streams.contract import LinkcastError


class KeyRefused(LinkcastError):
    """A key file that can't be read, or holds something else."""


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """Return the signing key in `path`, made first where there is none, for its owner's eyes only (mode 0600).

    Its public half lies beside it in `PATH.pub`: that file is what a worker is given to trust.
    """
    if not path.exists():
        _create_key(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefused(f"{path}: no readable private key ({error}). Move it away to have a new one made.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyRefused(f"{path}: not an Ed25519 key. Move it away to have a new one made.")
    return key


def _create_key(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    try:
        # Whole or not at all, and of two processes that make a key at once the first one's stays.
        path.hardlink_to(scratch)
        _public_path(path).write_bytes(public)
    except FileExistsError:
        pass
    finally:
        scratch.unlink()


def _public_path(path: Path) -> Path:
    return path.with_name(path.name + ".pub")


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
        pem = path.read_bytes()
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
