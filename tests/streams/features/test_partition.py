"""The owner of a partition accounts for every event, and never shows where one fetch ends and the next begins."""

import itertools
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.features.partition import Advanced, advance, dead_letter
from streams.features.stream_table import StreamTable
from streams.features.windows import LATENESS_MS
from streams.topics import DEAD_KEY_BYTES_MAX, DEAD_VALUE_BYTES_MAX
from tests.streams.strategies import T0, USUAL, fabrics, reading


def log_of(values: list[bytes]) -> list[SimpleNamespace]:
    """A partition's log; an offset is missing now and then, as where a transaction ended."""
    return [
        SimpleNamespace(offset=offset + offset // 5, timestamp=1 << 42, key=b"leaf-1", value=value, headers=())
        for offset, value in enumerate(values)
    ]


def carried(log: list[SimpleNamespace], cuts: list[int], *, table: StreamTable | None = None) -> list[Advanced]:
    table = table or StreamTable(streams_max=2)
    edges = [0, *sorted(cut % (len(log) + 1) for cut in cuts), len(log)]
    return [advance(table, log[start:end]) for start, end in itertools.pairwise(edges)]


def put_out(log: list[SimpleNamespace], cuts: list[int]) -> list:
    """All that leaves, but for the order of dead letters within a fetch."""
    table, rows = StreamTable(streams_max=2), []
    advanced = carried(log, cuts, table=table)
    for a in advanced:
        where = zip(a.slot.tolist(), a.ts.tolist(), a.offset.tolist(), a.element.tolist(), strict=True)
        verdict = zip(a.rows.label.tolist(), a.rows.rule_risk.tolist(), a.rows.confidence.tolist(), strict=True)
        rows += zip(where, verdict, map(bytes, a.rows.features.view(np.uint8)), strict=True)
    dead = sorted((r.record.offset, r.element, r.reason, r.detail, r.value) for a in advanced for r in a.rejected)
    return [table.ids, rows, dead, sum(a.late for a in advanced), sum(a.repeats for a in advanced)]


VALUES = fabrics().flatmap(
    lambda events: st.lists(st.sampled_from([1, 1, 1, 3]), min_size=len(events), max_size=len(events)).map(
        lambda sizes: in_records(events, sizes)
    )
)


def in_records(events: list, sizes: list[int]) -> list[bytes]:
    values, rest = [], list(events)
    for size in sizes:
        sweep, rest = rest[:size], rest[size:]
        if sweep:
            values.append(msgspec.json.encode(sweep[0] if size == 1 else sweep))
    return [*values, b"not an event"]


@settings(deadline=None, max_examples=15)
@given(VALUES, st.lists(st.integers(0, 100), max_size=8))
def test_any_cut_of_the_log_into_fetches_puts_out_the_same_bits(values, cuts) -> None:
    log = log_of(values)

    assert put_out(log, cuts) == put_out(log, [])


@settings(deadline=None, max_examples=15)
@given(fabrics())
def test_each_event_is_a_row_late_a_repeat_or_rejected(events) -> None:
    (advanced,) = carried(log_of(in_records(events, [1] * len(events))), [])

    assert len(advanced.ts) + advanced.late + advanced.repeats + len(advanced.rejected) == len(events) + 1


@pytest.mark.parametrize(("behind_ms", "late", "reasons"), [(LATENESS_MS, 1, []), (LATENESS_MS + 1, 0, ["too_late"])])
def test_an_event_exactly_as_late_as_allowed_still_counts(behind_ms, late, reasons) -> None:
    events = [reading(T0, USUAL), reading(T0 - behind_ms, USUAL)]

    (advanced,) = carried(log_of([msgspec.json.encode(event) for event in events]), [])

    assert (advanced.late, [dead.reason for dead in advanced.rejected]) == (late, reasons)


def test_one_stream_too_many_is_rejected_and_the_others_go_on() -> None:
    sweep = [reading(T0, USUAL, stream_id=f"leaf-1/{port}") for port in (1, 2, 3, 1)]
    sweep[3] = reading(T0 + 1, USUAL, stream_id="leaf-1/1")

    table = StreamTable(streams_max=2)
    (advanced,) = carried(log_of([msgspec.json.encode(sweep)]), [], table=table)

    assert [table.ids[slot] for slot in advanced.slot] == ["leaf-1/1", "leaf-1/2", "leaf-1/1"]
    assert advanced.element.tolist() == [0, 1, 3]
    (dead,) = advanced.rejected
    assert (dead.reason, dead.element, dead.value) == ("too_many_streams", 2, msgspec.json.encode(sweep[2]))


@pytest.mark.parametrize("extra", [0, 1])
def test_a_dead_letter_too_large_for_its_topic_is_cut_and_says_so(extra) -> None:
    key, value = b"k" * (DEAD_KEY_BYTES_MAX + extra), b" " * (DEAD_VALUE_BYTES_MAX + extra)
    [carried_] = carried([SimpleNamespace(offset=0, timestamp=1 << 42, key=key, value=value, headers=())], [])

    letter = dead_letter(carried_.rejected[0], topic="metrics", partition=0)

    assert (letter.key, letter.value) == (key[:DEAD_KEY_BYTES_MAX], value[:DEAD_VALUE_BYTES_MAX])
    detail = dict(letter.headers)["detail"].decode()
    assert (f"cut from {len(value)} bytes; its key cut from {len(key)} bytes" in detail) == bool(extra)


def test_a_repeat_is_dropped_and_leaves_the_next_row_as_it_was() -> None:
    first, last = reading(T0, USUAL), reading(T0 + 1_000, USUAL)
    with_repeat = [msgspec.json.encode(event) for event in (first, first, last)]

    (advanced,) = carried(log_of(with_repeat), [])
    (without,) = carried(log_of([with_repeat[0], with_repeat[2]]), [])

    assert advanced.repeats == 1
    np.testing.assert_array_equal(advanced.rows.features.view(np.uint32), without.rows.features.view(np.uint32))
