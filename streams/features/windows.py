"""The state of streams: panes of fixed memory, as one record a stream. What events do to it: `streams.features.panes`.

Window (W, P) at time t holds the accepted events whose pane ⌊ts/P⌋ lies in (⌊t/P⌋ − W/P, ⌊t/P⌋]: panes after Li et al.,
"No pane, no gain" (SIGMOD Record 34, 2005). The state of a stream is one record of `STREAM`; a stream takes the same
bytes however fast its port reports. Event time only: nothing here knows what time it is.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined
from streams.contract import IDLE_MS
from streams.features.snapshot import Part

LATENESS_MS = 600_000
"""How far behind its stream's newest event an event may be and still count."""
REMEMBERED = 64
"""How many accepted event times a stream remembers to know a repeat."""

PANE_5M_MS, PANES_5M = 15_000, 20
PANE_15M_MS, PANES_15M = 60_000, 15
PANE_1H_MS, PANES_1H = 300_000, 12
PANE_BASELINE_MS, PANES_BASELINE = 900_000, 96

_RESERVED_MAX, _FIRST = 1 << 20, 1 << 14
"""Rows: 3.1 GB of addresses, of which a machine that could ever hold them has enough, and 49 MB."""

# One record a stream, and what an event reads of it lies together: with 10⁵ streams each cache line is a miss. All
# bytes 0 is a stream of which nothing is known, so that fresh memory needs no filling and takes no room until written.
STREAM = np.dtype(
    [
        ("newest", np.int64),  # ms, event time of the newest accepted event; means something once `remembered` > 0
        ("last_seen", np.int64),  # ms, record time of the last accepted event by the broker's clock, 0 without one
        ("previous", np.float64, (3,)),  # newest event's latency, utilization and latency rate, NaN missing
        ("open_sum", np.float64, (3, 2)),  # the current baseline pane, and the one before: late events reach it
        ("open_n", np.uint32, (3, 2)),
        ("baseline", np.float64, (3,)),  # median of the closed panes' means, NaN for none, once `is_current`
        ("latency_1h_n", np.uint32, (PANES_1H,)),
        ("latency_1h_sum", np.float64, (PANES_1H,)),
        ("latency_15m_sum", np.float64, (PANES_15M,)),
        ("latency_5m_mean", np.float64, (PANES_5M,)),
        ("latency_5m_m2", np.float64, (PANES_5M,)),  # sum of squared distances from the pane's mean (Welford, 1962)
        ("utilization_5m_sum", np.float64, (PANES_5M,)),
        ("latency_5m_n", np.uint16, (PANES_5M,)),  # a pane of 15 s has 15,000 event times
        ("utilization_5m_n", np.uint16, (PANES_5M,)),
        ("latency_15m_n", np.uint16, (PANES_15M,)),
        ("remembered", np.uint8),  # how many events went into `recent` since it was last emptied
        ("is_current", np.uint8),  # whether `baseline` is what the closed panes say
        ("recent", np.uint32, (REMEMBERED,)),  # event times of the last accepted events, low 32 bits
        ("closed_high", np.uint32, (3, PANES_BASELINE)),  # means of the closed baseline panes, see `baselines`
        ("closed_low", np.uint16, (3, PANES_BASELINE)),
    ],
    align=True,
)
"""State of one stream."""


CHANGES = np.dtype([("dirty", np.uint8, (6, PANES_BASELINE))])
"""Columns of each part of `parts` that changed since they were last called clean."""


class Windows(NamedTuple):
    """State of up to `capacity` streams.

    Compiled code takes the record of a stream, not these arrays: Numba counts the references to an array, atomically,
    wherever it is handed on, and half of the kernel's time went into that.
    """

    rows: NDArray[np.void]  # (capacity,) of STREAM
    bytes: NDArray[np.uint8]  # (capacity, bytes of STREAM), the same memory: what is forgotten becomes 0
    changes: NDArray[np.void]  # (1,) of CHANGES

    @property
    def dirty(self) -> NDArray[np.uint8]:
        """The changed columns, shape (6, 96)."""
        dirty: NDArray[np.uint8] = self.changes["dirty"][0]
        return dirty


def empty(capacity: int) -> Windows:
    """Return the state of `capacity` streams of which nothing is known; memory is taken as streams come."""
    rows = np.zeros(capacity, STREAM)
    return Windows(rows, rows.view(np.uint8).reshape(capacity, STREAM.itemsize), np.zeros(1, CHANGES))


HEAD, RECENT, OF_5M, OF_15M, OF_1H, OF_CLOSED = range(6)
"""Rows of `CHANGES`: the parts of a snapshot."""


def parts(w: Windows) -> tuple[Part, ...]:
    """Return the state as what a snapshot writes. Medians are left out: they follow from the panes."""
    assert STREAM.fields is not None

    def of(*names: str) -> tuple[NDArray[Any], ...]:
        return tuple(w.rows[name] for name in names)

    panes_5m = of("latency_5m_n", "latency_5m_mean", "latency_5m_m2", "utilization_5m_n", "utilization_5m_sum")
    # All that lies before the medians is cut out in one piece: a snapshot touches each stream's memory once for it.
    head = w.bytes[:, : STREAM.fields["baseline"][1]], w.rows["remembered"]
    return (
        Part("head", head, w.dirty[HEAD, :1]),
        Part("recent", of("recent"), w.dirty[RECENT, :REMEMBERED]),
        Part("5m", panes_5m, w.dirty[OF_5M, :PANES_5M]),
        Part("15m", of("latency_15m_n", "latency_15m_sum"), w.dirty[OF_15M, :PANES_15M]),
        Part("1h", of("latency_1h_n", "latency_1h_sum"), w.dirty[OF_1H, :PANES_1H]),
        Part("closed", of("closed_high", "closed_low"), w.dirty[OF_CLOSED]),
    )


def first_capacity(streams_max: int) -> int:
    """Return the capacity to begin with: all of it where that is known and could be had, so that nothing grows.

    Growing copies, and holds both copies for that long; memory that no stream has written to yet costs nothing.
    """
    return streams_max if streams_max <= _RESERVED_MAX else _FIRST


def grown(windows: Windows, capacity: int) -> Windows:
    """Return the same state with room for `capacity` streams."""
    larger = empty(capacity)
    larger.bytes[: len(windows.bytes)] = windows.bytes
    larger.dirty[:] = windows.dirty
    return larger


def idle(w: Windows, n: int, now_ms: int) -> NDArray[np.intp]:
    """Return which of the first `n` slots hold a stream that has been idle for over `IDLE_MS`.

    `now_ms` is the record time that the partition has come to, by the broker's clock: the next event of such a stream
    would empty its row (see `features.advance`), so that forgetting it at any moment before changes no feature.
    """
    rows = w.rows[:n]
    return np.flatnonzero((rows["remembered"] > 0) & (now_ms - rows["last_seen"] > IDLE_MS))


def forget(w: Windows, slots: NDArray[np.intp]) -> None:
    """Empty the rows of streams, for their next owners; a snapshot then writes every column that they held."""
    for part in parts(w):
        for array in part.arrays:
            held = (array[slots] != 0).reshape(-1, array.shape[-1] if len(part.dirty) > 1 else 1).any(axis=0)
            part.dirty[:] |= held
    w.bytes[slots] = 0


@inlined
def empty_row(w: Windows, s: int) -> None:
    """Forget stream `s`, in compiled code."""
    w.bytes[s, :] = 0
    dirty = w.changes[0].dirty
    dirty[HEAD, 0] = 1
    dirty[OF_5M:] = 1  # of the remembered event times, those are read that are written from now on
