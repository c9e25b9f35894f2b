"""Where a partition's new owner goes on: from the snapshot on topic `state`, else from `metrics` itself.

Up to the committed offset the log is replayed without output: what was put out before is not put out again.
"""

import asyncio
import logging
import time
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.contract import LinkcastError
from streams.failpoints import reached
from streams.kafka import KafkaSettings
from streams.snapshot import Chunks, Manifest, SnapshotRefused, chunks_in, manifest_in

REBUILD_MS = 25 * 3_600_000
"""How far back state is rebuilt from where there is no snapshot: a day of baselines and the hour of the windows."""

log = logging.getLogger(__name__)


class GapRefused(LinkcastError):
    """Records that the state needs are gone from the topic."""


class Restorable(Protocol):
    """What can go on from a snapshot."""

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Take over the snapshot's state; raises `SnapshotRefused` where that is not possible."""


class Resumed(NamedTuple):
    """Where to read from, where output begins, and the checksums of the snapshot gone on from, by chunk."""

    start: int
    emit_from: int
    crc: dict[str, int]


async def resume(
    kafka: KafkaSettings,
    consumer: AIOKafkaConsumer,
    tp: TopicPartition,
    owner: Restorable,
    newest: dict[bytes, bytes],
    *,
    accept_gap: bool,
) -> Resumed:
    """Restore `owner` from the newest records of topic `state`, and say where the partition `tp` goes on.

    `consumer` is the group's, with `tp` assigned. Raises `GapRefused` where retention has passed what the state needs
    and that isn't accepted, and aiokafka's errors.
    """
    committed = await consumer.committed(tp)
    first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    if committed is not None and committed > end:
        log.error("%s: committed offset %d is past its end %d: the topic was made anew; reading it whole",
                  tp, committed, end)  # fmt: skip
        committed, newest = None, {}
    manifest = await _restored(tp, owner, newest)
    reached("restored")
    if manifest is not None:
        start = manifest.next_offset
    else:
        start = first if committed is None else await _rebuild_from(kafka, consumer, tp, committed, first)
    if start < first:
        if not accept_gap:
            raise GapRefused(
                f"{tp.topic}-{tp.partition}: offsets {start} to {first} passed retention unread, so the windows of the "
                "day after them will lack them. Start with --accept-gap to go on without."
            )
        log.error("%s: offsets %d to %d passed retention unread", tp, start, first)
        start = first
    return Resumed(start, max(start, committed or 0), manifest.crc if manifest else {})


async def _restored(tp: TopicPartition, owner: Restorable, newest: dict[bytes, bytes]) -> Manifest | None:
    try:
        manifest = manifest_in(newest)
        if manifest is not None:
            await asyncio.to_thread(lambda: owner.restore(manifest, chunks_in(newest, manifest)))
    except SnapshotRefused as error:
        log.error("%s: its snapshot is refused: %s. Rebuilding the state from the topic", tp, error)
        return None
    return manifest


async def _rebuild_from(
    kafka: KafkaSettings, consumer: AIOKafkaConsumer, tp: TopicPartition, committed: int, first: int
) -> int:
    """Return the offset `REBUILD_MS` before the committed one, by the broker's time."""
    at_ms = await _record_time(kafka, tp, max(first, committed))
    found = (await consumer.offsets_for_times({tp: at_ms - REBUILD_MS}))[tp]
    return min(found.offset, committed) if found else committed


async def _record_time(kafka: KafkaSettings, tp: TopicPartition, offset: int) -> int:
    async with AIOKafkaConsumer(**kafka.client_arguments(), enable_auto_commit=False) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, offset)
        fetched = await consumer.getmany(timeout_ms=1_000, max_records=1)
    # Nothing there yet: the committed offset is the log's end, and that is now.
    return next((records[0].timestamp for records in fetched.values()), int(time.time() * 1000))
