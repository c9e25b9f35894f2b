"""What an event does to the panes of its stream, and what is read from them: compiled, over a record of `STREAM`.

`r` is the record of a stream and `changes` that of `Windows.changes`: compiled code hands on records and no arrays.
Sums are taken anew for each event in a fixed order, four side by side for the processor's sake, and never by adding
what came and subtracting what went: nothing drifts, and whoever computes gets the same bits.
"""

from typing import Any

import numpy as np

from streams.compiled import inlined
from streams.features import baselines
from streams.features.windows import (
    HEAD,
    LATENESS_MS,
    OF_1H,
    OF_5M,
    OF_15M,
    OF_CLOSED,
    PANE_1H_MS,
    PANE_5M_MS,
    PANE_15M_MS,
    PANE_BASELINE_MS,
    PANES_1H,
    PANES_5M,
    PANES_15M,
    PANES_BASELINE,
    RECENT,
    REMEMBERED,
)

LATENCY, UTILIZATION, BANDWIDTH = 0, 1, 2
"""The metrics that have a baseline, in the order of the baseline arrays."""
ACTIVE_ABOVE_PERCENT = 5.0
"""A sample counts for the baselines of utilization and bandwidth above this utilization."""

_PANE_EVENTS_MAX = 65_535
"""Of one of the short panes, which have at most 60,000 event times: only a flood of forgotten repeats gets there."""


@inlined
def is_repeat(r: Any, ts: int) -> bool:
    """Whether the stream of `r` has accepted an event at `ts`, not later than its newest, among its last 64."""
    if ts == r.newest:
        return True
    low = np.uint32(ts & 0xFFFFFFFF)
    for i in range(min(r.remembered, REMEMBERED)):
        if r.recent[i] == low:
            return True
    return False


@inlined
def roll(r: Any, changes: Any, before: int, ts: int) -> None:
    """Move a stream on from its newest event at `before`, -1 for none, to `ts`: panes out of a window are emptied."""
    r.newest = ts
    if before < 0 or before // PANE_5M_MS == ts // PANE_5M_MS:
        return  # the panes of the other windows are multiples of this one
    if ts - before > LATENESS_MS:
        # Nothing that is remembered can be repeated any more, and low 32 bits would come round after 49 days.
        r.remembered = 0
    _roll_5m(r, changes, before // PANE_5M_MS, ts // PANE_5M_MS)
    old, new = before // PANE_15M_MS, ts // PANE_15M_MS
    for pane in range(max(old + 1, new - PANES_15M + 1), new + 1):
        changes.dirty[OF_15M, pane % PANES_15M] = 1
        r.latency_15m_n[pane % PANES_15M] = 0
        r.latency_15m_sum[pane % PANES_15M] = 0.0
    old, new = before // PANE_1H_MS, ts // PANE_1H_MS
    for pane in range(max(old + 1, new - PANES_1H + 1), new + 1):
        changes.dirty[OF_1H, pane % PANES_1H] = 1
        r.latency_1h_n[pane % PANES_1H] = 0
        r.latency_1h_sum[pane % PANES_1H] = 0.0
    if before // PANE_BASELINE_MS != ts // PANE_BASELINE_MS:
        _roll_baseline(r, changes, before // PANE_BASELINE_MS, ts // PANE_BASELINE_MS)


@inlined
def _roll_5m(r: Any, changes: Any, old: int, new: int) -> None:
    for pane in range(max(old + 1, new - PANES_5M + 1), new + 1):
        i = pane % PANES_5M
        changes.dirty[OF_5M, i] = 1
        r.latency_5m_n[i] = 0
        r.latency_5m_mean[i] = 0.0
        r.latency_5m_m2[i] = 0.0
        r.utilization_5m_n[i] = 0
        r.utilization_5m_sum[i] = 0.0


@inlined
def _roll_baseline(r: Any, changes: Any, old: int, new: int) -> None:
    for m in range(3):
        n = r.open_n[m, 0]
        _close(r, changes, m, old, r.open_sum[m, 0] / n if n > 0 else np.nan)
        for pane in range(max(old + 1, new - PANES_BASELINE), new):
            _close(r, changes, m, pane, np.nan)
        follows = new == old + 1
        r.open_n[m, 1] = n if follows else 0
        r.open_sum[m, 1] = r.open_sum[m, 0] if follows else 0.0
        r.open_n[m, 0] = 0
        r.open_sum[m, 0] = 0.0


@inlined
def add(r: Any, changes: Any, ts: int, seen: int, latency: float, utilization: float, bandwidth: float) -> None:
    """Let an accepted event at `ts`, at most `LATENESS_MS` behind its stream's newest, enter the stream's windows."""
    changes.dirty[HEAD, 0] = 1
    r.last_seen = seen
    _remember(r, changes, ts)
    newest = r.newest
    if not np.isnan(latency):
        _add_latency(r, changes, ts, newest, latency)
    if not np.isnan(utilization) and ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if r.utilization_5m_n[i] < _PANE_EVENTS_MAX:
            changes.dirty[OF_5M, i] = 1
            r.utilization_5m_n[i] += 1
            r.utilization_5m_sum[i] += utilization
    pane = ts // PANE_BASELINE_MS
    late = newest // PANE_BASELINE_MS - pane  # 0 or 1: lateness is shorter than a pane
    _add_baseline(r, changes, LATENCY, pane, late, latency)
    if utilization > ACTIVE_ABOVE_PERCENT:
        _add_baseline(r, changes, UTILIZATION, pane, late, utilization)
        _add_baseline(r, changes, BANDWIDTH, pane, late, bandwidth)


@inlined
def _remember(r: Any, changes: Any, ts: int) -> None:
    i = r.remembered % REMEMBERED
    changes.dirty[RECENT, i] = 1
    r.recent[i] = np.uint32(ts & 0xFFFFFFFF)
    # At 128 back to 64: the same place in the ring, and no overflow.
    r.remembered = r.remembered + 1 if r.remembered + 1 < 2 * REMEMBERED else REMEMBERED


@inlined
def _add_latency(r: Any, changes: Any, ts: int, newest: int, x: float) -> None:
    if ts // PANE_5M_MS > newest // PANE_5M_MS - PANES_5M:
        i = (ts // PANE_5M_MS) % PANES_5M
        if r.latency_5m_n[i] < _PANE_EVENTS_MAX:
            changes.dirty[OF_5M, i] = 1
            r.latency_5m_n[i] += 1
            delta = x - r.latency_5m_mean[i]
            r.latency_5m_mean[i] += delta / r.latency_5m_n[i]
            r.latency_5m_m2[i] += delta * (x - r.latency_5m_mean[i])
    if ts // PANE_15M_MS > newest // PANE_15M_MS - PANES_15M:
        i = (ts // PANE_15M_MS) % PANES_15M
        if r.latency_15m_n[i] < _PANE_EVENTS_MAX:
            changes.dirty[OF_15M, i] = 1
            r.latency_15m_n[i] += 1
            r.latency_15m_sum[i] += x
    # Lateness is shorter than an hour, so every accepted event is in this window.
    i = (ts // PANE_1H_MS) % PANES_1H
    changes.dirty[OF_1H, i] = 1
    r.latency_1h_n[i] += 1
    r.latency_1h_sum[i] += x


@inlined
def _add_baseline(r: Any, changes: Any, metric: int, pane: int, late: int, x: float) -> None:
    if np.isnan(x):
        return
    r.open_n[metric, late] += 1
    r.open_sum[metric, late] += x
    if late > 0:
        _close(r, changes, metric, pane, r.open_sum[metric, 1] / r.open_n[metric, 1])


@inlined
def _close(r: Any, changes: Any, metric: int, pane: int, mean: float) -> None:
    i = pane % PANES_BASELINE
    baselines.put(r.closed_high, r.closed_low, metric, i, mean)
    changes.dirty[OF_CLOSED, i] = 1
    r.is_current = 0


@inlined
def refresh_baseline(r: Any) -> None:
    """Bring `r.baseline` up to date: the median of the closed panes' means, NaN where none has a value."""
    if r.is_current != 0:
        return
    for m in range(3):
        # Fresh memory guesses 0, which is as good as any.
        r.baseline[m] = baselines.median(r.closed_high, r.closed_low, m, r.baseline[m])
    r.is_current = 1


@inlined
def open_mean(r: Any, metric: int) -> float:
    """Return the mean of the current baseline pane so far, the stand-in until one has closed."""
    n = r.open_n[metric, 0]
    return float(r.open_sum[metric, 0] / n) if n > 0 else np.nan


@inlined
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


@inlined
def latency_15m(r: Any) -> float:
    """Return the mean of latency over 15 min; NaN where nothing was read."""
    n = np.int64(0)
    a, b, c = 0.0, 0.0, 0.0
    for i in range(0, PANES_15M, 3):
        n += np.int64(r.latency_15m_n[i]) + np.int64(r.latency_15m_n[i + 1]) + np.int64(r.latency_15m_n[i + 2])
        a += r.latency_15m_sum[i]
        b += r.latency_15m_sum[i + 1]
        c += r.latency_15m_sum[i + 2]
    return (a + b + c) / n if n > 0 else np.nan


@inlined
def latency_1h(r: Any) -> float:
    """Return the mean of latency over 1 h; NaN where nothing was read."""
    n = np.int64(0)
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, PANES_1H, 4):
        n += (
            np.int64(r.latency_1h_n[i])
            + np.int64(r.latency_1h_n[i + 1])
            + np.int64(r.latency_1h_n[i + 2])
            + np.int64(r.latency_1h_n[i + 3])
        )
        a += r.latency_1h_sum[i]
        b += r.latency_1h_sum[i + 1]
        c += r.latency_1h_sum[i + 2]
        d += r.latency_1h_sum[i + 3]
    return ((a + b) + (c + d)) / n if n > 0 else np.nan


@inlined
def utilization_5m(r: Any) -> float:
    """Return the mean of utilization over 5 min; NaN where nothing was read."""
    n = np.int64(0)
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    for i in range(0, PANES_5M, 4):
        n += (
            np.int64(r.utilization_5m_n[i])
            + np.int64(r.utilization_5m_n[i + 1])
            + np.int64(r.utilization_5m_n[i + 2])
            + np.int64(r.utilization_5m_n[i + 3])
        )
        a += r.utilization_5m_sum[i]
        b += r.utilization_5m_sum[i + 1]
        c += r.utilization_5m_sum[i + 2]
        d += r.utilization_5m_sum[i + 3]
    return ((a + b) + (c + d)) / n if n > 0 else np.nan
