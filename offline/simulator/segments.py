"""What the world does to a port, as segments of time; and their painting onto a grid of samples.

Jobs, faults, precursors and decoys all come down to the same thing: an effect on a row (a port, or a job slot), from
one value to another, between two times. Truth lives elsewhere: nothing here knows which segment is a fault.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import kernel

# Numba caches `ports.read` by that file alone: after renumbering these, remove offline/simulator/__pycache__.
LOAD = 0  # fraction of line rate, at least
LATENCY = 1  # factor
BANDWIDTH = 2  # factor on what passes
RATE = 3  # factor on the link's rate: it trained down
DOWN = 4  # fraction of the interval that the link is down
SILENT = 5  # fraction of the interval in which the port can't be read
ERROR = 6  # errors per packet seen here
REMOTE = 7  # packets marked bad by an earlier hop, per packet
SYMBOL = 8  # symbol errors per second
RECOVERY = 9  # link error recoveries per minute
QP = 10  # queue-pair errors per minute
MR = 11  # remote-access errors per minute
STALL = 12  # fraction of the interval waiting for credit
CLEARED = 13  # counters set to zero in this interval, this often
BOOTED = 14  # the node started anew in this interval, this often
N_EFFECTS = 15

_HIGHEST, _PRODUCT, _SUM, _MARK = 0, 1, 2, 3
_COMBINE = np.array([_HIGHEST, _PRODUCT, _PRODUCT, _PRODUCT, *[_SUM] * 9, _MARK, _MARK])


class Segment(NamedTuple):
    """One effect on one row over [start_ms, end_ms), from `first` to `last` (the same when left out)."""

    row: int
    effect: int
    start_ms: int
    end_ms: int
    first: float
    last: float | None = None
    is_log: bool = False  # the value moves evenly on a logarithmic scale


class Segments(NamedTuple):
    """Segments as columns, shape (n,), by start."""

    row: NDArray[np.int64]
    effect: NDArray[np.int64]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    is_log: NDArray[np.bool_]


def columns(segments: Iterable[Segment]) -> Segments:
    """Return segments as columns, in an order that does not depend on the order they came in."""
    rows = sorted((*s[:5], s.first if s.last is None else s.last, s.is_log) for s in segments)
    if not rows:
        rows = [(0, LOAD, -1, -1, 0.0, 0.0, False)]  # so that the columns have their types
    by_start = sorted(rows, key=lambda row: row[2])
    row, effect, start, end, first, last, is_log = (np.array(column) for column in zip(*by_start, strict=True))
    return Segments(row, effect, start, end, first.astype(np.float64), last.astype(np.float64), is_log.astype(np.bool_))


def painted(
    segments: Segments, *, first_row: int, n_rows: int, start_ms: int, period_ms: int, n_ticks: int
) -> NDArray[np.float64]:
    """Return the effects on rows `first_row…`, shape (N_EFFECTS, n_rows, n_ticks), each a mean over its interval."""
    grid = np.zeros((N_EFFECTS, n_rows, n_ticks))
    grid[_COMBINE == _PRODUCT] = 1.0
    _paint(segments, _COMBINE, grid, first_row, start_ms, period_ms)
    return grid


@kernel
def _paint(s: Segments, combine: NDArray[np.int64], grid: NDArray[np.float64], row0: int, t0: int, period: int) -> None:
    _, n_rows, n_ticks = grid.shape
    for i in range(np.searchsorted(s.start_ms, t0 + period * n_ticks)):
        row = s.row[i] - row0
        if row < 0 or row >= n_rows or s.end_ms[i] <= t0:
            continue
        effect, start, end = s.effect[i], s.start_ms[i], s.end_ms[i]
        how = combine[effect]
        if how == _MARK:
            if start >= t0:
                grid[effect, row, (start - t0) // period] += s.first[i]
            continue
        for k in range(max(0, (start - t0) // period), min(n_ticks, (end - t0 - 1) // period + 1)):
            since, until = max(start, t0 + k * period), min(end, t0 + (k + 1) * period)
            share = (until - since) / period
            x = _value_at(s, i, 0.5 * (since + until))
            if how == _PRODUCT:
                grid[effect, row, k] *= 1.0 + share * (x - 1.0)
            elif how == _SUM:
                grid[effect, row, k] += share * x
            else:
                grid[effect, row, k] = max(grid[effect, row, k], share * x)


@kernel
def _value_at(s: Segments, i: int, t: float) -> float:
    first, last = s.first[i], s.last[i]
    along = (t - s.start_ms[i]) / (s.end_ms[i] - s.start_ms[i])
    if s.is_log[i]:
        return float(first * (last / first) ** along)
    return float(first + (last - first) * along)
