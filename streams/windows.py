"""What a stream did lately: panes of fixed memory, and the means, deviations and baselines read from them.

Window (W, P) at time t holds the accepted events whose pane ⌊ts/P⌋ lies in (⌊t/P⌋ − W/P, ⌊t/P⌋]: panes after Li et al.,
"No pane, no gain" (SIGMOD Record 34, 2005). The state of a stream is one row of each array in `Windows`; a stream takes
the same bytes however fast its port reports. Event time only: nothing here knows what time it is.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from streams.snapshot import Part

LATENESS_MS = 600_000
"""How far behind its stream's newest event an event may be and still count."""
REMEMBERED = 64
"""How many accepted event times a stream remembers to know a repeat."""

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


class Windows(NamedTuple):
    """State of up to `capacity` streams: one row a stream in every array. Missing is NaN, and no event yet is -1."""

    newest: NDArray[np.int64]  # (capacity,) ms, event time of the stream's newest accepted event
    recent: NDArray[np.uint32]  # (capacity, 64) event times of the last accepted events, low 32 bits
    remembered: NDArray[np.uint32]  # (capacity,) how many events went into `recent` since it was last emptied
    latency_5m_n: NDArray[np.uint16]  # (capacity, 20); a pane of 15 s has 15,000 event times
    latency_5m_mean: NDArray[np.float64]
    latency_5m_m2: NDArray[np.float64]  # sum of squared distances from the pane's mean (Welford, 1962)
    utilization_5m_n: NDArray[np.uint16]
    utilization_5m_sum: NDArray[np.float64]
    latency_15m_n: NDArray[np.uint16]  # (capacity, 15)
    latency_15m_sum: NDArray[np.float64]
    latency_1h_n: NDArray[np.uint32]  # (capacity, 12)
    latency_1h_sum: NDArray[np.float64]
    closed: NDArray[np.float64]  # (capacity, 3, 96) means of the closed baseline panes
    open_n: NDArray[np.uint32]  # (capacity, 3, 2) the current baseline pane, and the one before: late events reach it
    open_sum: NDArray[np.float64]
    baseline: NDArray[np.float64]  # (capacity, 3) median of the closed panes' means, while `is_stale` is 0
    is_stale: NDArray[np.uint8]  # (capacity,)
    previous: NDArray[np.float64]  # (capacity, 3) newest event's latency, utilization and latency rate
    dirty: NDArray[np.uint8]  # (6, 96) columns of each part of `parts` that changed since they were last called clean


def empty(capacity: int) -> Windows:
    """Return the state of `capacity` streams of which nothing is known."""

    def f8(*shape: int, fill: float = 0.0) -> NDArray[np.float64]:
        return np.full((capacity, *shape), fill)

    def u2(*shape: int) -> NDArray[np.uint16]:
        return np.zeros((capacity, *shape), np.uint16)

    def u4(*shape: int) -> NDArray[np.uint32]:
        return np.zeros((capacity, *shape), np.uint32)

    return Windows(
        newest=np.full(capacity, -1, np.int64),
        recent=u4(REMEMBERED),
        remembered=u4(),
        latency_5m_n=u2(PANES_5M),
        latency_5m_mean=f8(PANES_5M),
        latency_5m_m2=f8(PANES_5M),
        utilization_5m_n=u2(PANES_5M),
        utilization_5m_sum=f8(PANES_5M),
        latency_15m_n=u2(PANES_15M),
        latency_15m_sum=f8(PANES_15M),
        latency_1h_n=u4(PANES_1H),
        latency_1h_sum=f8(PANES_1H),
        closed=f8(3, PANES_BASELINE, fill=np.nan),
        open_n=u4(3, 2),
        open_sum=f8(3, 2),
        baseline=f8(3, fill=np.nan),
        is_stale=np.zeros(capacity, np.uint8),
        previous=f8(3, fill=np.nan),
        dirty=np.zeros((6, PANES_BASELINE), np.uint8),
    )


_HEAD, _RECENT, _5M, _15M, _1H, _CLOSED = range(6)


def parts(w: Windows) -> tuple[Part, ...]:
    """Return the state as what a snapshot writes. Medians are left out: they follow from the panes."""
    panes_5m = w.latency_5m_n, w.latency_5m_mean, w.latency_5m_m2, w.utilization_5m_n, w.utilization_5m_sum
    return (
        Part("head", (w.newest, w.remembered, w.open_n, w.open_sum, w.previous), w.dirty[_HEAD, :1]),
        Part("recent", (w.recent,), w.dirty[_RECENT, :REMEMBERED]),
        Part("5m", panes_5m, w.dirty[_5M, :PANES_5M]),
        Part("15m", (w.latency_15m_n, w.latency_15m_sum), w.dirty[_15M, :PANES_15M]),
        Part("1h", (w.latency_1h_n, w.latency_1h_sum), w.dirty[_1H, :PANES_1H]),
        Part("closed", (w.closed,), w.dirty[_CLOSED]),
    )


def grown(windows: Windows, capacity: int) -> Windows:
    """Return the same state with room for `capacity` streams."""
    larger = empty(capacity)
    n = len(windows.newest)
    for name, array in windows._asdict().items():
        if name != "dirty":
            getattr(larger, name)[:n] = array
    larger.dirty[:] = windows.dirty
    return larger


@numba.njit(nogil=True)
def is_repeat(w: Windows, s: int, ts: int) -> bool:
    """Whether stream `s` has accepted an event at `ts`, which is not later than its newest, among its last 64."""
    if ts == w.newest[s]:
        return True
    low = np.uint32(ts & 0xFFFFFFFF)
    for i in range(min(w.remembered[s], REMEMBERED)):
        if w.recent[s, i] == low:
            return True
    return False


@numba.njit(nogil=True)
def roll(w: Windows, s: int, ts: int) -> None:
    """Move stream `s` on to event time `ts`, later than its newest: panes that left a window are emptied."""
    before = w.newest[s]
    w.newest[s] = ts
    if before < 0:
        return
    if ts - before > LATENESS_MS:
        # Nothing that is remembered can be repeated any more, and low 32 bits would come round after 49 days.
        w.remembered[s] = 0
    new = ts // PANE_5M_MS
    for pane in range(max(before // PANE_5M_MS + 1, new - PANES_5M + 1), new + 1):
        i = pane % PANES_5M
        w.latency_5m_n[s, i] = 0
        w.latency_5m_mean[s, i] = 0.0
        w.latency_5m_m2[s, i] = 0.0
        w.utilization_5m_n[s, i] = 0
        w.utilization_5m_sum[s, i] = 0.0
        w.dirty[_5M, i] = 1
    new = ts // PANE_15M_MS
    for pane in range(max(before // PANE_15M_MS + 1, new - PANES_15M + 1), new + 1):
        w.dirty[_15M, pane % PANES_15M] = 1
        w.latency_15m_n[s, pane % PANES_15M] = 0
        w.latency_15m_sum[s, pane % PANES_15M] = 0.0
    new = ts // PANE_1H_MS
    for pane in range(max(before // PANE_1H_MS + 1, new - PANES_1H + 1), new + 1):
        w.dirty[_1H, pane % PANES_1H] = 1
        w.latency_1h_n[s, pane % PANES_1H] = 0
        w.latency_1h_sum[s, pane % PANES_1H] = 0.0
    _roll_baseline(w, s, before // PANE_BASELINE_MS, ts // PANE_BASELINE_MS)


@numba.njit(nogil=True)
def _roll_baseline(w: Windows, s: int, old: int, new: int) -> None:
    if new == old:
        return
    for m in range(3):
        n = w.open_n[s, m, 0]
        _close(w, s, m, old, w.open_sum[s, m, 0] / n if n > 0 else np.nan)
        for pane in range(max(old + 1, new - PANES_BASELINE), new):
            _close(w, s, m, pane, np.nan)
        follows = new == old + 1
        w.open_n[s, m, 1] = n if follows else 0
        w.open_sum[s, m, 1] = w.open_sum[s, m, 0] if follows else 0.0
        w.open_n[s, m, 0] = 0
        w.open_sum[s, m, 0] = 0.0
    w.is_stale[s] = 1


@numba.njit(nogil=True)
def add(w: Windows, s: int, ts: int, latency: float, utilization: float, bandwidth: float) -> None:
    """Let an accepted event of stream `s` at `ts`, at most `LATENESS_MS` behind its newest, enter its windows."""
    w.dirty[_HEAD, 0] = 1
    w.dirty[_RECENT, w.remembered[s] % REMEMBERED] = 1
    w.recent[s, w.remembered[s] % REMEMBERED] = np.uint32(ts & 0xFFFFFFFF)
    w.remembered[s] += 1
    if w.remembered[s] == 2 * REMEMBERED:
        w.remembered[s] = REMEMBERED  # the same place in the ring, and no overflow
    newest = w.newest[s]
    if not np.isnan(latency):
        _add_latency(w, s, ts, newest, latency)
    if not np.isnan(utilization) and ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if w.utilization_5m_n[s, i] < _PANE_EVENTS_MAX:
            w.dirty[_5M, i] = 1
            w.utilization_5m_n[s, i] += 1
            w.utilization_5m_sum[s, i] += utilization
    pane = ts // PANE_BASELINE_MS
    late = newest // PANE_BASELINE_MS - pane  # 0 or 1: lateness is shorter than a pane
    _add_baseline(w, s, LATENCY, pane, late, latency)
    if utilization > ACTIVE_ABOVE_PERCENT:
        _add_baseline(w, s, UTILIZATION, pane, late, utilization)
        _add_baseline(w, s, BANDWIDTH, pane, late, bandwidth)


@numba.njit(nogil=True)
def _add_latency(w: Windows, s: int, ts: int, newest: int, x: float) -> None:
    if ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if w.latency_5m_n[s, i] < _PANE_EVENTS_MAX:
            w.dirty[_5M, i] = 1
            w.latency_5m_n[s, i] += 1
            delta = x - w.latency_5m_mean[s, i]
            w.latency_5m_mean[s, i] += delta / w.latency_5m_n[s, i]
            w.latency_5m_m2[s, i] += delta * (x - w.latency_5m_mean[s, i])
    if ts // PANE_15M_MS > newest // PANE_15M_MS - PANES_15M:
        i = (ts // PANE_15M_MS) % PANES_15M
        if w.latency_15m_n[s, i] < _PANE_EVENTS_MAX:
            w.dirty[_15M, i] = 1
            w.latency_15m_n[s, i] += 1
            w.latency_15m_sum[s, i] += x
    # Lateness is shorter than an hour, so every accepted event is in this window.
    w.dirty[_1H, (ts // PANE_1H_MS) % PANES_1H] = 1
    w.latency_1h_n[s, (ts // PANE_1H_MS) % PANES_1H] += 1
    w.latency_1h_sum[s, (ts // PANE_1H_MS) % PANES_1H] += x


@numba.njit(nogil=True)
def _add_baseline(w: Windows, s: int, metric: int, pane: int, late: int, x: float) -> None:
    if np.isnan(x):
        return
    w.open_n[s, metric, late] += 1
    w.open_sum[s, metric, late] += x
    if late > 0:
        _close(w, s, metric, pane, w.open_sum[s, metric, 1] / w.open_n[s, metric, 1])
        w.is_stale[s] = 1


@numba.njit(nogil=True)
def _close(w: Windows, s: int, metric: int, pane: int, mean: float) -> None:
    i = pane % PANES_BASELINE
    w.closed[s, metric, i] = mean
    w.dirty[_CLOSED, i] = 1


@numba.njit(nogil=True)
def refresh_baseline(w: Windows, s: int) -> None:
    """Bring `w.baseline[s]` up to date: the median of the closed panes' means, NaN where none has a value."""
    if w.is_stale[s] == 0:
        return
    w.is_stale[s] = 0
    values = np.empty(PANES_BASELINE)
    for m in range(3):
        n = 0
        for i in range(PANES_BASELINE):
            if not np.isnan(w.closed[s, m, i]):
                values[n] = w.closed[s, m, i]
                n += 1
        w.baseline[s, m] = np.median(values[:n]) if n > 0 else np.nan


@numba.njit(nogil=True)
def open_mean(w: Windows, s: int, metric: int) -> float:
    """Return the mean of the current baseline pane so far, the stand-in until one has closed."""
    n = w.open_n[s, metric, 0]
    return float(w.open_sum[s, metric, 0] / n) if n > 0 else np.nan


@numba.njit(nogil=True)
def latency_5m(w: Windows, s: int) -> tuple[float, float]:
    """Return mean and sample standard deviation (n − 1) of latency over 5 min; NaN where n is 0, or below 2."""
    n, shift = 0, 0.0
    for i in range(PANES_5M):
        if w.latency_5m_n[s, i] > 0:
            n += w.latency_5m_n[s, i]
            shift = w.latency_5m_mean[s, i]
    if n == 0:
        return np.nan, np.nan
    # Distances from one pane's mean: equal values then give a deviation of exactly 0.
    mean = 0.0
    for i in range(PANES_5M):
        mean += w.latency_5m_n[s, i] * (w.latency_5m_mean[s, i] - shift)
    mean = shift + mean / n
    m2 = 0.0
    for i in range(PANES_5M):
        m2 += w.latency_5m_m2[s, i] + w.latency_5m_n[s, i] * (w.latency_5m_mean[s, i] - mean) ** 2
    return mean, np.sqrt(m2 / (n - 1)) if n > 1 else np.nan


@numba.njit(nogil=True)
def window_mean(n: NDArray[np.unsignedinteger[Any]], total: NDArray[np.float64]) -> float:
    """Return the mean over a window's panes, from their counts and sums, shape (panes,); NaN where all are empty."""
    count, value = 0, 0.0
    for i in range(n.size):
        count += n[i]
        value += total[i]
    return value / count if count > 0 else np.nan
