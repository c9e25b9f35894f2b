"""FilterCriteria: which records the function sees, by EventBridge patterns on `value`.

A pattern is JSON: an object asks for each of its fields, a list at a leaf for one of its matchers. Matchers here: an
exact string, number, true, false or null; `prefix`, `suffix`, `equals-ignore-case`, `wildcard`; `numeric`; `exists`;
`anything-but` with values or with one of the four on text; and `$or` over fields. AWS knows `cidr`, too: it is refused
here, as is what AWS doesn't know.
"""

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Match = Callable[[Any], bool]
"""Takes a field's value, or `_ABSENT`."""
_ABSENT = object()
FILTERS_MAX = 10
"""AWS' quota a mapping is 5, and 10 on request."""


class FilterRefused(ValueError):
    """A pattern is none that works here; says which part."""


@dataclass(frozen=True)
class FilterCriteria:
    """Patterns of which a record has to match one.

    Examples
    --------
    >>> risky = FilterCriteria(('{"value": {"risk": [{"numeric": [">=", 60]}]}}',))
    >>> risky.matches(b'{"risk": 80}'), risky.matches(b'{"risk": 10}'), risky.matches(b"no JSON")
    (True, False, False)
    """

    patterns: tuple[str, ...]
    _matches: tuple[Match, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.patterns) <= FILTERS_MAX:
            raise FilterRefused(f"{len(self.patterns)} filters: AWS takes 1 to {FILTERS_MAX}")
        object.__setattr__(self, "_matches", tuple(_compile(pattern) for pattern in self.patterns))

    @classmethod
    def from_aws(cls, criteria: Mapping[str, Any]) -> Self:
        """Return the criteria of AWS' `{"Filters": [{"Pattern": "…"}]}`."""
        return cls(tuple(entry["Pattern"] for entry in criteria["Filters"]))

    def matches(self, value: bytes | None) -> bool:
        """Whether the function is to see a record with this value.

        A value that is no JSON is a plain string, as a tombstone is null: a pattern of fields matches neither.
        """
        decoded = _decoded(value)
        return any(match(decoded) for match in self._matches)


def _decoded(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # brackets in thousands are no JSON to anybody
        return value.decode("utf-8", "replace")


def _compile(pattern: str) -> Match:
    try:
        parsed = json.loads(pattern)
    except ValueError as error:
        raise FilterRefused(f"filter {pattern!r}: {error}") from error
    if not isinstance(parsed, dict) or parsed.keys() != {"value"}:
        raise FilterRefused(f"filter {pattern!r}: for Kafka, AWS filters on the key 'value' alone")
    return _node(parsed["value"], "value")


def _node(pattern: Any, where: str) -> Match:
    if isinstance(pattern, dict) and pattern:
        return _object(pattern, where)
    if isinstance(pattern, list) and pattern:
        return _leaf(pattern, where)
    raise FilterRefused(f"filter at {where}: {pattern!r} is neither fields nor a list of matchers")


def _object(pattern: dict[str, Any], where: str) -> Match:
    fields = {name: _node(below, f"{where}.{name}") for name, below in pattern.items() if name != "$or"}
    either = [_node(below, f"{where}.$or") for below in _alternatives(pattern, where)]

    def matches(value: Any) -> bool:
        has = value if isinstance(value, dict) else {}
        if not all(match(has.get(name, _ABSENT)) for name, match in fields.items()):
            return False
        return not either or any(match(has) for match in either)

    return matches


def _alternatives(pattern: dict[str, Any], where: str) -> list[Any]:
    alternatives = pattern.get("$or", [])
    if not isinstance(alternatives, list) or ("$or" in pattern and not alternatives):
        raise FilterRefused(f"filter at {where}: $or takes a list of fields, not {alternatives!r}")
    return alternatives


def _leaf(matchers: list[Any], where: str) -> Match:
    each = [_matcher(matcher, where) for matcher in matchers]

    def matches(value: Any) -> bool:
        # A list in the record matches if one of its items does.
        values = value if isinstance(value, list) and value else [value]
        return any(match(item) for item in values for match in each)

    return matches


def _matcher(matcher: Any, where: str) -> Match:
    if not isinstance(matcher, dict):
        return lambda value: _same(value, matcher)
    if len(matcher) != 1:
        raise FilterRefused(f"filter at {where}: {matcher!r} needs exactly one operator")
    ((name, operand),) = matcher.items()
    if name == "exists" and isinstance(operand, bool):
        return lambda value: (value is not _ABSENT) == operand
    if name == "numeric":
        return _numeric(operand, where)
    if name == "anything-but":
        return _anything_but(operand, where)
    return _text(name, operand, where)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return bool(value == wanted)


def _anything_but(operand: Any, where: str) -> Match:
    if isinstance(operand, dict):
        if len(operand) != 1:
            raise FilterRefused(f"filter at {where}: anything-but {operand!r} needs exactly one operator")
        ((name, inner),) = operand.items()
        options = inner if isinstance(inner, list) else [inner]
        unwanted = [_text(name, option, where) for option in options]
    else:
        unwanted = [_matcher(item, where) for item in (operand if isinstance(operand, list) else [operand])]
    return lambda value: value is not _ABSENT and not any(match(value) for match in unwanted)


def _text(name: str, operand: Any, where: str) -> Match:
    if isinstance(operand, dict) and operand.keys() == {"equals-ignore-case"} and name in ("prefix", "suffix"):
        test = _folded(_TEXTS[name], operand["equals-ignore-case"])
    elif name in _TEXTS and isinstance(operand, str):
        test = _TEXTS[name](operand)
    else:
        raise FilterRefused(
            f"filter at {where}: {name!r} with {operand!r} works not here: take an exact value, exists, numeric, "
            f"anything-but, {', '.join(_TEXTS)}"
        )
    return lambda value: isinstance(value, str) and test(value)


def _folded(make: Callable[[str], Callable[[str], bool]], operand: str) -> Callable[[str], bool]:
    test = make(operand.casefold())
    return lambda text: test(text.casefold())


def _wildcard(operand: str) -> Callable[[str], bool]:
    whole = re.compile(".*".join(re.escape(part) for part in operand.split("*")), re.DOTALL)
    return lambda text: whole.fullmatch(text) is not None


_TEXTS: dict[str, Callable[[str], Callable[[str], bool]]] = {
    "prefix": lambda operand: lambda text: text.startswith(operand),
    "suffix": lambda operand: lambda text: text.endswith(operand),
    "equals-ignore-case": lambda operand: lambda text: text.casefold() == operand.casefold(),
    "wildcard": _wildcard,
}

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _numeric(operand: Any, where: str) -> Match:
    operand = operand if isinstance(operand, list) else []
    pairs = list(zip(operand[::2], operand[1::2], strict=False))
    if len(pairs) * 2 != len(operand) or not 1 <= len(pairs) <= 2 or not all(map(_is_comparison, pairs)):
        raise FilterRefused(f'filter at {where}: numeric {operand!r}: give [">=", 60] or [">", 0, "<=", 5]')
    tests = [(_COMPARISONS[sign], bound) for sign, bound in pairs]
    return lambda value: _is_number(value) and all(test(value, bound) for test, bound in tests)


def _is_comparison(pair: tuple[Any, Any]) -> bool:
    sign, bound = pair
    return isinstance(sign, str) and sign in _COMPARISONS and _is_number(bound)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
