"""The kernel: the 24 features and the rule label of each event, over the state of its stream.

One compiled loop takes events one after another, so the edges of a batch never show: worker and backfill, whatever
their batches, give the same bytes. Definitions: section 3 of the design; names and order: `contract.FEATURES`.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from streams import windows
from streams.calendar import Transitions, offset_at
from streams.labels import HEALTHY_CODE, OPERANDS, RuleTable, first_match, rule_risk
from streams.windows import BANDWIDTH, LATENCY, UTILIZATION, Windows

ROW, LATE, REPEAT, TOO_LATE = 0, 1, 2, 3
"""What becomes of an event: a row of features; entered its windows, older than the newest; dropped; rejected."""

_PREVIOUS_MS_MAX = 3_600_000
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_HOUR_MS, _DAY_MS, _MINUTE_MS = 3_600_000, 86_400_000, 60_000.0


class Columns(NamedTuple):
    """Events of one partition in log order."""

    slot: NDArray[np.int64]  # (n,) of the stream
    ts: NDArray[np.int64]  # (n,) event time, ms
    metrics: NDArray[np.float64]  # (n, 6) in the order of `contract.METRICS`, NaN missing
    seen: NDArray[np.int64]  # (n,) ms, time of each event's record by the broker's clock; 0 where there is no broker


class Rows(NamedTuple):
    """What the events that are their stream's newest gave, in log order; m rows."""

    event: NDArray[np.intp]  # (m,) index of the row's event in the columns
    features: NDArray[np.float32]  # (m, 24) in the order of `contract.FEATURES`, NaN missing
    label: NDArray[np.int8]  # (m,) rule label, an index into `contract.CLASSES`
    rule_risk: NDArray[np.float64]  # (m,) 0 to 100
    confidence: NDArray[np.float64]  # (m,) of the rule
    needs_review: NDArray[np.bool_]  # (m,)


@numba.njit(nogil=True, cache=True)
def advance(
    w: Windows,
    calendar: Transitions,
    rules: RuleTable,
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    metrics: NDArray[np.float64],
    seen: NDArray[np.int64],
    disposition: NDArray[np.int8],
    features: NDArray[np.float32],
    label: NDArray[np.int8],
    risk: NDArray[np.float64],
    confidence: NDArray[np.float64],
) -> None:
    row = 0
    operands = np.empty(len(OPERANDS))
    offset = offset_at(calendar, 0)
    for i in range(slot.size):
        s, t = slot[i], ts[i]
        newest = -1 if windows.starts_anew(w, s, seen[i]) else w.rows[s].newest
        r = w.rows[s]
        if t < newest - windows.LATENESS_MS:
            disposition[i] = TOO_LATE
            continue
        is_newest = t > newest
        if not is_newest and windows.is_repeat(r, t):
            disposition[i] = REPEAT
            continue
        if is_newest:
            windows.roll(r, w.dirty, newest, t)
        windows.add(r, w.dirty, t, seen[i], metrics[i, 0], metrics[i, 1], metrics[i, 3])
        if not is_newest:
            disposition[i] = LATE
            continue
        disposition[i] = ROW
        if not offset.since <= t < offset.until:
            offset = offset_at(calendar, t)
        _describe(r, t, newest, metrics[i], t + offset.offset, features[row], operands)
        rule = first_match(rules, operands)
        label[row] = rules.class_code[rule] if rule >= 0 else HEALTHY_CODE
        risk[row] = rule_risk(rules, rule, operands) if rule >= 0 else 0.0
        confidence[row] = rules.confidence[rule] if rule >= 0 else rules.healthy_confidence
        row += 1


@numba.njit(nogil=True)
def _describe(
    r: Any,
    t: int,
    before: int,
    metrics: NDArray[np.float64],
    local: int,
    f: NDArray[np.float32],
    operands: NDArray[np.float64],
) -> None:
    """Write the features of a stream's newest event and the operands of the rules.

    `before` is the event time of the one before, -1 for none, and `local` that of this one in the fabric's time zone.
    """
    latency, utilization, error_rate, bandwidth = metrics[0], metrics[1], metrics[2], metrics[3]
    windows.refresh_baseline(r)
    latency_b, utilization_b, bandwidth_b = r.baseline[LATENCY], r.baseline[UTILIZATION], r.baseline[BANDWIDTH]
    _describe_rule_operands(metrics, latency_b, utilization_b, bandwidth_b, operands)
    # Until a pane with a value has closed, the mean of the open one is the best there is; but no rule rests on it.
    latency_b = windows.open_mean(r, LATENCY) if np.isnan(latency_b) else latency_b
    utilization_b = windows.open_mean(r, UTILIZATION) if np.isnan(utilization_b) else utilization_b
    bandwidth_b = windows.open_mean(r, BANDWIDTH) if np.isnan(bandwidth_b) else bandwidth_b
    delta_pct = _percent_above(latency, latency_b)
    for m in range(5):
        f[m] = metrics[m]
    f[5], f[6] = windows.latency_5m(r)
    f[7] = windows.window_mean(r.latency_15m_n, r.latency_15m_sum, windows.PANES_15M)
    f[8] = windows.window_mean(r.latency_1h_n, r.latency_1h_sum, windows.PANES_1H)
    f[9] = windows.window_mean(r.utilization_5m_n, r.utilization_5m_sum, windows.PANES_5M)
    f[10] = delta_pct
    f[11] = latency - latency_b
    f[12] = utilization - utilization_b
    f[13] = _percent_above(bandwidth, bandwidth_b)
    _describe_rates(r, t, before, latency, utilization, f)
    _describe_time(local, f)
    f[21] = latency * utilization / 100.0
    f[22] = error_rate * bandwidth
    f[23] = _health_score(utilization, delta_pct, error_rate)


@numba.njit(nogil=True)
def _health_score(utilization: float, delta_pct: float, error_rate: float) -> float:
    if np.isnan(delta_pct):
        return np.nan
    harm = 0.4 * utilization + 0.3 * min(100.0, max(0.0, delta_pct)) + 0.3 * error_rate * 1000.0
    return 100.0 - min(100.0, max(0.0, harm)) if not np.isnan(harm) else np.nan


@numba.njit(nogil=True)
def _percent_above(x: float, baseline: float) -> float:
    if baseline == 0.0:
        return np.nan
    percent = (x - baseline) / baseline * 100.0
    # A baseline next to nothing would make it infinite, which XGBoost refuses to learn from.
    return min(percent, _FLOAT32_MAX) if percent > 0.0 else percent


@numba.njit(nogil=True)
def _describe_rule_operands(
    metrics: NDArray[np.float64],
    latency_b: float,
    utilization_b: float,
    bandwidth_b: float,
    operands: NDArray[np.float64],
) -> None:
    n = metrics.size
    operands[:n] = metrics
    operands[n], operands[n + 1], operands[n + 2] = latency_b, utilization_b, bandwidth_b
    operands[n + 3] = (metrics[0] - latency_b) / latency_b if latency_b != 0.0 else np.nan
    operands[n + 4] = metrics[3] / bandwidth_b if bandwidth_b != 0.0 else np.nan


@numba.njit(nogil=True)
def _describe_rates(r: Any, t: int, before: int, latency: float, utilization: float, f: NDArray[np.float32]) -> None:
    rate, accel, utilization_rate = np.nan, np.nan, np.nan
    if before >= 0 and t - before <= _PREVIOUS_MS_MAX:
        minutes = (t - before) / _MINUTE_MS
        rate = (latency - r.previous[0]) / minutes
        utilization_rate = (utilization - r.previous[1]) / minutes
        accel = (rate - r.previous[2]) / minutes
    f[14], f[15], f[16] = rate, accel, utilization_rate
    r.previous[0], r.previous[1], r.previous[2] = latency, utilization, rate


@numba.njit(nogil=True)
def _describe_time(local: int, f: NDArray[np.float32]) -> None:
    hour = local // _HOUR_MS % 24
    day = (local // _DAY_MS + 3) % 7  # the epoch was a Thursday, Monday is 0
    f[17], f[18] = hour, day
    f[19] = 1.0 if day >= 5 else 0.0
    f[20] = 1.0 if 8 <= hour <= 18 else 0.0
