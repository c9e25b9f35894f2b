"""A snapshot is the state: whoever goes on from one gives the bytes that an uninterrupted run gives."""

import random
import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract import METRICS, STREAM_ID_BYTES_MAX
from streams.features.kernel import Columns
from streams.features.snapshot import (
    Chunks,
    Manifest,
    SnapshotRefused,
    check,
    checksums,
    chunks_in,
    copy_dirty,
    ids_in,
    manifest_in,
    records,
)
from streams.features.stream_table import StreamTable
from tests.streams.strategies import T0


def arrivals(seed: int, streams: int, events: int) -> tuple[list[str], Columns]:
    """Events of streams that come and go, with gaps, late ones and repeats, and metrics that are missing."""
    draw = np.random.default_rng(seed)
    at = T0 + np.cumsum(
        draw.choice([0, 5_000, 30_000, 900_000, 90_000_000], events, p=[0.6, 0.2, 0.17, 0.0299, 0.0001])
    )
    slot = np.minimum(draw.geometric(2 / streams, events) - 1, streams - 1)
    ts = at - draw.choice([0, 7_000, 400_000, 700_000], events, p=[0.9, 0.05, 0.04, 0.01])
    metrics = draw.gamma(2.0, 10.0, (events, len(METRICS)))
    metrics[draw.random(metrics.shape) < 0.1] = np.nan
    return [f"node-{s % 5}/{s}" for s in slot], Columns(slot, ts, metrics, np.zeros_like(ts))


class Log:
    """The compacted topic: the newest value of each key."""

    def __init__(self) -> None:
        self.newest: dict[bytes, bytes] = {}
        self._crc: dict[str, int] = {}
        self._ids = 0

    def write(self, table: StreamTable, next_offset: int) -> Chunks:
        chunks = copy_dirty(table.parts(), table.ids, self._ids)
        self._ids = len(table.ids)
        self._crc |= checksums(chunks)
        manifest = Manifest(
            feature_code="f", next_offset=next_offset, streams=self._ids, model="m", crc=dict(self._crc)
        )
        self.newest |= dict(records(chunks, manifest))
        return chunks


def restored(log: Log) -> StreamTable:
    manifest = manifest_in(log.newest)
    assert manifest is not None
    chunks = chunks_in(log.newest, manifest)
    table = StreamTable()
    table.restore(ids_in(chunks), chunks)
    return table


def advance(table: StreamTable, ids: list[str], columns: Columns, first: int, last: int) -> list[bytes]:
    slot = table.slots(ids[first:last])
    disposition, rows = table.advance(Columns(slot, *(column[first:last] for column in columns[1:])))
    return [disposition.tobytes(), *(np.ascontiguousarray(column).tobytes() for column in rows)]


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 1_999), max_size=6, unique=True))
def test_going_on_from_any_snapshot_gives_the_bytes_of_an_uninterrupted_run(seed: int, cuts: list[int]) -> None:
    ids, columns = arrivals(seed, streams=40, events=2_000)
    edges = [0, *sorted(cuts), 2_000]
    whole, table, log = StreamTable(), StreamTable(), Log()
    for first, last in pairwise(edges):
        assert advance(table, ids, columns, first, last) == advance(whole, ids, columns, first, last)
        log.write(table, last)
        table = restored(log)


def test_a_second_snapshot_writes_only_what_changed() -> None:
    table, log = StreamTable(), Log()
    ids = [f"node/{i}" for i in range(100)]
    metrics = np.full((100, len(METRICS)), 7.0)
    for minute in range(60):
        table.advance(Columns(table.slots(ids), np.full(100, T0 + minute * 60_000), metrics, np.zeros(100, np.int64)))
    first = log.write(table, 1)
    table.advance(Columns(table.slots(ids), np.full(100, T0 + 3_600_000), metrics, np.zeros(100, np.int64)))

    second = log.write(table, 2)

    assert {key.split("/")[0] for key in second} == {"head", "recent", "5m", "15m", "1h", "closed"}
    assert len(second) == 9 < len(first)  # a minute on: 4 panes of 15 s, and one of everything else
    assert log.write(table, 3) == {}


@pytest.mark.parametrize("harm", ["missing", "truncated", "flipped", "older"])
def test_a_chunk_that_is_not_the_one_meant_is_refused(harm: str) -> None:
    ids, columns = arrivals(seed=1, streams=30, events=500)
    table, log = StreamTable(), Log()
    advance(table, ids, columns, 0, 250)
    log.write(table, 250)
    older = dict(log.newest)
    advance(table, ids, columns, 250, 500)
    log.write(table, 500)
    key = b"head/0/0"
    value = log.newest[key]
    if harm == "missing":
        del log.newest[key]
    elif harm == "truncated":
        log.newest[key] = value[:-3]
    elif harm == "flipped":
        at = random.Random(1).randrange(len(value))
        log.newest[key] = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    else:
        log.newest[key] = older[key]

    with pytest.raises(SnapshotRefused, match="head/0/0"):
        restored(log)


def test_any_flipped_bit_of_the_manifest_is_refused() -> None:
    log = Log()
    log.write(StreamTable(), 77)
    value = log.newest[b"manifest"]
    for at in range(len(value)):
        log.newest[b"manifest"] = value[:at] + bytes([value[at] ^ 4]) + value[at + 1 :]
        with pytest.raises(SnapshotRefused, match="manifest is damaged"):
            manifest_in(log.newest)


def test_the_longest_ids_there_may_be_fit_into_records_and_come_back_in_order() -> None:
    draw = random.Random(1)
    ids = ["".join(draw.choices(string.printable[:94], k=STREAM_ID_BYTES_MAX)) for _ in range(10_000)]
    manifest = Manifest(feature_code="f", next_offset=1, streams=0, model="m", crc={})

    first = copy_dirty((), ids[:5_000], 0)
    chunks = first | copy_dirty((), ids, 5_000)

    assert max(len(value) for _, value in records(chunks, manifest)) < 1 << 20
    assert ids_in(chunks) == ids
    assert copy_dirty((), ids, len(ids)) == {}


def test_a_snapshot_of_another_layout_is_refused() -> None:
    manifest = Manifest(schema=1, feature_code="f", next_offset=1, streams=0, model="m", crc={})

    with pytest.raises(SnapshotRefused, match="schema 1"):
        check(manifest, feature_code="f")


def test_a_snapshot_of_other_code_is_refused() -> None:
    manifest = Manifest(feature_code="a" * 64, next_offset=1, streams=0, model="m", crc={})

    check(manifest, feature_code="a" * 64)
    with pytest.raises(SnapshotRefused, match="another feature code"):
        check(manifest, feature_code="b" * 64)
