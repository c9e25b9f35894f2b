"""The public keys that an endpoint trusts, as text in its environment.

They come with the model's definition and never with its data: whoever may write to the bucket can't make a key trusted.
"""

import re
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from online.models.keys import KeyRefused, public_key

TRUSTED_PEM = "LINKCAST_TRUSTED_PEM"
KEYS_MAX = 9
"""SageMaker allows 1,024 characters a variable, and a key has 113."""

_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)


def as_pem(keys: Sequence[Ed25519PublicKey]) -> str:
    """Return the keys as one text."""
    if not 1 <= len(keys) <= KEYS_MAX:
        raise KeyRefused(f"{len(keys)} trusted keys: an endpoint takes 1 to {KEYS_MAX}. Leave out those no longer used")
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return "".join(key.public_bytes(encoding, form).decode() for key in keys)


def from_environment(environment: Mapping[str, str]) -> list[Ed25519PublicKey]:
    """Return the keys of the variable LINKCAST_TRUSTED_PEM; `KeyRefused` where there is none."""
    found = _PEM.findall(environment.get(TRUSTED_PEM, ""))
    if not found:
        raise KeyRefused(f"{TRUSTED_PEM} holds no public key, so no bundle can be trusted: give it the trainer's .pub")
    return [public_key(pem.encode(), TRUSTED_PEM) for pem in found]
