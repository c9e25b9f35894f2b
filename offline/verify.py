"""Live against replayed: the log of `metrics` through the kernel once more, and every feature compared bit for bit."""

from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from numpy.typing import NDArray

from streams.contract import FEATURES, IDLE_MS, LinkcastError
from streams.features import record_batch
from streams.features.partition import Advanced, advance
from streams.features.stream_table import STREAMS_MAX, StreamTable
from streams.inside_aiokafka import fetch_metadata
from streams.kafka import KafkaSettings, await_broker, read_to_end

SHOWN_MAX = 20
_CLOCKS_APART_MS = 7_200_000
"""By so much may the clock of the broker of `features` be behind that of `metrics`."""
_ELEMENTS = 1 << 20  # of one record: more than its bytes could hold


class NothingToVerify(LinkcastError):
    """No feature row that the log of metrics still explains."""


class Difference(msgspec.Struct, frozen=True):
    """One feature that live and replay do not agree on, with the event it comes from."""

    source: str  # partition:offset:index
    stream_id: str
    feature: str
    live: float
    replayed: float


class Verified(msgspec.Struct, kw_only=True):
    """What was compared; `differing`, `missing` and `unexplained` are 0 where all is well."""

    events: int = 0  # rows compared, repeats after a crash included
    differing: int = 0
    missing: int = 0  # events that should have a row before the newest one and have none
    unexplained: int = 0  # rows of events that the replay does not give
    differences: list[Difference] = []


class _Live(NamedTuple):
    """The rows of one partition of `features`, by source."""

    key: NDArray[np.int64]  # (n,) ascending; offset and element in one number
    features: NDArray[np.float32]  # (n, 24)


class _Span(NamedTuple):
    """Offsets of one partition of `metrics`, `replayed` ≤ `first` ≤ `end`; what lies before `first` fills windows."""

    tp: TopicPartition
    replayed: int
    first: int
    end: int


async def verify(
    kafka: KafkaSettings,
    *,
    prefix: str,
    time_zone: str = "UTC",
    streams_max: int = STREAMS_MAX,
    from_ms: int = 0,
    until_ms: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Verified:
    """Replay each partition of `metrics` and compare what it gives with `features`.

    Of events that the broker stamped in [`from_ms`, `until_ms`), the end of the log where that is None; the 25 hours
    before only fill the windows, as do the first 25 where retention has passed the beginning. `time_zone` and
    `streams_max` are those of the workers; `progress` is told the share of the log that is done. Raises
    `NothingToVerify`.
    """
    await await_broker(kafka)
    found = Verified()
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=16 << 20,
    )
    async with consumer:
        await fetch_metadata(consumer)
        numbers = sorted(consumer.partitions_for_topic(f"{prefix}metrics") or ())
        partitions = [TopicPartition(f"{prefix}metrics", number) for number in numbers]
        spans = [await _span(consumer, tp, from_ms, until_ms) for tp in partitions]
        whole, done = max(1, sum(span.end - span.replayed for span in spans)), 0
        for span in spans:
            live = await _live(consumer, TopicPartition(f"{prefix}features", span.tp.partition), span, from_ms)
            table = StreamTable(time_zone=time_zone, streams_max=streams_max)
            async for offset in _compare(consumer, span, table, live, found):
                progress((done + offset - span.replayed) / whole)
            done += span.end - span.replayed
    if not found.events:
        raise NothingToVerify(
            f"no row of {prefix}features has its event in this span of {prefix}metrics: has a worker run?"
        )
    return found


async def _span(consumer: AIOKafkaConsumer, tp: TopicPartition, from_ms: int, until_ms: int | None) -> _Span:
    end = await _offset_at(consumer, tp, until_ms)
    replayed, first = [min(end, await _offset_at(consumer, tp, ms)) for ms in (from_ms - IDLE_MS, from_ms)]
    return _Span(tp, replayed, first, end)


async def _offset_at(consumer: AIOKafkaConsumer, tp: TopicPartition, ms: int | None) -> int:
    """Return where the records from that time on begin, by the broker's clock; the log's end if `ms` is None."""
    found = None if ms is None else (await consumer.offsets_for_times({tp: max(0, ms)}))[tp]
    return int(found.offset if found else (await consumer.end_offsets([tp]))[tp])


async def _live(consumer: AIOKafkaConsumer, tp: TopicPartition, span: _Span, from_ms: int) -> _Live:
    keys, features = [np.empty(0, np.int64)], [np.empty((0, len(FEATURES)), np.float32)]
    start = await _offset_at(consumer, tp, from_ms - _CLOCKS_APART_MS)
    async for records in read_to_end(consumer, tp, start=start, records_max=8_192):
        for record in records:
            table = record_batch.decode(record.value)
            offset = table["offset"].to_numpy()
            is_within = (span.first <= offset) & (offset < span.end)
            if is_within.any():
                rows = np.stack([table[name].to_numpy() for name in FEATURES], axis=1)
                keys.append((offset * _ELEMENTS + table["element"].to_numpy())[is_within])
                features.append(rows[is_within])
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    return _Live(key[order], np.concatenate(features)[order])


async def _compare(
    consumer: AIOKafkaConsumer, span: _Span, table: StreamTable, live: _Live, found: Verified
) -> AsyncIterator[int]:
    """Compare batch by batch, and yield the offset up to which that is done."""
    covered = np.zeros(live.key.size + 1, np.int64)  # +1 where rows of an event begin, −1 where they end
    beginning = (await consumer.beginning_offsets([span.tp]))[span.tp]
    # From the log's own first record, or 25 h behind one that retention has left first.
    is_whole = span.replayed == 0 or span.replayed > beginning
    compare_from_ms = 0 if is_whole else None
    async for records in read_to_end(consumer, span.tp, start=span.replayed, records_max=8_192):
        records = [record for record in records if record.offset < span.end]
        if not records:
            break
        if compare_from_ms is None:
            compare_from_ms = records[0].timestamp + IDLE_MS
        replayed = advance(table, records)
        key = replayed.offset * _ELEMENTS + replayed.element
        first, last = np.searchsorted(live.key, key, "left"), np.searchsorted(live.key, key, "right")
        np.add.at(covered, first, 1)
        np.add.at(covered, last, -1)
        time_of = {record.offset: record.timestamp for record in records}
        is_known = np.array([time_of[offset] >= compare_from_ms for offset in replayed.offset.tolist()], np.bool_)
        is_known &= (span.first <= replayed.offset) & (key <= live.key.max(initial=-1))  # newer: yet to be done
        found.missing += int(np.count_nonzero(is_known & (first == last)))
        _compare_rows(span.tp.partition, live, replayed, table.ids, first, np.where(is_known, last - first, 0), found)
        yield records[-1].offset + 1
    if is_whole:
        found.unexplained += int(np.count_nonzero(covered.cumsum()[:-1] == 0))


def _compare_rows(
    partition: int,
    live: _Live,
    replayed: Advanced,
    ids: list[str],
    first: NDArray[np.intp],
    copies: NDArray[np.intp],
    found: Verified,
) -> None:
    """Compare each replayed row with its `copies` live rows, which begin at `first`; both of shape (rows,)."""
    mine = np.repeat(np.arange(copies.size), copies)
    theirs = np.arange(mine.size) + np.repeat(first - (copies.cumsum() - copies), copies)
    # As bits: NaN is equal to itself, and 0 isn't −0.
    differs = live.features[theirs].view(np.uint32) != replayed.rows.features[mine].view(np.uint32)
    found.events += mine.size
    found.differing += int(np.count_nonzero(differs.any(axis=1)))
    for copy, feature in np.argwhere(differs)[: SHOWN_MAX - len(found.differences)].tolist():
        row = mine[copy]
        found.differences.append(
            Difference(
                source=f"{partition}:{replayed.offset[row]}:{replayed.element[row]}",
                stream_id=ids[replayed.slot[row]],
                feature=FEATURES[feature],
                live=float(live.features[theirs[copy], feature]),
                replayed=float(replayed.rows.features[row, feature]),
            )
        )
