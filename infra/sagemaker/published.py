"""The bundles on topic `models`, and where the folder of one is."""

import asyncio
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from online.models.publish import folder_of
from streams.contract import LinkcastError, ModelManifest
from streams.inside_aiokafka import fetch_metadata
from streams.kafka import KafkaSettings, await_broker, consuming, read_to_end


class NotPublished(LinkcastError):
    """No bundle on topic `models` is the one that was asked for."""


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
        await fetch_metadata(consumer)
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


def read(kafka: KafkaSettings, *, prefix: str, version: str | None) -> Path:
    """Return the folder of a version on topic `models`, or of the newest; raises `NotPublished`, `BundleRefused`."""
    return folder_of(asyncio.run(published(kafka, prefix=prefix, version=version)))
