"""The kernel: the 24 features and the rule label of each event, over the state of its stream.

One compiled loop takes events one after another, so the edges of a batch never show: worker and backfill, whatever
their batches, give the same bytes. Definitions: docs/features.md; names and order: `contract.FEATURES`.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.contract import FEATURES, IDLE_MS, METRICS
from streams.features import panes, windows
from streams.features.calendar import Transitions, offset_at
from streams.features.labels import HEALTHY_CODE, first_match, rule_risk
from streams.features.panes import BANDWIDTH, LATENCY, UTILIZATION
from streams.features.prefetch import prefetch
from streams.features.windows import Windows

ROW, LATE, REPEAT, TOO_LATE = 0, 1, 2, 3
"""What becomes of an event: a row of features; entered its windows, older than the newest; dropped; rejected."""

_PREVIOUS_MS_MAX = 3_600_000
_AHEAD = 4
"""How many events before its turn a stream is fetched: µs an event fell from 0.80 to 0.34 among 10⁵ streams."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_HOUR_MS, _DAY_MS, _MINUTE_MS = 3_600_000, 86_400_000, 60_000.0


class Columns(NamedTuple):
    """Events of one partition in log order."""

    slot: NDArray[np.int64]  # (n,) of the stream
    ts: NDArray[np.int64]  # (n,) event time, ms
    metrics: NDArray[np.float64]  # (n, 12) in the order of `contract.METRICS`, NaN missing
    seen: NDArray[np.int64]  # (n,) the broker's time of the record, ms; zeros where there is no broker


class Rows(NamedTuple):
    """What the events that are their stream's newest gave, in log order; m rows."""

    event: NDArray[np.intp]  # (m,) index of the row's event in the columns
    features: NDArray[np.float32]  # (m, 24) in the order of `contract.FEATURES`, NaN missing
    label: NDArray[np.int8]  # (m,) rule label, an index into `contract.CLASSES`
    rule_risk: NDArray[np.float64]  # (m,) 0 to 100
    confidence: NDArray[np.float64]  # (m,) of the rule
    needs_review: NDArray[np.bool_]  # (m,)


METRIC_ROW = np.dtype([(name, np.float64) for name in METRICS])
FEATURE_ROW = np.dtype([(name, np.float32) for name in FEATURES])
"""A row of metrics and one of features by name. Compiled code hands on records, for nobody counts references to them:
whoever calls it holds the arrays that they lie in."""


@kernel
def advance(
    w: Windows,
    calendar: Transitions,
    rules: NDArray[np.void],  # (1,) of labels.COMPILED
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    metrics: NDArray[np.void],  # (n,) of METRIC_ROW
    seen: NDArray[np.int64],
    scratch: NDArray[np.void],  # (1,) of OPERAND_ROW
    disposition: NDArray[np.int8],
    features: NDArray[np.void],  # (n,) of FEATURE_ROW
    label: NDArray[np.int8],
    risk: NDArray[np.float64],
    confidence: NDArray[np.float64],
) -> None:
    row = 0
    table, changes, operands = rules[0], w.changes[0], scratch[0]
    offset = offset_at(calendar, 0)
    for i in range(slot.size):
        if i + _AHEAD < slot.size:
            prefetch(w.rows, slot[i + _AHEAD])
        r, t, x = w.rows[slot[i]], ts[i], metrics[i]
        if r.remembered > 0 and seen[i] - r.last_seen > IDLE_MS:
            windows.empty_row(w, slot[i])
        newest = r.newest if r.remembered > 0 else -1
        if t < newest - windows.LATENESS_MS:
            disposition[i] = TOO_LATE
            continue
        is_newest = t > newest
        if not is_newest and panes.is_repeat(r, t):
            disposition[i] = REPEAT
            continue
        if is_newest:
            panes.roll(r, changes, newest, t)
        panes.add(r, changes, t, seen[i], x.latency_p99, x.utilization, x.bandwidth_gbps)
        if not is_newest:
            disposition[i] = LATE
            continue
        disposition[i] = ROW
        if not offset.since <= t < offset.until:
            offset = offset_at(calendar, t)
        _describe(r, t, newest, x, t + offset.offset, features[row], operands)
        rule = first_match(table, operands)
        label[row] = table.class_code[rule] if rule >= 0 else HEALTHY_CODE
        risk[row] = rule_risk(table, rule, operands) if rule >= 0 else 0.0
        confidence[row] = table.confidence[rule] if rule >= 0 else table.healthy_confidence
        row += 1


@inlined
def _describe(r: Any, t: int, before: int, x: Any, local: int, f: Any, operands: Any) -> None:
    """Write the features `f` of a stream's newest event, whose metrics are `x`, and the operands of the rules.

    `before` is the event time of the one before, -1 for none, and `local` that of this one in the fabric's time zone.
    """
    panes.refresh_baseline(r)
    latency_b, utilization_b, bandwidth_b = r.baseline[LATENCY], r.baseline[UTILIZATION], r.baseline[BANDWIDTH]
    _describe_rule_operands(x, latency_b, utilization_b, bandwidth_b, operands)
    # Until a pane with a value has closed, the mean of the open one is the best there is; but no rule rests on it.
    latency_b = panes.open_mean(r, LATENCY) if np.isnan(latency_b) else latency_b
    utilization_b = panes.open_mean(r, UTILIZATION) if np.isnan(utilization_b) else utilization_b
    bandwidth_b = panes.open_mean(r, BANDWIDTH) if np.isnan(bandwidth_b) else bandwidth_b
    delta_pct = _percent_above(x.latency_p99, latency_b)
    f.latency_p99, f.utilization, f.error_rate = x.latency_p99, x.utilization, x.error_rate
    f.bandwidth_gbps, f.qp_errors = x.bandwidth_gbps, x.qp_errors
    f.latency_p99_5m_avg, f.latency_p99_5m_std = panes.latency_5m(r)
    f.latency_p99_15m_avg = panes.latency_15m(r)
    f.latency_p99_1h_avg = panes.latency_1h(r)
    f.utilization_5m_avg = panes.utilization_5m(r)
    f.latency_p99_delta_pct = delta_pct
    f.latency_p99_delta_abs = x.latency_p99 - latency_b
    f.utilization_delta_pct = x.utilization - utilization_b
    f.bandwidth_delta_pct = _percent_above(x.bandwidth_gbps, bandwidth_b)
    _describe_rates(r, t, before, x, f)
    _describe_time(local, f)
    f.latency_x_utilization = x.latency_p99 * x.utilization / 100.0
    f.error_x_bandwidth = x.error_rate * x.bandwidth_gbps
    f.health_score = _health_score(x.utilization, delta_pct, x.error_rate)


@inlined
def _health_score(utilization: float, delta_pct: float, error_rate: float) -> float:
    if np.isnan(delta_pct):
        return np.nan
    harm = 0.4 * utilization + 0.3 * min(100.0, max(0.0, delta_pct)) + 0.3 * error_rate * 1000.0
    return 100.0 - min(100.0, max(0.0, harm)) if not np.isnan(harm) else np.nan


@inlined
def _percent_above(x: float, baseline: float) -> float:
    if baseline == 0.0:
        return np.nan
    percent = (x - baseline) / baseline * 100.0
    # A baseline next to nothing would make it infinite, which XGBoost refuses to learn from.
    return min(percent, _FLOAT32_MAX) if percent > 0.0 else percent


@inlined
def _describe_rule_operands(x: Any, latency_b: float, utilization_b: float, bandwidth_b: float, operands: Any) -> None:
    o = operands.of
    o[0], o[1], o[2], o[3] = x.latency_p99, x.utilization, x.error_rate, x.bandwidth_gbps
    o[4], o[5] = x.qp_errors, x.mr_failures
    o[6], o[7], o[8] = latency_b, utilization_b, bandwidth_b
    o[9] = (x.latency_p99 - latency_b) / latency_b if latency_b != 0.0 else np.nan
    o[10] = x.bandwidth_gbps / bandwidth_b if bandwidth_b != 0.0 else np.nan


@inlined
def _describe_rates(r: Any, t: int, before: int, x: Any, f: Any) -> None:
    rate, accel, utilization_rate = np.nan, np.nan, np.nan
    if before >= 0 and t - before <= _PREVIOUS_MS_MAX:
        minutes = (t - before) / _MINUTE_MS
        rate = (x.latency_p99 - r.previous[0]) / minutes
        utilization_rate = (x.utilization - r.previous[1]) / minutes
        accel = (rate - r.previous[2]) / minutes
    f.latency_p99_rate, f.latency_p99_accel, f.utilization_rate = rate, accel, utilization_rate
    r.previous[0], r.previous[1], r.previous[2] = x.latency_p99, x.utilization, rate


@inlined
def _describe_time(local: int, f: Any) -> None:
    hour = local // _HOUR_MS % 24
    day = (local // _DAY_MS + 3) % 7  # the epoch was a Thursday, Monday is 0
    f.hour, f.day_of_week = hour, day
    f.is_weekend = 1.0 if day >= 5 else 0.0
    f.is_business_hours = 1.0 if 8 <= hour <= 18 else 0.0
