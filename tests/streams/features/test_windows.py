"""A stream may leave memory once it has been idle for a day and an hour, and nobody can tell from what comes later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract import IDLE_MS, METRICS, MetricEvent
from streams.features import windows
from streams.features.kernel import ROW, TOO_LATE, Columns
from streams.features.snapshot import copy_dirty, put
from streams.features.stream_table import StreamTable
from tests.streams.strategies import T0, runs

HOUR_MS = 3_600_000
SEEN = 1_800_000_000_000


def advance(table: StreamTable, events: list[MetricEvent], seen: int) -> list[bytes]:
    """Take events of a node whose records the broker took at `seen`; return the bytes of all that came of it."""
    metrics = np.array([[getattr(e, m) for m in METRICS] for e in events], np.float64).reshape(-1, len(METRICS))
    ts = np.array([e.ts for e in events], np.int64)
    slot = table.slots([e.stream_id for e in events])
    disposition, rows = table.advance(Columns(slot, ts, metrics, np.full(len(events), seen)))
    return [disposition.tobytes(), *(np.ascontiguousarray(column).tobytes() for column in rows)]


def at(*times_ms: int) -> list[MetricEvent]:
    return [MetricEvent(stream_id="leaf/1", ts=ts, latency_p99=5.0) for ts in times_ms]


def dispositions(table: StreamTable, events: list[MetricEvent], seen: int) -> list[int]:
    return np.frombuffer(advance(table, events, seen)[0], np.int8).tolist()


@given(before=runs(events_max=15), after=runs(events_max=15), idle_ms=st.integers(IDLE_MS + 1, 10**12))
@settings(max_examples=60, deadline=None)
def test_a_stream_that_was_forgotten_and_one_that_was_not_go_on_alike(
    before: list[MetricEvent], after: list[MetricEvent], idle_ms: int
) -> None:
    kept, forgotten = StreamTable(), StreamTable()
    for table in (kept, forgotten):
        advance(table, before, SEEN)
    windows.forget(forgotten.windows, windows.idle(forgotten.windows, 1, SEEN + idle_ms))

    assert not forgotten.windows.bytes[0].any()
    gone_on = advance(kept, after, SEEN + idle_ms)
    assert gone_on == advance(forgotten, after, SEEN + idle_ms)
    assert gone_on == advance(StreamTable(), after, SEEN + idle_ms)


def test_25_hours_to_the_millisecond_are_not_idle_yet() -> None:
    table = StreamTable()
    advance(table, at(T0), SEEN)

    assert windows.idle(table.windows, 1, SEEN + 25 * HOUR_MS).tolist() == []
    assert windows.idle(table.windows, 1, SEEN + 25 * HOUR_MS + 1).tolist() == [0]
    assert dispositions(table, at(T0 - HOUR_MS), SEEN + 25 * HOUR_MS) == [TOO_LATE]
    assert dispositions(table, at(T0 - HOUR_MS), SEEN + 25 * HOUR_MS + 1) == [ROW]


def test_a_slot_that_no_stream_has_used_is_not_idle() -> None:
    assert windows.idle(windows.empty(8), 8, SEEN).tolist() == []


def test_without_a_broker_no_stream_is_forgotten() -> None:
    table = StreamTable()
    advance(table, at(T0), 0)

    assert dispositions(table, at(T0 + 1_000 * HOUR_MS, T0), 0) == [ROW, TOO_LATE]


def test_what_is_rejected_keeps_no_stream_in_memory() -> None:
    # A clock that once ran a year ahead makes all that follows too late: a day later the stream starts anew.
    table = StreamTable()
    advance(table, at(T0 + 9_000 * HOUR_MS), SEEN)

    assert dispositions(table, at(T0), SEEN + 20 * HOUR_MS) == [TOO_LATE]
    assert dispositions(table, at(T0), SEEN + 26 * HOUR_MS) == [ROW]


@pytest.mark.parametrize("by", ["forget", "event"])
def test_a_snapshot_of_changes_carries_that_a_stream_was_forgotten(by: str) -> None:
    table = StreamTable()
    for pane in range(100):
        advance(table, at(T0 + pane * 900_000 + 1, T0 + pane * 900_000 + 60_000), SEEN)
    log = copy_dirty(table.parts(), table.ids, 0)
    if by == "forget":
        windows.forget(table.windows, np.array([0]))
    else:
        advance(table, at(T0), SEEN + 26 * HOUR_MS)
    log |= copy_dirty(table.parts(), table.ids, 1)

    restored = windows.empty(1)
    put(windows.parts(restored), log)

    assert by == "event" or not restored.bytes.any()
    later = [advance(t, at(T0 + 1, T0 + 61_000), SEEN + 26 * HOUR_MS) for t in (table, _with(restored))]
    assert later[0] == later[1]


def _with(state: windows.Windows) -> StreamTable:
    table = StreamTable()
    table.slots(["leaf/1"])
    table.windows = state
    return table


def test_a_stream_takes_at_most_3000_bytes() -> None:
    assert windows.STREAM.itemsize <= 3_000
    assert windows.empty(10).bytes.nbytes == 10 * windows.STREAM.itemsize


def test_growing_keeps_every_stream_and_what_has_changed() -> None:
    table = StreamTable(streams_max=3)
    advance(table, at(T0, T0 + 1), SEEN)

    larger = windows.grown(table.windows, 5_000)

    assert larger.bytes[0].tobytes() == table.windows.bytes[0].tobytes()
    assert larger.dirty.tobytes() == table.windows.dirty.tobytes()
    assert not larger.bytes[1:].any()
