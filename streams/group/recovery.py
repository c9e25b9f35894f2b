"""Where a partition's new owner goes on: from the snapshot on topic `state`, else from `metrics` itself.

Up to the committed offset the log is replayed without output: what was put out before is not put out again.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from streams.contract import IDLE_MS, LinkcastError
from streams.features.snapshot import Manifest, SnapshotRefused, chunks_in, manifest_in
from streams.group.failpoints import reached
from streams.group.owner import Owner
from streams.group.raw_records import AS_ARRAYS
from streams.kafka import KafkaSettings, consuming

log = logging.getLogger(__name__)


class GapRefused(LinkcastError):
    """Records that the state needs are gone from the topic."""


class Resumed(NamedTuple):
    """Where to read from and where output begins."""

    start: int
    emit_from: int
    end: int  # of the log, now
    seen: int  # broker's time of the record before `start`, ms, -1 where nobody knows
    crc: dict[str, int]  # checksums of the snapshot gone on from, by chunk
    is_another_log: bool  # than the one that the records on topic `state` speak of: their offsets mean nothing here


async def resume(
    kafka: KafkaSettings,
    consumer: AIOKafkaConsumer,
    tp: TopicPartition,
    owner: Owner,
    newest: Mapping[bytes, bytes],
    *,
    partitions: int,
    accept_gap: bool,
) -> Resumed:
    """Restore `owner` from the newest records of topic `state`, and say where the partition `tp` goes on.

    `consumer` is the group's, with `tp` assigned. Raises `GapRefused` where retention has passed what the state needs
    and that isn't accepted, and aiokafka's errors.
    """
    committed = await consumer.committed(tp)
    first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
    is_another_log = (committed or 0) > end or await _is_another_log(kafka, tp, newest, end)
    if is_another_log:
        log.error("%s: the topic was made anew, it ends at %d: reading it whole", tp, end)
        committed, newest = None, {}
    manifest = await _restored(tp, owner, newest)
    reached("restored")
    seen, is_whole = -1, True
    if manifest is not None:
        start, seen = manifest.next_offset, manifest.seen
        if manifest.partitions not in (0, partitions):
            log.error("%s: the topic has %d partitions and had %d: streams that lie elsewhere now begin anew there",
                      tp, partitions, manifest.partitions)  # fmt: skip
    elif committed is None:
        start = first
    else:
        start, is_whole = await _rebuild_from(kafka, consumer, tp, committed, first)
    if start < first or not is_whole:
        gap = (
            f"offsets {start} to {first} passed retention unread" if is_whole else
            f"no snapshot holds, and retention has left less than 25 h before offset {committed}: from {first} on"
        )  # fmt: skip
        if not accept_gap:
            raise GapRefused(
                f"{tp.topic}-{tp.partition}: {gap}, so the windows of the day after will lack it. Start with "
                "--accept-gap to go on without."
            )
        log.error("%s: %s", tp, gap)
        start = max(start, first)
    return Resumed(start, max(start, committed or 0), end, seen, manifest.crc if manifest else {}, is_another_log)


async def _is_another_log(kafka: KafkaSettings, tp: TopicPartition, newest: Mapping[bytes, bytes], end: int) -> bool:
    """Whether the snapshot is of a topic that was there before: offsets come again, the broker's time doesn't."""
    try:
        manifest = manifest_in(newest)
    except SnapshotRefused:
        return False
    if manifest is None or manifest.next_offset > end:
        return manifest is not None
    before = manifest.next_offset - 1
    record = await _record_at(kafka, tp, before) if manifest.seen >= 0 else None
    return record is not None and record.offset == before and record.timestamp != manifest.seen


async def _restored(tp: TopicPartition, owner: Owner, newest: Mapping[bytes, bytes]) -> Manifest | None:
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
) -> tuple[int, bool]:
    """Return the offset `IDLE_MS` before the committed one, by the broker's time, and whether that is there yet."""
    record = await _record_at(kafka, tp, max(first, committed))
    # Nothing there yet: the committed offset is the log's end, and that is now.
    from_ms = max(0, (record.timestamp if record else int(time.time() * 1000)) - IDLE_MS)  # one may have no time
    found = (await consumer.offsets_for_times({tp: from_ms}))[tp]
    start = min(found.offset, committed) if found else committed
    if start != first or first == 0:
        return start, True
    oldest = await _record_at(kafka, tp, first)
    return start, oldest is None or oldest.timestamp <= from_ms


async def _record_at(kafka: KafkaSettings, tp: TopicPartition, offset: int) -> Any:
    """Return the first record from `offset` on, None where there is none or retention has passed it."""
    # As arrays: what a batch says of itself is not believed there.
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(), enable_auto_commit=False, auto_offset_reset="none", value_deserializer=AS_ARRAYS
    )
    async with consuming(consumer):
        consumer.assign([tp])
        consumer.seek(tp, offset)
        end = (await consumer.end_offsets([tp]))[tp]
        try:
            # However long a fetch takes: only the log's end means that nothing is there.
            while await consumer.position(tp) < end:
                for parts in (await consumer.getmany(timeout_ms=1_000, max_records=1)).values():
                    return parts[0][0]
        except OffsetOutOfRangeError:
            pass
    return None
