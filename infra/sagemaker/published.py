"""The bundles on topic `models`, and where the folder of one is."""

import asyncio
import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.contract import LinkcastError, ModelManifest
from streams.kafka import KafkaSettings, await_broker, consuming, read_to_end


class NotPublished(LinkcastError):
    """No bundle on topic `models` is the one that was asked for, or it isn't where the topic says."""


async def published(kafka: KafkaSettings, *, prefix: str, version: str | None) -> ModelManifest:
    """Return the record of a version, or of the newest one; raises `NotPublished`."""
    topic = f"{prefix}models"
    found = [manifest for value in await _values(kafka, topic) if (manifest := _manifest(value))]
    of_version = [manifest for manifest in found if version in (None, manifest.version)]
    if not of_version:
        others = ", ".join(sorted({manifest.version for manifest in found})) or "none"
        raise NotPublished(
            f"topic {topic} has no {version or 'bundle'} (there: {others}): run 'linkcast train --publish'"
        )
    return max(of_version, key=lambda manifest: manifest.published_at)


async def _values(kafka: KafkaSettings, topic: str) -> list[bytes]:
    """Return the values of a topic from its beginning to its end of now."""
    await await_broker(kafka)
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(), enable_auto_commit=False, auto_offset_reset="earliest",
        isolation_level="read_committed",
    )  # fmt: skip
    async with consuming(consumer):
        await consumer._client.force_metadata_update()
        partitions = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic) or ()]
        if not partitions:
            raise NotPublished(f"no topic {topic} here: run 'linkcast topics apply', then 'linkcast train --publish'")
        return [
            record.value
            for partition in partitions
            async for records in read_to_end(consumer, partition)
            for record in records
            if record.value
        ]


def _manifest(value: bytes) -> ModelManifest | None:
    try:
        return msgspec.json.decode(value, type=ModelManifest)
    except ValueError:
        return None  # the workers say so; there may be others


def bundle_folder(manifest: ModelManifest) -> Path:
    """Return the folder of a published bundle; `NotPublished` where it can't be read here or is another one.

    >>> bundle_folder(ModelManifest(version="v7", location="s3://b/v7", manifest_sha256="0" * 64, published_at=0))
    Traceback (most recent call last):
    infra.sagemaker.published.NotPublished: v7 is at s3://b/v7, which is no folder here: run this where the workers run
    """
    location = urlsplit(manifest.location)
    if location.scheme not in ("", "file"):
        raise NotPublished(
            f"{manifest.version} is at {manifest.location}, which is no folder here: run this where the workers run"
        )
    folder = Path(unquote(location.path) if location.scheme else manifest.location)
    try:
        sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    except OSError as error:
        raise NotPublished(
            f"{folder}: {error.strerror}, and topic models says that {manifest.version} is there"
        ) from error
    if sha256 != manifest.manifest_sha256:
        raise NotPublished(f"{folder}: its manifest is not the one that was published as {manifest.version}")
    return folder


def read(kafka: KafkaSettings, *, prefix: str, version: str | None) -> Path:
    """Return the folder of a version on topic `models`, or of the newest one; raises `NotPublished`."""
    return bundle_folder(asyncio.run(published(kafka, prefix=prefix, version=version)))
