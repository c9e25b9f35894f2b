"""What an operator reads about a change: text, evidence and actions, from class, drivers and context alone.

Deterministic: the same change gives the same bytes, whatever the clock, the network or a language model does. The
words are data (`explanations.toml`); this is what fills them. Only what the record carries is said, and a missing
value is said to be missing.
"""

import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lambda_adapter.records import Change, Driver
from streams.contract import CLASSES, FEATURES, HEALTHY, LinkcastError

TEMPLATES = Path(__file__).with_name("explanations.toml")
TEXT_CHARS_MAX = 2_000
LINE_CHARS_MAX = 300
EVIDENCE_MAX = 10
ACTIONS_MAX = 12
RULES_MODEL = "rules"
"""The contract's name for no model: `Prediction.model` where the rule table scored."""

Line = Annotated[str, Field(min_length=1, max_length=LINE_CHARS_MAX)]

_DRIVERS_MAX = 6
_STREAM_CHARS_MAX = 200  # a stream id is at most 200 bytes
_OUTSIDE_NAME = re.compile(r"[^A-Za-z0-9_.]")


class Explanation(BaseModel):
    """What is said about a change, bounded so that an item and an event stay far below the limits of AWS."""

    model_config = ConfigDict(frozen=True, strict=True)

    text: Annotated[str, Field(min_length=1, max_length=TEXT_CHARS_MAX)]
    evidence: Annotated[list[Line], Field(min_length=1, max_length=EVIDENCE_MAX)]
    actions: Annotated[list[Line], Field(min_length=1, max_length=ACTIONS_MAX)]  # in the order to do them in
    source: Literal["template", "llm"] = "template"


class TemplatesRefused(LinkcastError):
    """The templates are not complete: a class or a feature without words."""


def load_templates(path: Path = TEMPLATES) -> dict[str, Any]:
    """Read the templates; `TemplatesRefused` names what lacks words."""
    words = tomllib.loads(path.read_text("utf-8"))
    for table, names in (("class", CLASSES), ("feature", FEATURES)):
        if odd := set(names) ^ set(words.get(table, {})):
            raise TemplatesRefused(f"{path}: [{table}] and the contract differ in {sorted(odd)}: give each its words")
    return words


_WORDS = load_templates()


def explain(change: Change) -> Explanation:
    """Return what the templates say of a change.

    >>> change = Change(stream_id="leaf-012/17", ts=0, src="0:0:0", class_="latency_spike", risk=71.0, confidence=0.8,
    ...                 model="4f1c9a", change="opened", episode="leaf-012/17@0",
    ...                 drivers=[Driver(feature="latency_p99", value=7.25, push=1.5)])
    >>> said = explain(change)
    >>> said.text[:72]
    'leaf-012/17: latency spike, opened at risk 71 of 100 (elevated). Latency'
    >>> said.evidence
    ['p99 latency: 7.25 µs (raises the risk, +1.50 log-odds)']
    """
    words = _WORDS["closed"] if change.change == "closed" else _WORDS["class"][change.class_]
    return Explanation(
        text=" ".join(_sentences(change, words["meaning"])),
        evidence=list(_evidence(change, words["looks_at"])) or [_WORDS["no_evidence"]],
        actions=words["actions"],
    )


def band_of(risk: float) -> str:
    """Return the word of a risk.

    >>> band_of(80.0), band_of(79.9)
    ('high', 'elevated')
    """
    word: str = _band(_WORDS["risk_band"], risk)["word"]
    return word


def meaning_of(class_: str) -> str:
    """Return what a class says about a port, in one sentence."""
    meaning: str = _WORDS["class"][class_]["meaning"]
    return meaning


def _sentences(change: Change, meaning: str) -> Iterator[str]:
    title = _WORDS["class"][change.class_]["title"]
    yield _WORDS["headline"][change.change or "none"].format(
        stream=_printable(change.stream_id), title=title, risk=_risk(change)
    )
    yield meaning
    if change.change != "closed":
        yield _band(_WORDS["confidence_band"], change.confidence)["text"].format(confidence=f"{change.confidence:.2f}")
        yield from _next_class(change)
        yield _strongest(change.drivers)
    if change.model == RULES_MODEL:
        yield _WORDS["by_rules"]


def _risk(change: Change) -> str:
    # A rule's risk is a figure of its table; a model's is 100 × a calibrated probability. One word for both would lie.
    kind = "rule risk" if change.model == RULES_MODEL else "risk"
    return f"{kind} {math.floor(change.risk)} of 100 ({band_of(change.risk)})"


def _band(bands: Sequence[Mapping[str, Any]], value: float) -> Mapping[str, Any]:
    return next((band for band in bands if value >= band["from"]), bands[-1])


def _next_class(change: Change) -> Iterator[str]:
    """Name the second most probable fault, where the record has probabilities and it is worth a word."""
    others = {c: p for c, p in (change.probabilities or {}).items() if c not in (change.class_, HEALTHY)}
    if not others:
        return
    name = max(sorted(others), key=others.__getitem__)
    if others[name] >= _WORDS["next_class_from"]:
        title = _WORDS["class"][name]["title"]
        yield _WORDS["next_class"].format(title=title, probability=f"{others[name]:.2f}")


def _strongest(drivers: Sequence[Driver] | None) -> str:
    if not drivers:
        return str(_WORDS["no_drivers"])
    first = drivers[0]
    return str(
        _WORDS["strongest"].format(direction=_direction(first.push), reading=reading(first.feature, first.value))
    )


def _evidence(change: Change, looks_at: Sequence[str]) -> Iterator[str]:
    drivers = (change.drivers or [])[:_DRIVERS_MAX]
    for driver in drivers:
        yield f"{reading(driver.feature, driver.value)} ({_direction(driver.push)} the risk, {_log_odds(driver.push)})"
    if change.features is None:
        return
    told = {driver.feature for driver in drivers}
    rest = [name for name in looks_at if name not in told]
    yield from (reading(name, change.features.get(name)) for name in rest[: EVIDENCE_MAX - len(drivers)])


def _direction(push: float) -> str:
    return "raises" if push > 0 else "lowers" if push < 0 else "leaves"


def _log_odds(push: float) -> str:
    text = f"{push:+.2f}" if abs(push) < 1_000 else f"{push:+.1e}"
    return f"{text.replace('-', '−', 1) if push < 0 else text} log-odds"


def reading(feature: str, value: float | None) -> str:
    """Return a feature's value in an operator's words.

    >>> reading("bandwidth_delta_pct", -38.71), reading("error_rate", None), reading("day_of_week", 2.0)
    ("bandwidth against the day's baseline: −38.7 %", 'error rate: missing', 'day of the week: Wednesday')
    """
    words = _WORDS["feature"].get(feature)
    if words is None:  # of a later feature set: its own name, and no unit that we would have to guess
        words = {"name": _OUTSIDE_NAME.sub("_", feature)[:64]}
    if value is None:
        return f"{words['name']}: missing"
    if "as" in words:
        return f"{words['name']}: {_coded(words['as'], value)}"
    return f"{words['name']}: {number(value, signed=words.get('signed', False))} {words.get('unit', '')}".rstrip()


def _coded(names: Sequence[str], value: float) -> str:
    return names[int(value)] if value in range(len(names)) else number(value)


def number(value: float, *, signed: bool = False) -> str:
    """Return a number with three significant digits, without an exponent where people write none.

    >>> number(43.219), number(12_345.6), number(3.4e-7), number(0.0), number(250.0, signed=True)
    ('43.2', '12346', '3.40e-07', '0', '+250')
    """
    size = abs(value)
    if size != 0 and not 0.001 <= size < 1e7:
        text = f"{size:.2e}"
    elif size >= 100:
        text = f"{size:.0f}"
    else:
        text = f"{size:.3g}"
    return ("−" if value < 0 else "+" if signed and value > 0 else "") + text


def _printable(stream_id: str) -> str:
    # Records are checked before; here it costs nothing that no control character can end up in a log or a mail.
    return "".join(c if c.isprintable() else "�" for c in stream_id[:_STREAM_CHARS_MAX])
