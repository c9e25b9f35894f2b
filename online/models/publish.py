"""A bundle onto topic `models`, for the workers to take up, and back to its folder."""

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from aiokafka import AIOKafkaProducer

from online.models.bundle import MANIFEST_BYTES_MAX, BundleRefused
from online.models.files import read_regular
from streams.contract import ModelManifest
from streams.kafka import KafkaSettings, await_broker


def manifest_of(bundle: Path, *, published_at: int) -> ModelManifest:
    """Return the record that points to the bundle in a folder; `published_at` in ms decides which one is newest."""
    manifest = (bundle / "manifest.json").read_bytes()
    return ModelManifest(
        version=bundle.name,
        location=bundle.resolve().as_uri(),
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        published_at=published_at,
    )


async def publish(kafka: KafkaSettings, *, prefix: str, bundle: Path, published_at: int) -> ModelManifest:
    """Publish a bundle's manifest and return it once the broker has it; waits for the broker if it is away."""
    manifest = manifest_of(bundle, published_at=published_at)
    await await_broker(kafka)
    async with AIOKafkaProducer(**kafka.client_arguments(), enable_idempotence=True) as producer:
        await producer.send_and_wait(
            f"{prefix}models", msgspec.json.encode(manifest), key=manifest.version.encode()
        )  # fmt: skip
    return manifest


def folder_of(manifest: ModelManifest) -> Path:
    """Return the folder of a published bundle; `BundleRefused` where it can't be read here or is another one.

    >>> folder_of(ModelManifest(version="v7", location="s3://b/v7", manifest_sha256="0" * 64, published_at=0))
    Traceback (most recent call last):
    online.models.bundle.BundleRefused: v7 is at s3://b/v7, which is no folder here: run this where the workers run
    """
    try:
        location = urlsplit(manifest.location)
    except ValueError as error:
        raise BundleRefused(f"{manifest.version} is at {manifest.location}, which is no address: {error}") from error
    if location.scheme not in ("", "file"):
        raise BundleRefused(
            f"{manifest.version} is at {manifest.location}, which is no folder here: run this where the workers run"
        )
    folder = Path(unquote(location.path) if location.scheme else manifest.location)
    try:
        content = read_regular(folder / "manifest.json", MANIFEST_BYTES_MAX)
    except OSError as error:
        raise BundleRefused(
            f"{folder}: {error.strerror}, and topic models says that {manifest.version} is there"
        ) from error
    if hashlib.sha256(content).hexdigest() != manifest.manifest_sha256:
        raise BundleRefused(f"{folder}: its manifest is not the one that was published as {manifest.version}")
    return folder
