"""Live against replayed: the log of `metrics` through the kernel once more, and every feature compared bit for bit."""

from typing import NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from numpy.typing import NDArray

from streams import feature_batch
from streams.contract import FEATURES, LinkcastError
from streams.kafka import KafkaSettings, await_broker, read_to_end
from streams.partition import Advanced, advance
from streams.recovery import REBUILD_MS
from streams.stream_table import StreamTable

SHOWN_MAX = 20
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


async def verify(kafka: KafkaSettings, *, prefix: str, time_zone: str = "UTC") -> Verified:
    """Replay each partition of `metrics` from its beginning and compare it with `features`.

    Where retention has passed the beginning, the first 25 hours only fill the windows. Raises `NothingToVerify`.
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
        await consumer._client.force_metadata_update()
        for number in sorted(consumer.partitions_for_topic(f"{prefix}metrics") or ()):
            live = await _live(consumer, TopicPartition(f"{prefix}features", number))
            table = StreamTable(time_zone=time_zone)
            await _compare(consumer, TopicPartition(f"{prefix}metrics", number), table, live, found)
    if not found.events:
        raise NothingToVerify(f"no row of {prefix}features has its event on {prefix}metrics: has a worker run?")
    return found


async def _live(consumer: AIOKafkaConsumer, tp: TopicPartition) -> _Live:
    keys, features = [np.empty(0, np.int64)], [np.empty((0, len(FEATURES)), np.float32)]
    async for records in read_to_end(consumer, tp, records_max=8_192):
        for record in records:
            table = feature_batch.decode(record.value)
            keys.append(table["offset"].to_numpy() * _ELEMENTS + table["element"].to_numpy())
            features.append(np.stack([table[name].to_numpy() for name in FEATURES], axis=1))
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    return _Live(key[order], np.concatenate(features)[order])


async def _compare(
    consumer: AIOKafkaConsumer, tp: TopicPartition, table: StreamTable, live: _Live, found: Verified
) -> None:
    covered = np.zeros(live.key.size + 1, np.int64)  # +1 where rows of an event begin, −1 where they end
    compare_from_ms = None
    async for records in read_to_end(consumer, tp, records_max=8_192):
        if compare_from_ms is None:
            compare_from_ms = 0 if records[0].offset == 0 else records[0].timestamp + REBUILD_MS
        replayed = advance(table, records)
        key = replayed.offset * _ELEMENTS + replayed.element
        first, last = np.searchsorted(live.key, key, "left"), np.searchsorted(live.key, key, "right")
        np.add.at(covered, first, 1)
        np.add.at(covered, last, -1)
        time_of = {record.offset: record.timestamp for record in records}
        is_known = np.array([time_of[offset] >= compare_from_ms for offset in replayed.offset.tolist()], np.bool_)
        is_known &= key <= live.key.max(initial=-1)  # what is newer, the worker has yet to do
        found.missing += int(np.count_nonzero(is_known & (first == last)))
        _compare_rows(tp.partition, live, replayed, table.ids, first, np.where(is_known, last - first, 0), found)
    if compare_from_ms == 0:
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
