"""The rule table of the streams, read as data and applied to what a record carries.

Its compiled interpreter (`streams.features.labels`) would bring Numba into the Lambda; a test holds both to the same
answers.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, NamedTuple

from lambda_adapter.records import Score


class Rules(NamedTuple):
    """The rule table of `streams/features/rules.toml` as it is written."""

    rules: list[dict[str, Any]]
    healthy_confidence: float


_CONDITION = re.compile(r"^\s*(\w+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(?:\*\s*(\w+)\s*)?$")
_HOLDS: Mapping[str, Callable[[float, float], bool]] = {
    ">": lambda x, limit: x > limit,
    ">=": lambda x, limit: x >= limit,
    "<": lambda x, limit: x < limit,
    "<=": lambda x, limit: x <= limit,
}


def load_rules() -> Rules:
    """Read the rule table that linkcast ships."""
    table = tomllib.loads(files("streams").joinpath("features", "rules.toml").read_text("utf-8"))
    return Rules(table["rule"], table["healthy_confidence"])


def rule_score(rules: Rules, features: Mapping[str, float]) -> Score:
    """Return what the first rule that fires says of the features that there are."""
    operands = operands_of(features)
    for rule in rules.rules:
        if _fires(rule, operands):
            said = {"class": rule["class"], "confidence": rule["confidence"], "model": "rules"}
            return Score.model_validate(said | {"risk": _risk(rule["risk"], operands)})
    return Score(class_="healthy", risk=0.0, confidence=rules.healthy_confidence, model="rules")


def operands_of(features: Mapping[str, float]) -> dict[str, float]:
    """Return the rules' operands as far as the features tell them.

    Features carry the baselines as differences to them. They can't tell `mr_failures`, and before a day's first pane
    has closed they rest on the open pane where the worker's rules would see no baseline.

    >>> operands_of({"latency_p99": 6.0, "latency_p99_delta_pct": 50.0, "latency_p99_delta_abs": 2.0})
    {'latency_p99': 6.0, 'latency_increase': 0.5, 'latency_baseline': 4.0}
    """
    operands = {
        name: features[name]
        for name in ("latency_p99", "utilization", "error_rate", "bandwidth_gbps", "qp_errors")
        if name in features
    }
    if (percent := features.get("latency_p99_delta_pct")) is not None:
        operands["latency_increase"] = percent / 100
    if (percent := features.get("bandwidth_delta_pct")) is not None:
        operands["bandwidth_ratio"] = 1 + percent / 100
    for name, metric, delta in (
        ("latency_baseline", "latency_p99", "latency_p99_delta_abs"),
        ("utilization_baseline", "utilization", "utilization_delta_pct"),  # points, in spite of its name
    ):
        if metric in features and delta in features:
            operands[name] = features[metric] - features[delta]
    return operands


def _fires(rule: Mapping[str, Any], operands: Mapping[str, float]) -> bool:
    any_of = rule.get("any", [])
    return all(_holds(text, operands) for text in rule.get("all", [])) and (
        not any_of or any(_holds(text, operands) for text in any_of)
    )


def _holds(condition: str, operands: Mapping[str, float]) -> bool:
    match = _CONDITION.match(condition)
    assert match, f"{condition!r} is no condition: streams.features.labels refuses such a table"
    left, op, bound, right = match.groups()
    if left not in operands or (right and right not in operands):
        return False
    return _HOLDS[op](operands[left], float(bound) * (operands[right] if right else 1.0))


def _risk(risk: Mapping[str, Any], operands: Mapping[str, float]) -> float:
    value = risk["base"]
    if risk.get("operand") in operands:
        value += (operands[risk["operand"]] - risk["origin"]) * risk["slope"]
    return float(int(min(100.0, max(0.0, value))))
