"""A bundle onto topic `models`, for the workers to take up."""

import hashlib
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

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
