"""Topic `state`: the snapshots of one source partition, written by its owner alone.

The keys begin with the group, since each group has read as far as it has. The transactional id names the partition, so
that whoever opens it fences the owner before (KIP-98): a worker that lost the partition while it was paused can't
overwrite a newer snapshot, it is told so by `ProducerFenced`.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.features.snapshot import Chunks, Manifest, checksums, records
from streams.group.failpoints import reached
from streams.kafka import KafkaSettings, consuming, read_to_end, stop_producer, transactional_producer

SCHEDULE = b"turns"
"""Key of the record that says from which offset on something else than the log takes effect. It keeps its first name:
under another, a worker would score a log by other models than the worker before the update."""


def key_of(group: str, key: bytes) -> bytes:
    """Return the key on the topic of what a group calls `key`."""
    return group.encode() + b"/" + key


def of_group(group: str, newest: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    """Return what is a group's of the newest records by key, by the keys that it calls them."""
    mine = key_of(group, b"")
    return {key.removeprefix(mine): value for key, value in newest.items() if key.startswith(mine) and value}


class StateTopic:
    """The snapshots of one partition, as an open connection; `open` it, and `close` it when the partition goes."""

    def __init__(self, kafka: KafkaSettings, *, prefix: str, group: str, partition: int) -> None:
        self._kafka = kafka
        self._tp = TopicPartition(f"{prefix}state", partition)
        self._transactional_id = f"{prefix}{group}-{partition}"
        self._group = group
        self._producer: Any = None  # until it is opened
        self._crc: dict[str, int] = {}
        self._one_at_a_time = asyncio.Lock()  # a producer has one transaction

    async def open(self) -> dict[bytes, bytes]:
        """Fence whoever owned the partition, and return the newest record of each key.

        Raises as `transactional_producer`.
        """
        self._producer = await transactional_producer(self._kafka, self._transactional_id)
        try:
            return await self._newest()
        except BaseException:
            await self.close()
            raise

    async def _newest(self) -> dict[bytes, bytes]:
        newest: dict[bytes, bytes] = {}
        consumer = AIOKafkaConsumer(
            **self._kafka.client_arguments(),
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=16 << 20,
        )
        async with consuming(consumer):
            async for records in read_to_end(consumer, self._tp):
                newest |= {record.key: record.value for record in records}
        return of_group(self._group, newest)

    def adopt(self, crc: Mapping[str, int]) -> None:
        """Go on from the snapshot that has these checksums."""
        self._crc = dict(crc)

    async def write(self, chunks: Chunks, **manifest: Any) -> None:
        """Write a snapshot whole: its chunks and the manifest, with the fields given, in one transaction.

        Raises aiokafka's errors; `ProducerFenced` where another owner has opened the partition.
        """
        self._crc |= await asyncio.to_thread(checksums, chunks)
        whole = await asyncio.to_thread(records, chunks, Manifest(crc=self._crc, **manifest))
        async with self._one_at_a_time, self._producer.transaction():
            sent = []
            for i, (key, value) in enumerate(whole):
                if i == len(whole) // 2:
                    reached("snapshot_half_sent")
                sent.append(await self._send(key, value))
            # aiokafka 0.14 commits even if a batch failed, and only its future knows: ask each one.
            await asyncio.gather(*sent)
            reached("snapshot_sent")
        reached("snapshot_written")

    async def write_schedule(self, record: bytes | None) -> None:
        """Put on record what takes effect from which offset on, None to forget it; raises as `write` does."""
        async with self._one_at_a_time, self._producer.transaction():
            await (await self._send(SCHEDULE, record))
        reached("schedule_written")

    async def _send(self, key: bytes, value: bytes | None) -> asyncio.Future[Any]:
        sent: asyncio.Future[Any] = await self._producer.send(
            self._tp.topic, value, key=key_of(self._group, key), partition=self._tp.partition
        )
        return sent

    async def close(self) -> None:
        """Let go of the partition."""
        if self._producer:
            await stop_producer(self._producer)
