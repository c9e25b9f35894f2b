"""The plain, slow, independent truth about features and rule labels, straight from docs/features.md.

Every accepted event is kept and every window is computed anew from its definition: no panes in memory, no running sums,
no array. It shares nothing with the kernel but the contract, so that the two can't be wrong in the same way. Where a
value is missing, it is None.
"""

import math
import statistics
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo

from streams.contract import HEALTHY, MetricEvent

LATENESS_MS = 600_000
REMEMBERED = 64
PREVIOUS_MS_MAX = 3_600_000
BASELINE_PANE_MS = 900_000
BASELINE_PANES = 96
ACTIVE_ABOVE_PERCENT = 5

Disposition = Literal["row", "late", "repeat", "too_late"]


class Ruling(NamedTuple):
    """What the rules say of one event."""

    label: str
    risk: int
    confidence: float
    needs_review: bool


class Verdict(NamedTuple):
    """What becomes of one event; all but the disposition is empty unless it is a row."""

    disposition: Disposition
    features: Mapping[str, float | None] = MappingProxyType({})
    rule_baselines: Mapping[str, float | None] = MappingProxyType({})  # of closed panes only
    ruling: Ruling | None = None
    since_previous_min: float | None = None


def reference(events: list[MetricEvent], time_zone: str = "UTC") -> list[Verdict]:
    """Return one verdict per event; `events` come in arrival order, of any streams."""
    streams: dict[str, _Stream] = {}
    zone = ZoneInfo(time_zone)
    return [streams.setdefault(event.stream_id, _Stream(zone)).take(event) for event in events]


class _Stream:
    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._accepted: list[MetricEvent] = []  # in arrival order
        self._newest: MetricEvent | None = None
        self._newest_rate: float | None = None  # its feature latency_p99_rate

    def take(self, event: MetricEvent) -> Verdict:
        disposition = self._disposition(event.ts)
        if disposition in ("row", "late"):
            self._accepted.append(event)
        if disposition != "row":
            return Verdict(disposition)
        rule_baselines = {m: self._closed_baseline(event, m) for m in ("latency_p99", "utilization", "bandwidth_gbps")}
        elapsed_ms = event.ts - self._newest.ts if self._newest else math.inf
        since_previous_min = elapsed_ms / 60_000 if elapsed_ms <= PREVIOUS_MS_MAX else None
        features = self._features(event, since_previous_min)
        self._newest, self._newest_rate = event, features["latency_p99_rate"]
        return Verdict(disposition, features, rule_baselines, rule(event, rule_baselines), since_previous_min)

    def _disposition(self, ts: int) -> Disposition:
        if self._newest is None:
            return "row"
        if ts < self._newest.ts - LATENESS_MS:
            return "too_late"
        if ts == self._newest.ts or ts in [event.ts for event in self._accepted[-REMEMBERED:]]:
            return "repeat"
        return "row" if ts > self._newest.ts else "late"

    def _features(self, event: MetricEvent, since_previous_min: float | None) -> dict[str, float | None]:
        latency, utilization, bandwidth = event.latency_p99, event.utilization, event.bandwidth_gbps
        latency_baseline = self._baseline(event, "latency_p99")
        delta_pct = _percent_above(latency, latency_baseline)
        previous = self._newest or MetricEvent(stream_id=event.stream_id, ts=0)  # the first has one that lacks all
        rate = _rate(latency, previous.latency_p99, since_previous_min)
        of_latency_5m = self._window(event.ts, "latency_p99", span_ms=300_000, pane_ms=15_000)
        return {
            "latency_p99": latency,
            "utilization": utilization,
            "error_rate": event.error_rate,
            "bandwidth_gbps": bandwidth,
            "qp_errors": event.qp_errors,
            "latency_p99_5m_avg": _mean(of_latency_5m),
            "latency_p99_5m_std": statistics.stdev(of_latency_5m) if len(of_latency_5m) >= 2 else None,
            "latency_p99_15m_avg": _mean(self._window(event.ts, "latency_p99", span_ms=900_000, pane_ms=60_000)),
            "latency_p99_1h_avg": _mean(self._window(event.ts, "latency_p99", span_ms=3_600_000, pane_ms=300_000)),
            "utilization_5m_avg": _mean(self._window(event.ts, "utilization", span_ms=300_000, pane_ms=15_000)),
            "latency_p99_delta_pct": delta_pct,
            "latency_p99_delta_abs": _known(lambda x, b: x - b, latency, latency_baseline),
            "utilization_delta_pct": _known(lambda x, b: x - b, utilization, self._baseline(event, "utilization")),
            "bandwidth_delta_pct": _percent_above(bandwidth, self._baseline(event, "bandwidth_gbps")),
            "latency_p99_rate": rate,
            "latency_p99_accel": _rate(rate, self._newest_rate, since_previous_min),
            "utilization_rate": _rate(utilization, previous.utilization, since_previous_min),
            **self._calendar(event.ts),
            "latency_x_utilization": _known(lambda x, y: x * y / 100, latency, utilization),
            "error_x_bandwidth": _known(lambda x, y: x * y, event.error_rate, bandwidth),
            "health_score": _known(_health_score, utilization, delta_pct, event.error_rate),
        }

    def _window(self, ts: int, metric: str, *, span_ms: int, pane_ms: int) -> list[float]:
        last = ts // pane_ms
        return [
            value
            for event in self._accepted
            if last - span_ms // pane_ms < event.ts // pane_ms <= last
            if (value := getattr(event, metric)) is not None
        ]

    def _baseline(self, event: MetricEvent, metric: str) -> float | None:
        closed = self._closed_baseline(event, metric)
        return _mean(self._panes(metric)[event.ts // BASELINE_PANE_MS]) if closed is None else closed

    def _closed_baseline(self, event: MetricEvent, metric: str) -> float | None:
        current = event.ts // BASELINE_PANE_MS
        means = [
            kept(statistics.fmean(values))
            for index, values in self._panes(metric).items()
            if current - BASELINE_PANES <= index < current
        ]
        return statistics.median(means) if means else None

    def _panes(self, metric: str) -> dict[int, list[float]]:
        panes: dict[int, list[float]] = defaultdict(list)
        for event in self._accepted:
            value = getattr(event, metric)
            if value is not None and (metric == "latency_p99" or _is_active(event)):
                panes[event.ts // BASELINE_PANE_MS].append(value)
        return panes

    def _calendar(self, ts: int) -> dict[str, float | None]:
        local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts)).astimezone(self._zone)
        return {
            "hour": local.hour,
            "day_of_week": local.weekday(),
            "is_weekend": local.weekday() >= 5,
            "is_business_hours": 8 <= local.hour <= 18,
        }


def rule(event: MetricEvent, baselines: Mapping[str, float | None]) -> Ruling:
    """Return the verdict of the first rule that fires on `event`, whose baselines are those of closed panes."""
    # No comparison with NaN holds, so a missing operand never makes a rule fire.
    latency, utilization, error_rate, bandwidth, qp_errors, mr_failures = (
        math.nan if value is None else value
        for value in (
            event.latency_p99,
            event.utilization,
            event.error_rate,
            event.bandwidth_gbps,
            event.qp_errors,
            event.mr_failures,
        )
    )
    usual = {metric: math.nan if baseline is None else baseline for metric, baseline in baselines.items()}
    increase = (latency - usual["latency_p99"]) / (usual["latency_p99"] or math.nan)
    ratio = bandwidth / (usual["bandwidth_gbps"] or math.nan)

    if utilization > 90:
        return _ruling("resource_saturation", 70 + (utilization - 90) * 3, 0.95)
    if qp_errors > 100:
        return _ruling("qp_error_rate_high", 60 + qp_errors / 10, 0.90)
    if mr_failures > 0:
        return _ruling("memory_registration_failure", 75, 0.90)
    if error_rate > 0.05 and latency > usual["latency_p99"] * 4:
        return _ruling("rdma_timeout", 95, 0.92)
    if increase > 0.5:
        return _ruling("performance_degradation", 60 + increase * 60, 0.85)
    if error_rate > 0.02:
        return _ruling("packet_loss_detected", 50 + error_rate * 1000, 0.88)
    if 0.3 < increase <= 0.5:
        return _ruling("latency_spike", 70, 0.80)
    if ratio < 0.7 and _is_active(event) and utilization >= usual["utilization"]:
        return _ruling("bandwidth_throttling", 60 + (1 - ratio) * 50, 0.75)
    if 0.01 < error_rate <= 0.02:
        return _ruling("connection_instability", 65, 0.82)
    if utilization > 80 or increase > 0.2 or error_rate > 0.005:
        return _ruling("anomaly_detected", 55, 0.65)
    return _ruling(HEALTHY, 0, 0.90)


def _ruling(label: str, risk: float, confidence: float) -> Ruling:
    return Ruling(label, int(min(100, risk)), confidence, confidence < 0.75)


def kept(mean: float) -> float:
    """Return what is kept of a closed pane's mean, which is not negative: all but the last 15 bits of the float64."""
    (bits,) = struct.unpack("<q", struct.pack("<d", mean))
    return struct.unpack("<d", struct.pack("<q", bits >> 15 << 15))[0]


def _is_active(event: MetricEvent) -> bool:
    return event.utilization is not None and event.utilization > ACTIVE_ABOVE_PERCENT


def _known(formula: Callable[..., float], *operands: float | None) -> float | None:
    return None if None in operands else formula(*operands)


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _percent_above(x: float | None, baseline: float | None) -> float | None:
    return _known(lambda x, b: (x - b) / b * 100, x, baseline or None)  # a baseline of 0 has no percentage


def _rate(x: float | None, before: float | None, minutes: float | None) -> float | None:
    return _known(lambda x, before, minutes: (x - before) / minutes, x, before, minutes)


def _health_score(utilization: float, latency_delta_pct: float, error_rate: float) -> float:
    strain = 0.4 * utilization + 0.3 * _clip(latency_delta_pct) + 0.3 * error_rate * 1000
    return 100 - _clip(strain)


def _clip(value: float) -> float:
    return min(max(value, 0.0), 100.0)
