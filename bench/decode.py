"""Decoding a fetch costs next to nothing: its bytes to columns and slots, beside msgspec with an object an event.

Ours begins with the broker's record batch, msgspec's way with the records that aiokafka has made of it. CPU time, the
least of several rounds in which both ways take turns; every field of both answers is compared.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiokafka import ConsumerRecord
from numpy.typing import NDArray

from bench.cluster import START_MS
from bench.events import records as events_as_records
from streams.contract import MetricEvent
from streams.features.stream_ids import StreamIds
from streams.inside_aiokafka import DefaultRecordBatchBuilder
from streams.wire import arrow_sweep
from streams.wire.decode import decode
from streams.wire.events import decode_events, metrics_of
from streams.wire.fetched import read

STREAMS = 1_024
_PASS_EVENTS = 8_192  # of one timing


class Columns(NamedTuple):
    """What both ways give of a fetch, column by column."""

    slot: NDArray[np.int64]
    ts: NDArray[np.int64]
    metrics: NDArray[np.float64]
    record: NDArray[np.int64]


def bench(*, events: int = 65_536, rounds: int = 15) -> dict[str, float]:
    """Measure µs of CPU an event of decoding and finding the slots, for fetches of the shapes that a worker meets.

    `msgspec_us_…` is the way of before: a Struct an event, columns from these, slots from a dict. Both run in the same
    rounds. `differing` counts the fields in which the two answers are not the same bits.
    """
    figures: dict[str, float] = {"events": events, "differing": 0}
    for name, sweep, batch, as_arrow in _SHAPES:
        fetches = [_batch_of(fetch) for fetch in _fetches(events, sweep, batch, as_arrow=as_arrow)]
        ids, slots = StreamIds(streams_max=STREAMS), {}
        ours, theirs = (
            (lambda fetch, ids=ids: _ours(fetch, ids)),
            (lambda fetch, slots=slots: _by_msgspec(fetch, slots)),
        )
        plain = _fetches(events, sweep, batch, as_arrow=False)
        figures["differing"] += sum(map(_differing, map(ours, fetches), map(theirs, plain)))
        n = _PASS_EVENTS if batch * sweep <= _PASS_EVENTS else batch * sweep
        a, b = _us((ours, fetches), (theirs, plain), n // (batch * sweep), rounds)
        figures |= {f"us_{name}": round(a / n, 3), f"msgspec_us_{name}": round(b / n, 3)}
    return figures


# Name, events a record, records a fetch, Arrow.
_SHAPES = (
    ("single_8192", 1, 8_192, False),
    ("single_24", 1, 24, False),
    ("sweep_32", 32, 256, False),
    ("sweep_64", 64, 128, False),
    ("arrow_64", 64, 128, True),
)


def _fetches(events: int, sweep: int, batch: int, *, as_arrow: bool) -> list[list[ConsumerRecord[bytes, bytes]]]:
    pairs = _joined([(r.key, r.value) for r in events_as_records(events, streams=STREAMS)], sweep)
    headers = [arrow_sweep.CONTENT_TYPE] if as_arrow else []
    records = [_record(i, key, _arrow(value) if as_arrow else value, headers) for i, (key, value) in enumerate(pairs)]
    return [records[i : i + batch] for i in range(0, len(records) - batch + 1, batch)]


def _joined(pairs: list[tuple[bytes, bytes]], sweep: int) -> list[tuple[bytes, bytes]]:
    if sweep == 1:
        return pairs
    groups = [pairs[i : i + sweep] for i in range(0, len(pairs) - sweep + 1, sweep)]
    return [(group[0][0], b"[" + b",".join(value for _, value in group) + b"]") for group in groups]


def _record(i: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("metrics", 0, i, START_MS + (1 << 40), 1, key, value, None, len(key), len(value), headers)


def _arrow(value: bytes) -> bytes:
    return arrow_sweep.encode(msgspec.json.decode(value, type=list[MetricEvent]))


def _batch_of(fetch: Sequence[ConsumerRecord[bytes, bytes]]) -> bytes:
    """Return the fetch as it comes from the broker."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 26)
    for i, record in enumerate(fetch):
        builder.append(i, record.timestamp, record.key, record.value, list(record.headers))
    return bytes(builder.build())


def _ours(fetch: bytes, ids: StreamIds) -> Columns:
    [records] = read(fetch, partition="metrics-0", first=0).parts
    decoded, rejected = decode(records)
    assert not rejected
    slot = ids.place(decoded.id_bytes, decoded.id_start, decoded.id_end)
    return Columns(slot, decoded.ts, decoded.metrics, decoded.record)


def _by_msgspec(fetch: Sequence[ConsumerRecord[bytes, bytes]], slots: dict[str, int]) -> Columns:
    found = list(map(decode_events, [record.value for record in fetch]))
    assert all(record.key is None or record.key.decode() for record in fetch)
    events, at = found, np.arange(len(found))
    if isinstance(found[0], list):
        events = [event for sweep in found for event in sweep]
        at = np.repeat(at, [len(sweep) for sweep in found])
    slot = np.array([slots.setdefault(event.stream_id, len(slots)) for event in events], np.int64)
    return Columns(slot, np.array([event.ts for event in events], np.int64), metrics_of(events), at)


def _differing(a: Columns, b: Columns) -> int:
    if a.ts.shape != b.ts.shape:
        return max(a.ts.size, b.ts.size)
    return sum(
        int((np.ascontiguousarray(x).view(np.uint64) != np.ascontiguousarray(y).view(np.uint64)).sum())
        for x, y in zip(a, b, strict=True)
    )


Way = tuple[Callable[[Any], object], Sequence[Any]]


def _us(ours: Way, theirs: Way, fetches: int, rounds: int) -> tuple[float, float]:
    """Return the µs of each way for so many fetches, the least of `rounds` in turn."""
    best = [float("inf")] * 2
    for turn in range(rounds):
        for way, (run, all_fetches) in enumerate((ours, theirs)):
            first = turn * fetches % max(1, len(all_fetches) - fetches + 1)
            start = time.process_time_ns()
            for fetch in all_fetches[first : first + fetches]:
                run(fetch)
            best[way] = min(best[way], (time.process_time_ns() - start) / 1e3)
    return best[0], best[1]
