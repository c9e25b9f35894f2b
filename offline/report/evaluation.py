"""How well scores foretold what happened, on rows that neither taught nor calibrated.

Probabilities are judged at the base rate that risk was calibrated to: rows are weighted so that incidents are as
frequent as that.
"""

import numpy as np
from numpy.typing import NDArray

from offline.dataset.targets import HARD_DOWN, Targets
from offline.report.calls import Watched, calls_at, report
from online.episodes import OPENED_FROM_RISK
from online.models.bundle import Figures
from streams.contract import CLASSES

LEAD_MS_MIN = 300_000
"""How long before its start an incident must be called to count as called ahead."""
_ECE_BINS = 20


def evaluate(
    targets: Targets, risk: NDArray[np.float64], probabilities: NDArray[np.float64], base_rate: float
) -> Figures:
    """Return the figures of n rows scored with `risk` (n,) and `probabilities` (n, 11); of what no row can tell, None.

    `detected` is the share of rows inside incidents that aren't called healthy, `diagnosis_*` which fault is the most
    probable one there: whether and what are two questions. An incident is `caught` if any of its rows reaches the risk
    that opens an episode, and `caught_ahead` if one does at least 5 min before its start.
    """
    is_incident = targets.code > 0
    weight = np.where(is_incident, base_rate / is_incident.mean(), (1.0 - base_rate) / (1.0 - is_incident.mean()))
    p = risk / 100.0
    inside = is_incident & (targets.lead_ms <= 0) & (targets.code != HARD_DOWN)
    alarmed = risk >= OPENED_FROM_RISK
    true, called = targets.code[inside], 1 + probabilities[inside, 1:].argmax(axis=1)
    recall, f1 = _by_class(true, called)
    measured = [x for x in f1.values() if x is not None]
    return {
        "roc_auc": roc_auc(risk, is_incident),
        "ece": expected_calibration_error(p, is_incident, weight),
        "brier": float(np.average((p - is_incident) ** 2, weights=weight)),
        "false_alarm_rows": float(alarmed[~is_incident].mean()),
        "detected": float((probabilities[inside, 0] <= 0.5).mean()) if inside.any() else None,
        "diagnosis_accuracy": float((true == called).mean()) if inside.any() else None,
        "diagnosis_macro_f1": float(np.mean(measured)) if measured else None,
        "diagnosis_recall": recall,
        "diagnosis_f1": f1,
        "incidents": float(np.unique(targets.incident[is_incident]).size),
        "caught": float(np.unique(targets.incident[is_incident & alarmed]).size),
        "caught_ahead": float(
            np.unique(targets.incident[is_incident & alarmed & (targets.lead_ms >= LEAD_MS_MIN)]).size
        ),
    }


def evaluate_calls(watched: Watched, risk: NDArray[np.float64]) -> Figures:
    """Return the figures of the episodes that risk, shape (n,), opens: what an operator would have been told.

    Incidents are counted by cause, whatever number of streams one strikes. `called_before_max` is the share with a
    visible precursor: who calls more was lucky. `call_precision` is the share of calls that stand for an incident.
    """
    calls = calls_at(watched, risk)
    found = report(calls, watched.incidents)
    n = max(1, found.incidents)
    leads = list(found.called_before.values())
    first, last = np.full((2, len(watched.stream_ids)), -1)
    last[watched.stream] = watched.ts  # of equal indices the last one stays
    first[watched.stream[::-1]] = watched.ts[::-1]
    port_days = (last - first).sum() / 86_400_000
    return {
        "events": float(found.incidents),
        "event_recall": found.detected / n,
        "event_recall_before": len(leads) / n,
        "called_before_max": sum(incident.precursor_start_ms is not None for incident in watched.incidents) / n,
        "call_precision": 1.0 - len(found.false_alarms) / len(calls) if calls else None,
        "false_alarms_per_port_day": float(len(found.false_alarms) / port_days),
        "median_lead_min": float(np.median(leads)) / 60_000 if leads else None,
    }


def roc_auc(score: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> float:
    """Return the chance that a positive row scores above a negative one, ties counting half (Mann-Whitney).

    >>> roc_auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.875
    """
    _, level, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[level]
    positive = int(is_positive.sum())
    above = rank[is_positive].sum() - positive * (positive + 1) / 2.0
    return float(above / (positive * (is_positive.size - positive)))


def expected_calibration_error(
    p: NDArray[np.float64], is_positive: NDArray[np.bool_], weight: NDArray[np.float64]
) -> float:
    """Return the mean distance of stated probability and frequency, over 20 bins of equally many rows.

    >>> expected_calibration_error(np.full(4, 0.75), np.array([True, True, True, False]), np.ones(4))
    0.0
    """
    edges = np.unique(np.quantile(p, np.linspace(0.0, 1.0, _ECE_BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, p, side="right")
    gap = np.bincount(bins, weight * (p - is_positive))
    return float(np.abs(gap).sum() / weight.sum())


def _by_class(
    true: NDArray[np.int8], called: NDArray[np.intp]
) -> tuple[dict[str, float | None], dict[str, float | None]]:
    recall: dict[str, float | None] = {}
    f1: dict[str, float | None] = {}
    for code, name in enumerate(CLASSES[1:], start=1):
        hits = int(((true == code) & (called == code)).sum())
        is_true, is_called = int((true == code).sum()), int((called == code).sum())
        recall[name] = hits / is_true if is_true else None
        f1[name] = 2 * hits / (is_true + is_called) if is_true else None
    return recall, f1
