"""The rule label: what the spec's rule table says of one event, now. The rules are data; this is their interpreter.

Not a target for training: a model that learns the rule of its own row learns nothing (see `offline.dataset.targets`).
"""

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined
from streams.contract import CLASSES, HEALTHY, LinkcastError

OPERANDS = (
    "latency_p99",
    "utilization",
    "error_rate",
    "bandwidth_gbps",
    "qp_errors",
    "mr_failures",
    "latency_baseline",
    "utilization_baseline",
    "bandwidth_baseline",
    "latency_increase",
    "bandwidth_ratio",
)
"""What rules may name, in the places where the kernel writes it."""
OPERAND_ROW = np.dtype([("of", np.float64, (len(OPERANDS),))])
"""The operands of one event, as compiled code takes them."""
DEFAULT_RULES = Path(__file__).with_name("rules.toml")

_OPERATORS = (">", ">=", "<", "<=")
_CONDITION = re.compile(
    r"^\s*(?P<left>\w+)\s*(?P<op>>=|<=|>|<)\s*(?P<bound>[-+]?[\d.]+(?:e[-+]?\d+)?)\s*(?:\*\s*(?P<right>\w+)\s*)?$"
)


class RulesRefused(LinkcastError):
    """The rule table is not one: a class, an operand or a condition that nothing knows."""


class RuleTable(NamedTuple):
    """Rules as arrays, shape (rules,), over arrays of conditions, shape (conditions,).

    The conditions of rule i are `all_of[i]:any_of[i]`, which all must hold, and `any_of[i]:all_of[i + 1]`, of which one
    must. Operands are indices into `OPERANDS`; -1 is the number 1.
    """

    class_code: NDArray[np.int8]
    confidence: NDArray[np.float64]
    risk_base: NDArray[np.float64]
    risk_slope: NDArray[np.float64]
    risk_operand: NDArray[np.int64]
    risk_origin: NDArray[np.float64]
    all_of: NDArray[np.int64]
    any_of: NDArray[np.int64]
    left: NDArray[np.int64]
    operator: NDArray[np.int64]
    bound: NDArray[np.float64]
    right: NDArray[np.int64]
    healthy_confidence: float
    review_below_confidence: float


def load_rules(path: Path = DEFAULT_RULES) -> RuleTable:
    """Read a rule table; `RulesRefused` names the rule and what is wrong with it."""
    try:
        document = tomllib.loads(path.read_text())
        rules = document["rule"]
        conditions: list[tuple[int, int, float, int]] = []
        all_of, any_of = [], []
        for rule in rules:
            all_of.append(len(conditions))
            conditions += [_condition(text) for text in rule.get("all", [])]
            any_of.append(len(conditions))
            conditions += [_condition(text) for text in rule.get("any", [])]
            if all_of[-1] == len(conditions):
                raise RulesRefused(f"rule {len(all_of)} has neither `all` nor `any`: it would fire always")
        if len(rules) > RULES_MAX or len(conditions) > CONDITIONS_MAX:
            raise RulesRefused(
                f"{len(rules)} rules of {len(conditions)} conditions are more than {RULES_MAX} of {CONDITIONS_MAX}"
            )
        left, operator, bound, right = zip(*conditions, strict=True)
        return RuleTable(
            class_code=np.array([CLASSES.index(rule["class"]) for rule in rules], np.int8),
            confidence=np.array([rule["confidence"] for rule in rules], np.float64),
            risk_base=np.array([rule["risk"]["base"] for rule in rules], np.float64),
            risk_slope=np.array([rule["risk"].get("slope", 0.0) for rule in rules], np.float64),
            risk_operand=np.array([_operand(rule["risk"].get("operand")) for rule in rules], np.int64),
            risk_origin=np.array([rule["risk"].get("origin", 0.0) for rule in rules], np.float64),
            all_of=np.array([*all_of, len(conditions)], np.int64),
            any_of=np.array(any_of, np.int64),
            left=np.array(left, np.int64),
            operator=np.array(operator, np.int64),
            bound=np.array(bound, np.float64),
            right=np.array(right, np.int64),
            healthy_confidence=float(document["healthy_confidence"]),
            review_below_confidence=float(document["review_below_confidence"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, RulesRefused) as error:
        raise RulesRefused(
            f"{path}: {error}. See the top of streams/features/rules.toml for the form of a rule."
        ) from error


def _condition(text: Any) -> tuple[int, int, float, int]:
    match = _CONDITION.match(str(text))
    if not match:
        raise RulesRefused(f"condition {text!r} is not 'operand op bound' or 'operand op bound * operand'")
    return _operand(match["left"]), _OPERATORS.index(match["op"]), float(match["bound"]), _operand(match["right"])


def _operand(name: str | None) -> int:
    if name is not None and name not in OPERANDS:
        raise RulesRefused(f"operand {name!r} is none of {', '.join(OPERANDS)}")
    return -1 if name is None else OPERANDS.index(name)


RULES_MAX, CONDITIONS_MAX = 32, 64

COMPILED = np.dtype(
    [
        ("rules", np.int64),
        ("class_code", np.int64, (RULES_MAX,)),
        ("confidence", np.float64, (RULES_MAX,)),
        ("risk_base", np.float64, (RULES_MAX,)),
        ("risk_slope", np.float64, (RULES_MAX,)),
        ("risk_operand", np.int64, (RULES_MAX,)),
        ("risk_origin", np.float64, (RULES_MAX,)),
        ("all_of", np.int64, (RULES_MAX + 1,)),
        ("any_of", np.int64, (RULES_MAX,)),
        ("left", np.int64, (CONDITIONS_MAX,)),
        ("operator", np.int64, (CONDITIONS_MAX,)),
        ("bound", np.float64, (CONDITIONS_MAX,)),
        ("right", np.int64, (CONDITIONS_MAX,)),
        ("healthy_confidence", np.float64),
    ]
)
"""A `RuleTable` as one record, of one size whatever the rules, so that compiled code fits all tables."""


def compiled(table: RuleTable) -> NDArray[np.void]:
    """Return the table as compiled code takes it, shape (1,) of `COMPILED`."""
    record = np.zeros(1, COMPILED)
    record["rules"] = table.class_code.size
    for name, (_, *shape) in ((name, COMPILED[name].subdtype or (None,)) for name in COMPILED.names or ()):
        if shape:
            values = getattr(table, name)
            record[name][0, : values.size] = values
    record["healthy_confidence"] = table.healthy_confidence
    return record


@inlined
def _holds(table: Any, condition: int, operands: Any) -> bool:
    # A comparison with NaN is False, so a missing operand never fires a rule.
    x, limit = operands.of[table.left[condition]], table.bound[condition]
    if table.right[condition] >= 0:
        limit *= operands.of[table.right[condition]]
    op = table.operator[condition]
    if op == 0:
        return bool(x > limit)
    if op == 1:
        return bool(x >= limit)
    if op == 2:
        return bool(x < limit)
    return bool(x <= limit)


@inlined
def first_match(table: Any, operands: Any) -> int:
    """Return the index of the first rule that fires on `operands`, a record of `OPERAND_ROW`, or -1."""
    for rule in range(table.rules):
        holds = True
        for condition in range(table.all_of[rule], table.any_of[rule]):
            if not _holds(table, condition, operands):
                holds = False
                break
        if holds and table.any_of[rule] < table.all_of[rule + 1]:
            holds = False
            for condition in range(table.any_of[rule], table.all_of[rule + 1]):
                if _holds(table, condition, operands):
                    holds = True
                    break
        if holds:
            return rule
    return -1


@inlined
def rule_risk(table: Any, rule: int, operands: Any) -> float:
    """Return the risk of a rule that fired, a whole number of at most 100 as the spec cuts it."""
    risk = table.risk_base[rule]
    operand = table.risk_operand[rule]
    if operand >= 0 and not np.isnan(operands.of[operand]):
        risk += (operands.of[operand] - table.risk_origin[rule]) * table.risk_slope[rule]
    return float(np.trunc(min(100.0, max(0.0, risk))))


HEALTHY_CODE = CLASSES.index(HEALTHY)
