"""The window job's state and kernel: 180 panes of 20 s a stream, and the sums of the windows that end with the newest.

A record a stream, as in `streams.features.windows`: what an event reads of it lies together.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.contract import METRICS
from streams.features.snapshot import Part

PANE_MS, PANES = 20_000, 180
WINDOW_PANES = (15, 45, 180)
STREAMS_MAX = 100_000
_LATENCY = METRICS.index("latency_p99")

STREAM = np.dtype(
    [
        ("newest", np.int64),  # pane of the newest event, 0 before the first
        ("window_sum", np.float64, (3,)),  # µs
        ("window_n", np.int64, (3,)),
        ("sum", np.float64, (PANES,)),  # µs, by pane modulo 180
        ("n", np.uint32, (PANES,)),
    ],
    align=True,
)


class Panes(NamedTuple):
    """State of up to `STREAMS_MAX` streams; all bytes 0 is a stream without an event, so only those met take memory."""

    rows: NDArray[np.void]  # (STREAMS_MAX,) of STREAM
    dirty: NDArray[np.uint8]  # (180,) panes that changed since the last snapshot


def empty() -> Panes:
    """Return the state of streams without an event."""
    return Panes(np.zeros(STREAMS_MAX, STREAM), np.zeros(PANES, np.uint8))


def parts(panes: Panes) -> tuple[Part, Part]:
    """Return the state as what a snapshot writes; the head of a stream changes with every event."""
    assert STREAM.fields is not None
    rows = panes.rows
    head = rows.view(np.uint8).reshape(len(rows), STREAM.itemsize)[:, : STREAM.fields["sum"][1]]
    return Part("head", (head,), np.ones(1, np.uint8)), Part("panes", (rows["sum"], rows["n"]), panes.dirty)


def advance(
    panes: Panes, slot: NDArray[np.int64], ts: NDArray[np.int64], metrics: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take n events in log order, none older than its stream's newest pane; return their means, shape (n, 3), in µs."""
    means = np.empty((len(ts), len(WINDOW_PANES)))
    _advance(panes.rows, panes.dirty, slot, ts, metrics, means)
    return means


@kernel
def _advance(
    rows: NDArray[np.void],
    dirty: NDArray[np.uint8],
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    metrics: NDArray[np.float64],
    means: NDArray[np.float64],
) -> None:
    for event in range(ts.size):
        row, pane, x = rows[slot[event]], ts[event] // PANE_MS, metrics[event, _LATENCY]
        at = pane % PANES
        if pane > row.newest:
            _roll(row, pane, dirty)
        row.sum[at] += x
        row.n[at] += 1
        dirty[at] = 1
        for w in range(3):
            row.window_sum[w] += x
            row.window_n[w] += 1
            means[event, w] = row.window_sum[w] / row.window_n[w]


@inlined
def _roll(row: np.void, new: int, dirty: NDArray[np.uint8]) -> None:
    """Move a stream on to pane `new`; once an hour sum its windows anew, so that no rounding error lasts longer."""
    if new - row.newest > 1 or new % PANES == 0:
        _sum_anew(row, new, dirty)
    else:
        for w in range(3):
            left = (new - WINDOW_PANES[w]) % PANES
            row.window_sum[w] -= row.sum[left]
            row.window_n[w] -= row.n[left]
        row.sum[new % PANES] = 0.0
        row.n[new % PANES] = 0
    row.newest = new


@inlined
def _sum_anew(row: np.void, new: int, dirty: NDArray[np.uint8]) -> None:
    for pane in range(max(row.newest + 1, new - PANES + 1), new + 1):
        row.sum[pane % PANES] = 0.0
        row.n[pane % PANES] = 0
        dirty[pane % PANES] = 1
    total, n, w = 0.0, 0, 0
    for age in range(PANES):
        total += row.sum[(new - age) % PANES]
        n += row.n[(new - age) % PANES]
        if age + 1 == WINDOW_PANES[w]:
            row.window_sum[w] = total
            row.window_n[w] = n
            w += 1
