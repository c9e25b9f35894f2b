"""What a stream did lately: panes of fixed memory, and the means, deviations and baselines read from them.

Window (W, P) at time t holds the accepted events whose pane ⌊ts/P⌋ lies in (⌊t/P⌋ − W/P, ⌊t/P⌋]: panes after Li et al.,
"No pane, no gain" (SIGMOD Record 34, 2005). The state of a stream is one record of `STREAM`; a stream takes the same
bytes however fast its port reports. Event time only: nothing here knows what time it is.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from streams import baselines
from streams.snapshot import Part

LATENESS_MS = 600_000
"""How far behind its stream's newest event an event may be and still count."""
REMEMBERED = 64
"""How many accepted event times a stream remembers to know a repeat."""
IDLE_MS = 25 * 3_600_000
"""A stream that the broker has had nothing of for longer than that is forgotten: nothing of it would count any more."""

PANE_5M_MS, PANES_5M = 15_000, 20
PANE_15M_MS, PANES_15M = 60_000, 15
PANE_1H_MS, PANES_1H = 300_000, 12
PANE_BASELINE_MS, PANES_BASELINE = 900_000, 96

LATENCY, UTILIZATION, BANDWIDTH = 0, 1, 2
"""The metrics that have a baseline, in the order of the baseline arrays."""
ACTIVE_ABOVE_PERCENT = 5.0
"""A sample counts for the baselines of utilization and bandwidth above this utilization."""


_PANE_EVENTS_MAX = 65_535
"""Of one of the short panes, which have at most 60,000 event times: only a flood of forgotten repeats gets there."""

# One record a stream, and what an event reads of it lies together: with 10⁵ streams each cache line is a miss. All
# bytes 0 is a stream of which nothing is known, so that fresh memory needs no filling and takes no room until written.
STREAM = np.dtype(
    [
        ("newest", np.int64),  # ms, event time of the newest accepted event; means something once `remembered` > 0
        ("last_seen", np.int64),  # ms, record time of the last accepted event by the broker's clock, 0 without one
        ("previous", np.float64, (3,)),  # newest event's latency, utilization and latency rate, NaN missing
        ("baseline", np.float64, (3,)),  # median of the closed panes' means, NaN for none, once `is_current`
        ("open_sum", np.float64, (3, 2)),  # the current baseline pane, and the one before: late events reach it
        ("open_n", np.uint32, (3, 2)),
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


class Windows(NamedTuple):
    """State of up to `capacity` streams."""

    rows: NDArray[np.void]  # (capacity,) of STREAM
    bytes: NDArray[np.uint8]  # (capacity, bytes of STREAM), the same memory: what is forgotten becomes 0
    dirty: NDArray[np.uint8]  # (6, 96) columns of each part of `parts` that changed since they were last called clean


def empty(capacity: int) -> Windows:
    """Return the state of `capacity` streams of which nothing is known; memory is taken as streams come."""
    rows = np.zeros(capacity, STREAM)
    return Windows(
        rows, rows.view(np.uint8).reshape(capacity, STREAM.itemsize), np.zeros((6, PANES_BASELINE), np.uint8)
    )


_HEAD, _RECENT, _5M, _15M, _1H, _CLOSED = range(6)


def parts(w: Windows) -> tuple[Part, ...]:
    """Return the state as what a snapshot writes. Medians are left out: they follow from the panes."""

    def of(*names: str) -> tuple[NDArray[Any], ...]:
        return tuple(w.rows[name] for name in names)

    panes_5m = of("latency_5m_n", "latency_5m_mean", "latency_5m_m2", "utilization_5m_n", "utilization_5m_sum")
    head = of("newest", "last_seen", "remembered", "open_n", "open_sum", "previous")
    return (
        Part("head", head, w.dirty[_HEAD, :1]),
        Part("recent", of("recent"), w.dirty[_RECENT, :REMEMBERED]),
        Part("5m", panes_5m, w.dirty[_5M, :PANES_5M]),
        Part("15m", of("latency_15m_n", "latency_15m_sum"), w.dirty[_15M, :PANES_15M]),
        Part("1h", of("latency_1h_n", "latency_1h_sum"), w.dirty[_1H, :PANES_1H]),
        Part("closed", of("closed_high", "closed_low"), w.dirty[_CLOSED]),
    )


def grown(windows: Windows, capacity: int) -> Windows:
    """Return the same state with room for `capacity` streams."""
    larger = empty(capacity)
    larger.rows[: len(windows.rows)] = windows.rows
    larger.dirty[:] = windows.dirty
    return larger


def idle(w: Windows, n: int, now_ms: int) -> NDArray[np.intp]:
    """Return which of the first `n` slots hold a stream that has been idle for over `IDLE_MS`.

    `now_ms` is the record time that the partition has come to, by the broker's clock: the next event of such a stream
    would empty its row (see `starts_anew`), so that forgetting it at any moment before changes no feature.
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


@numba.njit(nogil=True)
def starts_anew(w: Windows, s: int, seen: int) -> bool:
    """Empty stream `s` if the broker took its last event over `IDLE_MS` before `seen`; return whether it is empty."""
    if w.rows[s].remembered > 0 and seen - w.rows[s].last_seen > IDLE_MS:
        w.bytes[s, :] = 0
        w.dirty[_HEAD, 0] = 1
        w.dirty[_5M:] = 1  # of the remembered event times, those are read that are written from now on
    return bool(w.rows[s].remembered == 0)


@numba.njit(nogil=True)
def is_repeat(r: Any, ts: int) -> bool:
    """Whether the stream of `r` has accepted an event at `ts`, not later than its newest, among its last 64."""
    if ts == r.newest:
        return True
    low = np.uint32(ts & 0xFFFFFFFF)
    for i in range(min(r.remembered, REMEMBERED)):
        if r.recent[i] == low:
            return True
    return False


@numba.njit(nogil=True)
def roll(r: Any, dirty: NDArray[np.uint8], before: int, ts: int) -> None:
    """Move a stream on from its newest event at `before`, -1 for none, to `ts`: panes that left a window are emptied."""
    r.newest = ts
    if before < 0 or before // PANE_5M_MS == ts // PANE_5M_MS:
        return  # the panes of the other windows are multiples of this one
    if ts - before > LATENESS_MS:
        # Nothing that is remembered can be repeated any more, and low 32 bits would come round after 49 days.
        r.remembered = 0
    _roll_5m(r, dirty, before // PANE_5M_MS, ts // PANE_5M_MS)
    old, new = before // PANE_15M_MS, ts // PANE_15M_MS
    for pane in range(max(old + 1, new - PANES_15M + 1), new + 1):
        dirty[_15M, pane % PANES_15M] = 1
        r.latency_15m_n[pane % PANES_15M] = 0
        r.latency_15m_sum[pane % PANES_15M] = 0.0
    old, new = before // PANE_1H_MS, ts // PANE_1H_MS
    for pane in range(max(old + 1, new - PANES_1H + 1), new + 1):
        dirty[_1H, pane % PANES_1H] = 1
        r.latency_1h_n[pane % PANES_1H] = 0
        r.latency_1h_sum[pane % PANES_1H] = 0.0
    if before // PANE_BASELINE_MS != ts // PANE_BASELINE_MS:
        _roll_baseline(r, dirty, before // PANE_BASELINE_MS, ts // PANE_BASELINE_MS)


@numba.njit(nogil=True)
def _roll_5m(r: Any, dirty: NDArray[np.uint8], old: int, new: int) -> None:
    for pane in range(max(old + 1, new - PANES_5M + 1), new + 1):
        i = pane % PANES_5M
        dirty[_5M, i] = 1
        r.latency_5m_n[i] = 0
        r.latency_5m_mean[i] = 0.0
        r.latency_5m_m2[i] = 0.0
        r.utilization_5m_n[i] = 0
        r.utilization_5m_sum[i] = 0.0


@numba.njit(nogil=True)
def _roll_baseline(r: Any, dirty: NDArray[np.uint8], old: int, new: int) -> None:
    for m in range(3):
        n = r.open_n[m, 0]
        _close(r, dirty, m, old, r.open_sum[m, 0] / n if n > 0 else np.nan)
        for pane in range(max(old + 1, new - PANES_BASELINE), new):
            _close(r, dirty, m, pane, np.nan)
        follows = new == old + 1
        r.open_n[m, 1] = n if follows else 0
        r.open_sum[m, 1] = r.open_sum[m, 0] if follows else 0.0
        r.open_n[m, 0] = 0
        r.open_sum[m, 0] = 0.0


@numba.njit(nogil=True)
def add(
    r: Any, dirty: NDArray[np.uint8], ts: int, seen: int, latency: float, utilization: float, bandwidth: float
) -> None:
    """Let an accepted event at `ts`, at most `LATENESS_MS` behind its stream's newest, enter the stream's windows."""
    dirty[_HEAD, 0] = 1
    r.last_seen = seen
    _remember(r, dirty, ts)
    newest = r.newest
    if not np.isnan(latency):
        _add_latency(r, dirty, ts, newest, latency)
    if not np.isnan(utilization) and ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if r.utilization_5m_n[i] < _PANE_EVENTS_MAX:
            dirty[_5M, i] = 1
            r.utilization_5m_n[i] += 1
            r.utilization_5m_sum[i] += utilization
    pane = ts // PANE_BASELINE_MS
    late = newest // PANE_BASELINE_MS - pane  # 0 or 1: lateness is shorter than a pane
    _add_baseline(r, dirty, LATENCY, pane, late, latency)
    if utilization > ACTIVE_ABOVE_PERCENT:
        _add_baseline(r, dirty, UTILIZATION, pane, late, utilization)
        _add_baseline(r, dirty, BANDWIDTH, pane, late, bandwidth)


@numba.njit(nogil=True)
def _remember(r: Any, dirty: NDArray[np.uint8], ts: int) -> None:
    i = r.remembered % REMEMBERED
    dirty[_RECENT, i] = 1
    r.recent[i] = np.uint32(ts & 0xFFFFFFFF)
    # At 128 back to 64: the same place in the ring, and no overflow.
    r.remembered = r.remembered + 1 if r.remembered + 1 < 2 * REMEMBERED else REMEMBERED


@numba.njit(nogil=True)
def _add_latency(r: Any, dirty: NDArray[np.uint8], ts: int, newest: int, x: float) -> None:
    if ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if r.latency_5m_n[i] < _PANE_EVENTS_MAX:
            dirty[_5M, i] = 1
            r.latency_5m_n[i] += 1
            delta = x - r.latency_5m_mean[i]
            r.latency_5m_mean[i] += delta / r.latency_5m_n[i]
            r.latency_5m_m2[i] += delta * (x - r.latency_5m_mean[i])
    if ts // PANE_15M_MS > newest // PANE_15M_MS - PANES_15M:
        i = (ts // PANE_15M_MS) % PANES_15M
        if r.latency_15m_n[i] < _PANE_EVENTS_MAX:
            dirty[_15M, i] = 1
            r.latency_15m_n[i] += 1
            r.latency_15m_sum[i] += x
    # Lateness is shorter than an hour, so every accepted event is in this window.
    i = (ts // PANE_1H_MS) % PANES_1H
    dirty[_1H, i] = 1
    r.latency_1h_n[i] += 1
    r.latency_1h_sum[i] += x


@numba.njit(nogil=True)
def _add_baseline(r: Any, dirty: NDArray[np.uint8], metric: int, pane: int, late: int, x: float) -> None:
    if np.isnan(x):
        return
    r.open_n[metric, late] += 1
    r.open_sum[metric, late] += x
    if late > 0:
        _close(r, dirty, metric, pane, r.open_sum[metric, 1] / r.open_n[metric, 1])


@numba.njit(nogil=True)
def _close(r: Any, dirty: NDArray[np.uint8], metric: int, pane: int, mean: float) -> None:
    i = pane % PANES_BASELINE
    baselines.put(r.closed_high, r.closed_low, metric, i, mean)
    dirty[_CLOSED, i] = 1
    r.is_current = 0


@numba.njit(nogil=True)
def refresh_baseline(r: Any) -> None:
    """Bring `r.baseline` up to date: the median of the closed panes' means, NaN where none has a value."""
    if r.is_current != 0:
        return
    for m in range(3):
        # Fresh memory guesses 0, which is as good as any.
        r.baseline[m] = baselines.median(r.closed_high, r.closed_low, m, r.baseline[m])
    r.is_current = 1


@numba.njit(nogil=True)
def open_mean(r: Any, metric: int) -> float:
    """Return the mean of the current baseline pane so far, the stand-in until one has closed."""
    n = r.open_n[metric, 0]
    return float(r.open_sum[metric, 0] / n) if n > 0 else np.nan


@numba.njit(nogil=True)
def latency_5m(r: Any) -> tuple[float, float]:
    """Return mean and sample standard deviation (n − 1) of latency over 5 min; NaN where n is 0, or below 2."""
    n, shift = 0, 0.0
    for i in range(PANES_5M):
        n += r.latency_5m_n[i]
        shift = r.latency_5m_mean[i] if r.latency_5m_n[i] > 0 else shift
    if n == 0:
        return np.nan, np.nan
    # Distances from one pane's mean: equal values then give a deviation of exactly 0. Four sums at a time, which the
    # processor adds side by side; their order is part of the result.
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, PANES_5M, 4):
        a += r.latency_5m_n[i] * (r.latency_5m_mean[i] - shift)
        b += r.latency_5m_n[i + 1] * (r.latency_5m_mean[i + 1] - shift)
        c += r.latency_5m_n[i + 2] * (r.latency_5m_mean[i + 2] - shift)
        d += r.latency_5m_n[i + 3] * (r.latency_5m_mean[i + 3] - shift)
    mean = shift + ((a + b) + (c + d)) / n
    if n == 1:
        return mean, np.nan
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, PANES_5M, 4):
        a += r.latency_5m_m2[i] + r.latency_5m_n[i] * (r.latency_5m_mean[i] - mean) ** 2
        b += r.latency_5m_m2[i + 1] + r.latency_5m_n[i + 1] * (r.latency_5m_mean[i + 1] - mean) ** 2
        c += r.latency_5m_m2[i + 2] + r.latency_5m_n[i + 2] * (r.latency_5m_mean[i + 2] - mean) ** 2
        d += r.latency_5m_m2[i + 3] + r.latency_5m_n[i + 3] * (r.latency_5m_mean[i + 3] - mean) ** 2
    return mean, np.sqrt(((a + b) + (c + d)) / (n - 1))


@numba.njit(nogil=True)
def window_mean(n: NDArray[np.unsignedinteger[Any]], total: NDArray[np.float64], panes: int) -> float:
    """Return the mean over a window's panes, from their counts and sums, shape (panes,); NaN where all are empty."""
    count, value = 0, 0.0
    for i in range(panes):
        count += n[i]
        value += total[i]
    return value / count if count > 0 else np.nan
