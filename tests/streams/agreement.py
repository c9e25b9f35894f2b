"""The kernel and the reference over the same events, held together: any test that runs events through here checks both.

Tolerances. Both sides compute in float64 and the kernel stores float32, so a feature may be off by the rounding of that
store, 2⁻²⁴ of its size; `FLOAT32` leaves twice that. The rest is float64 arithmetic in another order (the reference
sums exactly): sums and means of values ≥ 0 don't cancel, so a relative error of n·2⁻⁵³ drowns in `FLOAT32`. Where two
computed values are subtracted, the error keeps the operands' size while the result shrinks, so such a feature may be
off by `FLOAT64` of its operands too: a thousandth of what a kernel with float32 panes, or a standard deviation from a
plain sum of squares, would need. Of a closed pane's mean 48 bits are kept on both sides; but where the last bits of a
sum carry it over the edge of what is cut off, the baseline differs by `KEPT`.
"""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np

from offline.backfill import Backfill, backfill_events
from streams.contract import CLASSES, FEATURES, MetricEvent
from tests.reference import Ruling, Verdict, reference, rule

DISPOSITIONS = ("row", "late", "repeat", "too_late")
FLOAT32 = 2.0**-23
FLOAT32_SUBNORMAL = 2.0**-149
FLOAT64 = 1e-12
KEPT = 2.0**-37


def agreed(events: list[MetricEvent], *, time_zone: str = "UTC") -> list[Verdict]:
    """Return the reference's verdicts, one per event, after holding the kernel to each of them."""
    verdicts = reference(events, time_zone)
    check(backfill_events(events, time_zone=time_zone), verdicts, events)
    return verdicts


def check(kernel: Backfill, verdicts: list[Verdict], events: list[MetricEvent]) -> None:
    """Raise `AssertionError` with the first event on which the kernel and the reference differ."""
    assert [DISPOSITIONS[code] for code in kernel.disposition] == [v.disposition for v in verdicts]
    assert kernel.rows.tolist() == [i for i, v in enumerate(verdicts) if v.disposition == "row"]
    assert kernel.features.dtype == np.float32
    for row, event_index in enumerate(kernel.rows):
        verdict, event = verdicts[event_index], events[event_index]
        for name, value in zip(FEATURES, kernel.features[row].tolist(), strict=True):
            wanted = verdict.features[name]
            assert _same(value, wanted, _tolerance(name, verdict)), f"{name} is {value}, not {wanted}: {event}"
        ruling = kernel_ruling(kernel, row)
        assert ruling == verdict.ruling or ruling in _rulings_within_rounding(event, verdict), (
            f"{ruling}, not {verdict.ruling}: {event} against {verdict.rule_baselines}"
        )


def kernel_ruling(kernel: Backfill, row: int) -> Ruling:
    """Return what the kernel's rules say of a row, in the reference's words."""
    return Ruling(
        CLASSES[kernel.label[row]],
        kernel.rule_risk[row].item(),
        kernel.confidence[row].item(),
        kernel.needs_review[row].item(),
    )


def _same(value: float, wanted: float | None, tolerance: float) -> bool:
    return math.isnan(value) if wanted is None else abs(value - wanted) <= tolerance


def _tolerance(name: str, verdict: Verdict) -> float:
    size = abs(verdict.features[name] or 0.0)
    of_operands = FLOAT64 + KEPT if "delta" in name or name == "health_score" else FLOAT64
    return FLOAT32 * size + of_operands * _operands(name, verdict) + FLOAT32_SUBNORMAL


def _operands(name: str, verdict: Verdict) -> float:
    """Return the size, in the feature's unit, of the computed values that a feature subtracts; 0 where it does not."""

    def size(feature: str) -> float:
        return abs(verdict.features[feature] or 0.0)

    match name:
        case "latency_p99_5m_std":  # Σ(x − mean)²: the readings' root mean square
            return math.hypot(size("latency_p99_5m_avg"), size(name))
        case "latency_p99_delta_abs":  # x − b, and b is x − (x − b)
            return size("latency_p99") + size(name)
        case "utilization_delta_pct":
            return size("utilization") + size(name)
        case "latency_p99_delta_pct" | "bandwidth_delta_pct":  # 100·x/b − 100
            return 100 + size(name)
        case "latency_p99_accel":  # two rates, each rounded
            return 2 * size("latency_p99_rate") / (verdict.since_previous_min or math.inf) + size(name)
        case "health_score":  # 100 − (≤ 40 + ≤ 30 + ≤ 300)
            return 470
    return 0.0


def _rulings_within_rounding(event: MetricEvent, verdict: Verdict) -> Iterator[Ruling]:
    # A bound or a truncated risk may turn on the last bit of a baseline, and the order of a sum decides that bit.
    for nudges in product((1 - FLOAT64, 1, 1 + FLOAT64, 1 - KEPT, 1 + KEPT), repeat=len(verdict.rule_baselines)):
        nudged = [None if b is None else b * n for b, n in zip(verdict.rule_baselines.values(), nudges, strict=True)]
        yield rule(event, dict(zip(verdict.rule_baselines, nudged, strict=True)))
