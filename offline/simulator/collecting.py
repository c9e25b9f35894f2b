"""From readings to events: the real counters-to-metrics code, a node's clock, and the way to the broker."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator.hardware import Collection
from offline.simulator.ports import Readings, State
from streams.contract import METRICS
from streams.ingest.sources.counters import Samples, deltas
from streams.ingest.sources.metrics import LinkState, metrics


class LastRead(NamedTuple):
    """The last sample that was read of each port: what the next one is compared with. Shape (n,) and (n, C)."""

    counters: NDArray[np.uint64]
    time_s: NDArray[np.float64]  # NaN before the first
    boot: NDArray[np.int64]


class Arrivals(NamedTuple):
    """Events on their way, shape (n,) and (n, 12). `arrival_ms` is when they are sent, since the start of the run."""

    arrival_ms: NDArray[np.int64]
    stream: NDArray[np.int32]
    ts: NDArray[np.int64]  # event time by the node's own clock, ms since the start of the run
    metrics: NDArray[np.float64]


class _Samples(NamedTuple):
    """Samples that were read, port by port, and where each comes from in its readings; tick -1 is the last block's."""

    samples: Samples
    port: NDArray[np.int64]
    tick: NDArray[np.int64]


def nothing_read(state: State) -> LastRead:
    """Return what is known of ports before the first sample."""
    return LastRead(state.counters.copy(), np.full(state.boot.size, np.nan), state.boot.copy())


def events_of(
    readings: Readings,
    last: LastRead,
    collection: Collection,
    rate_gbps: NDArray[np.float64],
    *,
    is_roce: bool,
    period_s: float,
    first_port: int,
) -> tuple[LastRead, Arrivals]:
    """Return the events of a block, and the last sample of each port for the next one.

    `rate_gbps` is the links' rate, shape (n, T). Each sample is compared with the one read before it of its port; the
    very first of a port has a latency only, for deltas need two.
    """
    rows = _read(readings, last, collection.is_read)
    bits = collection.bits[rows.port[1:]]
    changed = deltas(_cut(rows.samples, slice(-1)), _cut(rows.samples, slice(1, None)), period_s=period_s, bits=bits)
    port, tick = rows.port[1:], rows.tick[1:]
    by_name = metrics(changed, LinkState(rate_gbps[port, tick], np.full(port.size, is_roce)))
    by_name["latency_p99"] = readings.latency_us[port, tick]
    columns = np.column_stack([by_name[name] for name in METRICS])
    # A row of tick -1 is no event: it only stands before its port's first one.
    is_event = tick >= 0
    return _newest(rows), _sent(readings, collection, port[is_event], tick[is_event], columns[is_event], first_port)


def _read(readings: Readings, last: LastRead, is_read: NDArray[np.bool_]) -> _Samples:
    """Return the last sample of each port before this block, then what was read in it, port by port."""
    n = readings.is_sampled.shape[0]
    is_row = np.column_stack([np.ones(n, np.bool_), readings.is_sampled])
    port, tick = np.nonzero(is_row)
    values = np.concatenate([last.counters[:, np.newaxis], readings.counters], axis=1)
    time_s = np.column_stack([last.time_s, readings.time_s])
    boot = np.column_stack([last.boot, readings.boot])
    # Before a port's very first sample the time is NaN, so that every delta from there is unknown.
    return _Samples(Samples(values[is_row], is_read[port], time_s[is_row], boot[is_row]), port, tick - 1)


def _cut(samples: Samples, rows: slice) -> Samples:
    return Samples(samples.values[rows], samples.is_read[rows], samples.monotonic_s[rows], samples.boot[rows])


def _newest(rows: _Samples) -> LastRead:
    at = np.append(np.flatnonzero(np.diff(rows.port)), rows.port.size - 1)  # the last row of each port
    return LastRead(rows.samples.values[at], rows.samples.monotonic_s[at], rows.samples.boot[at])


def _sent(
    readings: Readings,
    collection: Collection,
    port: NDArray[np.int64],
    tick: NDArray[np.int64],
    columns: NDArray[np.float64],
    first_port: int,
) -> Arrivals:
    """Stamp events with their node's clock and send them, late and twice where that happens."""
    time_s = readings.time_s[port, tick]
    is_corrected = time_s >= collection.corrected_at_s[port]
    clock_s = np.where(is_corrected, collection.corrected_clock_s[port], collection.clock_s[port])
    arrival_s = time_s + readings.delay_s[port, tick]
    copies = np.where(np.isnan(columns).all(axis=1), 0, 1 + readings.is_repeated[port, tick])
    # The copy of a repeat is sent with it: sorting by arrival keeps them neighbours.
    return Arrivals(
        arrival_ms=np.repeat(_ms(arrival_s), copies),
        stream=np.repeat((first_port + port).astype(np.int32), copies),
        ts=np.repeat(_ms(time_s + clock_s), copies),
        metrics=np.repeat(columns, copies, axis=0),
    )


def _ms(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.rint(1_000 * seconds).astype(np.int64)


def arrived(events: list[Arrivals], until_ms: int) -> tuple[Arrivals, Arrivals]:
    """Return the events that arrive before `until_ms`, in order of arrival, and the rest."""
    together = Arrivals._make(np.concatenate(columns) for columns in zip(*events, strict=True))
    is_in = together.arrival_ms < until_ms
    ready, rest = (Arrivals._make(column[rows] for column in together) for rows in (is_in, ~is_in))
    order = np.lexsort((ready.ts, ready.stream, ready.arrival_ms))
    return Arrivals._make(column[order] for column in ready), rest
