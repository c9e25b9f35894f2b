import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_adapter import explanations
from lambda_adapter.explanations import (
    ACTIONS_MAX,
    EVIDENCE_MAX,
    LINE_CHARS_MAX,
    RULES_MODEL,
    TEXT_CHARS_MAX,
    TemplatesRefused,
    explain,
    load_templates,
    number,
    reading,
)
from lambda_adapter.records import Change, Driver
from streams.contract import CLASSES, FAULT_CLASSES, FEATURES, HEALTHY

GOLDEN = Path(__file__).with_name("golden_explanations.json")
EPISODE = "leaf-012/17@1767225600000"
DRIVERS = [
    Driver(feature="error_rate", value=0.0123, push=1.84),
    Driver(feature="latency_p99", value=None, push=0.31),
    Driver(feature="bandwidth_delta_pct", value=-38.71, push=-0.42),
]
FIELDS = {"stream", "title", "risk", "confidence", "probability", "direction", "reading"}


def change(class_="latency_spike", **fields):
    base = {
        "stream_id": "leaf-012/17", "ts": 1767225600000, "src": "3:41:17", "class_": class_, "risk": 83.4,
        "confidence": 0.92, "model": "4f1c9a", "change": "opened", "episode": EPISODE, "drivers": DRIVERS,
    }  # fmt: skip
    return Change(**(base | fields))


def cases():
    """The changes of the golden file by name; print it anew with `python -m tests.lambda_adapter.test_explanations`."""
    yield from ((class_, change(class_)) for class_ in CLASSES)
    for kind in ("worsened", "eased", "closed", None):
        yield f"latency_spike {kind}", change(change=kind, risk=12.0 if kind == "closed" else 71.0)
    yield "healthy closed", change(HEALTHY, change="closed", risk=8.0, drivers=None)
    yield "by rules, without drivers", change("rdma_timeout", model=RULES_MODEL, drivers=None, confidence=0.8)
    yield "uncertain, with features", change(
        "anomaly_detected", confidence=0.51, drivers=None,
        probabilities={"anomaly_detected": 0.51, "latency_spike": 0.4},
        features={"utilization": 85.5, "error_rate": None, "day_of_week": 2.0},
    )  # fmt: skip


def said(of):
    return explain(of).model_dump(mode="json")


@pytest.mark.parametrize(("name", "of"), [pytest.param(*case, id=case[0]) for case in cases()])
def test_each_class_and_each_change_is_worded_as_on_record(name, of):
    assert said(of) == json.loads(GOLDEN.read_text("utf-8"))[name]


def test_the_classes_of_the_templates_are_the_contracts():
    assert set(load_templates()["class"]) == set(CLASSES)
    assert set(load_templates()["feature"]) == set(FEATURES)


def test_a_class_without_words_is_refused_by_name(tmp_path):
    text = explanations.TEMPLATES.read_text("utf-8").replace("[class.rdma_timeout]", "[class.other]")
    (tmp_path / "words.toml").write_text(text, "utf-8")

    with pytest.raises(TemplatesRefused, match=r"\['other', 'rdma_timeout'\]"):
        load_templates(tmp_path / "words.toml")


def test_the_templates_ask_for_nothing_that_is_not_filled():
    def texts(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    asked = {field for text in texts(load_templates()) for _, field, _, _ in string.Formatter().parse(text) if field}
    assert asked == FIELDS


def test_each_fault_has_words_and_actions_of_its_own():
    by_class = [load_templates()["class"][name] for name in FAULT_CLASSES]

    assert len({words["meaning"] for words in by_class}) == len(FAULT_CLASSES) == 10
    assert len({words["actions"][0] for words in by_class}) >= 9
    for words in by_class:
        assert 4 <= len(words["actions"]) <= 6
        assert set(words["looks_at"]) <= set(FEATURES)


def test_a_rule_s_risk_is_not_sold_as_a_model_s():
    text = explain(change(model=RULES_MODEL)).text

    assert "rule risk 83 of 100" in text
    assert "forecasts nothing" in text
    assert "rule" not in explain(change()).text


def test_a_missing_value_is_said_to_be_missing_and_never_zero():
    evidence = explain(change(features={"utilization": None, "latency_p99_delta_pct": 0.0})).evidence

    assert evidence[1] == "p99 latency: missing (raises the risk, +0.31 log-odds)"
    assert "utilization: missing" in evidence
    assert "p99 latency against the day's baseline: 0 %" in evidence


def test_a_feature_of_a_later_set_keeps_its_name_and_gets_no_unit():
    assert reading("rx_power_dbm", -3.25) == "rx_power_dbm: −3.25"
    assert reading("x\n; rm -rf /", 1.0) == "x___rm__rf__: 1"


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=50)
NUMBERS = st.floats(-1e300, 1e300)
FEATURE = st.one_of(st.sampled_from(FEATURES), st.text(min_size=1, max_size=64))
CHANGES = st.builds(
    Change,
    stream_id=NAMES,
    ts=st.integers(0, 4_102_444_800_000),
    src=st.just("0:1:2"),
    class_=st.sampled_from(CLASSES),
    risk=st.floats(0, 100),
    confidence=st.floats(0, 1),
    model=st.sampled_from(["4f1c9a", RULES_MODEL]),
    change=st.sampled_from(["opened", "worsened", "eased", "closed", None]),
    episode=st.just("a/1@5"),
    probabilities=st.none() | st.dictionaries(st.sampled_from(CLASSES), st.floats(0, 1)),
    drivers=st.none()
    | st.lists(st.builds(Driver, feature=FEATURE, value=st.none() | NUMBERS, contribution=NUMBERS), max_size=20),
    features=st.none() | st.dictionaries(FEATURE, st.none() | NUMBERS, max_size=9),
)


@given(CHANGES)
def test_any_change_gets_bounded_words_twice_the_same(of):
    once, again = explain(of), explain(Change.model_validate_json(of.model_dump_json(by_alias=True)))

    assert once.model_dump_json() == again.model_dump_json()
    assert 0 < len(once.text) <= TEXT_CHARS_MAX
    for lines, most in ((once.evidence, EVIDENCE_MAX), (once.actions, ACTIONS_MAX)):
        assert 0 < len(lines) <= most
        assert all(0 < len(line) <= LINE_CHARS_MAX for line in lines)
    assert all(c.isprintable() for line in [once.text, *once.evidence, *once.actions] for c in line)


@settings(max_examples=30)
@given(CHANGES, st.sampled_from(sorted(FIELDS)))
def test_a_name_that_looks_like_a_placeholder_is_not_filled(of, field):
    braces = "{" + field + "}"
    text = explain(of.model_copy(update={"stream_id": f"leaf/{braces}"})).text

    assert text.startswith(f"leaf/{braces}: ")
    assert "{" not in text.removeprefix(f"leaf/{braces}")


@settings(max_examples=30)
@given(CHANGES, NAMES)
def test_the_actions_hold_no_text_of_the_record(of, name):
    assert explain(of.model_copy(update={"stream_id": name})).actions == explain(of).actions


@given(NUMBERS)
def test_a_number_is_short_and_within_half_a_percent(value):
    text = number(value)

    assert len(text) <= 10
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=0.005)


def golden():
    return json.dumps({name: said(of) for name, of in cases()}, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(golden(), "utf-8")
