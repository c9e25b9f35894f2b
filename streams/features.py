"""The kernel: the 24 features and the rule label of each event, over the state of its stream.

One compiled loop takes events one after another, so the edges of a batch never show: worker and backfill, whatever
their batches, give the same bytes. Definitions: section 3 of the design; names and order: `contract.FEATURES`.
"""

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from streams import windows
from streams.calendar import Transitions
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
    seen: NDArray[np.int64]  # (n,) the broker's time of the record, ms; zeros where there is no broker


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
    disposition: NDArray[np.int8],
    features: NDArray[np.float32],
    label: NDArray[np.int8],
    risk: NDArray[np.float64],
    confidence: NDArray[np.float64],
) -> None:
    row = 0
    operands = np.empty(len(OPERANDS))
    for i in range(slot.size):
        s, t = slot[i], ts[i]
        newest = w.newest[s]
        if t < newest - windows.LATENESS_MS:
            disposition[i] = TOO_LATE
            continue
        is_newest = t > newest
        if not is_newest and windows.is_repeat(w, s, t):
            disposition[i] = REPEAT
            continue
        if is_newest:
            windows.roll(w, s, t)
        windows.add(w, s, t, metrics[i, 0], metrics[i, 1], metrics[i, 3])
        if not is_newest:
            disposition[i] = LATE
            continue
        disposition[i] = ROW
        _describe(w, s, t, newest, metrics[i], calendar, features[row], operands)
        rule = first_match(rules, operands)
        label[row] = rules.class_code[rule] if rule >= 0 else HEALTHY_CODE
        risk[row] = rule_risk(rules, rule, operands) if rule >= 0 else 0.0
        confidence[row] = rules.confidence[rule] if rule >= 0 else rules.healthy_confidence
        row += 1


@numba.njit(nogil=True)
def _describe(
    w: Windows,
    s: int,
    t: int,
    before: int,
    metrics: NDArray[np.float64],
    calendar: Transitions,
    f: NDArray[np.float32],
    operands: NDArray[np.float64],
) -> None:
    """Write the features of stream `s`'s newest event and the operands of the rules; `before` is the event before."""
    latency, utilization, error_rate, bandwidth = metrics[0], metrics[1], metrics[2], metrics[3]
    windows.refresh_baseline(w, s)
    closed = w.baseline[s]
    latency_b, utilization_b, bandwidth_b = closed[LATENCY], closed[UTILIZATION], closed[BANDWIDTH]
    _describe_rule_operands(metrics, latency_b, utilization_b, bandwidth_b, operands)
    # Until a pane with a value has closed, the mean of the open one is the best there is; but no rule rests on it.
    latency_b = windows.open_mean(w, s, LATENCY) if np.isnan(latency_b) else latency_b
    utilization_b = windows.open_mean(w, s, UTILIZATION) if np.isnan(utilization_b) else utilization_b
    bandwidth_b = windows.open_mean(w, s, BANDWIDTH) if np.isnan(bandwidth_b) else bandwidth_b
    delta_pct = _percent_above(latency, latency_b)
    mean_5m, std_5m = windows.latency_5m(w, s)
    for m in range(5):
        f[m] = metrics[m]
    f[5], f[6] = mean_5m, std_5m
    f[7] = windows.window_mean(w.latency_15m_n[s], w.latency_15m_sum[s])
    f[8] = windows.window_mean(w.latency_1h_n[s], w.latency_1h_sum[s])
    f[9] = windows.window_mean(w.utilization_5m_n[s], w.utilization_5m_sum[s])
    f[10] = delta_pct
    f[11] = latency - latency_b
    f[12] = utilization - utilization_b
    f[13] = _percent_above(bandwidth, bandwidth_b)
    _describe_rates(w, s, t, before, latency, utilization, f)
    _describe_time(t, calendar, f)
    f[21] = latency * utilization / 100.0
    f[22] = error_rate * bandwidth
    if np.isnan(delta_pct):
        f[23] = np.nan
    else:
        harm = 0.4 * utilization + 0.3 * min(100.0, max(0.0, delta_pct)) + 0.3 * error_rate * 1000.0
        f[23] = 100.0 - min(100.0, max(0.0, harm)) if not np.isnan(harm) else np.nan


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
def _describe_rates(
    w: Windows, s: int, t: int, before: int, latency: float, utilization: float, f: NDArray[np.float32]
) -> None:
    rate, accel, utilization_rate = np.nan, np.nan, np.nan
    if before >= 0 and t - before <= _PREVIOUS_MS_MAX:
        minutes = (t - before) / _MINUTE_MS
        rate = (latency - w.previous[s, 0]) / minutes
        utilization_rate = (utilization - w.previous[s, 1]) / minutes
        accel = (rate - w.previous[s, 2]) / minutes
    f[14], f[15], f[16] = rate, accel, utilization_rate
    w.previous[s, 0], w.previous[s, 1], w.previous[s, 2] = latency, utilization, rate


@numba.njit(nogil=True)
def _describe_time(t: int, calendar: Transitions, f: NDArray[np.float32]) -> None:
    local = t + calendar.offset[np.searchsorted(calendar.since, t, side="right") - 1]
    hour = local // _HOUR_MS % 24
    day = (local // _DAY_MS + 3) % 7  # the epoch was a Thursday, Monday is 0
    f[17], f[18] = hour, day
    f[19] = 1.0 if day >= 5 else 0.0
    f[20] = 1.0 if 8 <= hour <= 18 else 0.0
