"""The records: bytes of each release decode for ever, and the published document says what they are."""

import json
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import jsonschema
import msgspec
import pytest

from streams import asyncapi, contract
from streams.contract import Called, FalseEpisodes, Placebo, Scorecard, Unit
from streams.features.record_batch import SCHEMA
from streams.topics import MIB, RESERVED, TOPICS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden" / "v1"
TYPES = {
    "metric_event": contract.MetricEvent,
    "metric_event_counted": contract.MetricEvent,
    "metric_event_sparse": contract.MetricEvent,
    "metric_sweep": list[contract.MetricEvent],
    "prediction": contract.Prediction,
    "prediction_healthy": contract.Prediction,
    "prediction_calibrated": contract.Prediction,
    "outcome": contract.Outcome,
    "outcome_alone": contract.Outcome,
    "label": contract.Label,
    "label_false_positive": contract.Label,
    "signals": contract.Signals,
    "call": contract.Call,
    "drift_alarm": contract.DriftAlarm,
    "drift_alarm_stream": contract.DriftAlarm,
    "scorecard": contract.Scorecard,
    "scorecard_steady": contract.Scorecard,
    "retrain_request": contract.RetrainRequest,
    "model_manifest": contract.ModelManifest,
    "rollout_state": contract.RolloutState,
    "rollout_state_operator": contract.RolloutState,
}
ALONE = sorted(TYPES.keys() - {"metric_sweep"})
OLD, NEW = "20261120-0b1e5d77", "20261123-1f4c9a0b"
IDENTITIES = {
    "outcome": ("INC-1", "leaf-012/17"),
    "outcome_alone": ("leaf-012/17@1760000000000", "leaf-012/17"),
    "label": ("leaf-012/17", 1760000000000, "amara"),
    "label_false_positive": ("leaf-012/17", 1760000000000, "amara"),
    "signals": (3, 1760000000000, 1760000300000, (OLD, NEW)),
    "call": (NEW, "leaf-012/17", 1760000000000, "closed"),
    "drift_alarm": ("fleet", None, "latency_p99", "mean", 1759996400000),
    "drift_alarm_stream": ("stream", "leaf-012/17", "error_rate", "variance", 1759999940000),
    "scorecard": (3, 1760000000000, 1760000300000, OLD, NEW),
    "scorecard_steady": (0, 1760000000000, 1760000300000, OLD, None),
    "retrain_request": (f"linkcast/{OLD}/1759913600000", "done"),
    "rollout_state": ("linkcast", 7),
    "rollout_state_operator": ("linkcast", 8),
}
LOOP = {asyncapi.PAYLOADS[name].record for name in RESERVED}


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def test_each_golden_sample_has_its_type():
    assert {path.stem for path in GOLDEN.iterdir()} == TYPES.keys()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_golden_bytes_decode_and_encode_to_the_same_bytes(name):
    assert msgspec.json.encode(msgspec.json.decode(golden(name), type=TYPES[name])) == golden(name)


@pytest.mark.parametrize("name", ALONE)
def test_a_field_of_a_later_release_is_ignored(name):
    later = json.dumps(json.loads(golden(name)) | {"of_a_later_release": {"deep": [1]}}).encode()

    assert msgspec.json.decode(later, type=TYPES[name]) == msgspec.json.decode(golden(name), type=TYPES[name])


@pytest.mark.parametrize("name", ALONE)
def test_another_version_is_refused_by_its_name(name):
    other = json.dumps(json.loads(golden(name)) | {"v": 2}).encode()

    with pytest.raises(msgspec.ValidationError, match=r"\$\.v"):
        msgspec.json.decode(other, type=TYPES[name])


@pytest.mark.parametrize("name", sorted(IDENTITIES))
def test_each_record_of_the_loop_has_the_identity_of_the_design(name):
    assert msgspec.json.decode(golden(name), type=TYPES[name]).identity == IDENTITIES[name]


def test_no_record_of_the_loop_is_without_identity_and_each_says_what_a_second_one_means():
    assert {TYPES[name] for name in IDENTITIES} == LOOP
    for record in LOOP:
        said = " ".join(record.__doc__.split())
        assert "Identity: " in said
        assert any(word in said for word in ("amends it", "first counts", "first valid record", "Repeats are equal")), (
            said
        )


@pytest.mark.parametrize("record", sorted(LOOP, key=lambda record: record.__name__))
def test_nothing_in_a_record_of_the_loop_is_unbounded(record):
    assert list(unbounded(msgspec.inspect.type_info(record), record.__name__)) == []


def unbounded(info, where):
    match info:
        case msgspec.inspect.StructType():
            for field in info.fields:
                yield from unbounded(field.type, f"{where}.{field.encode_name}")
        case msgspec.inspect.UnionType():
            for option in info.types:
                yield from unbounded(option, where)
        case msgspec.inspect.StrType() if info.max_length is None:
            yield where
        case msgspec.inspect.IntType() if info.ge is None or (info.le is None and info.lt is None):
            yield where
        case msgspec.inspect.ListType() | msgspec.inspect.DictType() if info.max_length is None:
            yield where
        case msgspec.inspect.ListType():
            yield from unbounded(info.item_type, where)
        case msgspec.inspect.DictType():
            yield from (*unbounded(info.key_type, where), *unbounded(info.value_type, where))


def test_the_largest_scorecard_still_fits_a_record():
    longest = "\x01" * 256  # six bytes each in JSON
    called = Called(before_start=True, while_it_lasted=True, lead_ms=2**53 - 1, class_was_right=True)
    placebos = [Placebo(earlier_ms=2**53 - 1, is_quiet=False, champion=called, challenger=called)] * 8
    unit = Unit(
        incident=longest, class_="memory_registration_failure", start=contract.EVENT_TIME_MS_MAX, streams=2**53 - 1,
        is_covered=False, champion=called, challenger=called, placebos=placebos,
    )  # fmt: skip
    encoded = msgspec.json.encode(scorecard(3, [unit] * contract.UNITS_MAX, champion="\x01" * 200))

    assert msgspec.json.decode(encoded, type=Scorecard).units[-1] == unit
    assert len(encoded) < MIB - 64 * 1024


def test_scorecards_are_all_that_control_needs_to_compare_two_models():
    # One incident struck two partitions. On the champion's three quiet placebos it has a hit in either partition: a
    # flood, which hits the incident by luck. The placebo at 9 h is not quiet in one of them, and counts in neither.
    def placebos(champion, quiet):
        return [
            Placebo(earlier_ms=hours * 3_600_000, is_quiet=q, champion=Called(while_it_lasted=c), challenger=Called())
            for hours, c, q in zip((3, 5, 7, 9), champion, quiet, strict=True)
        ]

    common = {"incident": "INC-1", "class_": "hard_down", "streams": 3, "is_covered": True}
    here = Unit(
        **common, start=7, champion=Called(while_it_lasted=True), challenger=Called(),
        placebos=placebos((True, False, False, False), (True, True, True, True)),
    )  # fmt: skip
    there = Unit(
        **common, start=9, champion=Called(), challenger=Called(before_start=True, lead_ms=4),
        placebos=placebos((False, True, False, False), (True, True, True, False)),
    )  # fmt: skip
    alone = Unit(
        **(common | {"incident": "INC-2", "is_covered": False}), start=8, champion=Called(), challenger=Called()
    )

    d = differences([scorecard(0, [here, alone]), scorecard(5, [there])])

    assert d == {"INC-1": Fraction(1, 2) * ((1 - 0) - (1 - Fraction(2, 3)))}


def scorecard(partition, units, *, champion=OLD):
    return Scorecard(
        partition=partition, start=0, end=300_000, champion=champion, challenger=NEW, units=units,
        quiet_port_ms=1, champion_false=FalseEpisodes(opened=0, port_ms=0),
    )  # fmt: skip


def differences(cards):
    """Half of how far the two models differ in skill, for each incident, joined over partitions."""
    units = sorted((unit for card in cards for unit in card.units), key=lambda unit: unit.incident)
    found = {}
    for incident, parts in groupby(units, key=lambda unit: unit.incident):
        parts = list(parts)
        rounds = list(zip(*(unit.placebos for unit in parts), strict=True))
        quiet = [placebos for placebos in rounds if all(placebo.is_quiet for placebo in placebos)]
        if len(quiet) < 2 or not all(unit.is_covered for unit in parts):
            continue

        def skill(model, parts=parts, quiet=quiet):
            hits = [any(getattr(part, model).is_hit for part in joined) for joined in (parts, *quiet)]
            return hits[0] - Fraction(sum(hits[1:]), len(quiet))

        found[incident] = (skill("challenger") - skill("champion")) / 2
    return found


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("outcome", {"end": 1759999999999}, "is before start"),
        ("drift_alarm", {"subject": "leaf-012"}, "the fleet none"),
        ("drift_alarm_stream", {"subject": None}, "name a node or a stream"),
        ("call", {"src": "3:12345"}, "regex"),
        ("signals", {"metrics": {"latency_p99": {"count": 1, "sum": None, "sum_of_squares": 0}}}, "sum"),
        ("retrain_request", {"offsets": {"all": 1}}, "key"),
        ("rollout_state", {"step": 0}, ">= 1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(name, changed, said):
    record = json.dumps(json.loads(golden(name)) | changed)

    with pytest.raises(msgspec.ValidationError, match=said):
        msgspec.json.decode(record, type=TYPES[name])


def test_the_class_lists_agree():
    info = msgspec.inspect.type_info(contract.Prediction)
    (class_,) = [field for field in info.fields if field.encode_name == "class"]

    assert set(class_.type.values) == set(contract.CLASSES)
    assert len(contract.FEATURES) == len(set(contract.FEATURES)) == 24


def test_the_checked_in_asyncapi_document_is_current():
    checked_in = json.loads((ROOT / "docs" / "asyncapi.json").read_text("utf-8"))

    assert checked_in == asyncapi.document(), "run: python -m streams.asyncapi > docs/asyncapi.json"


def test_each_declared_topic_has_a_channel_a_message_and_a_key():
    document = asyncapi.document()

    assert document["asyncapi"] == "3.0.0"
    assert list(document["channels"]) == [topic.name for topic in TOPICS]
    for topic in TOPICS:
        channel = document["channels"][topic.name]
        assert channel["address"] == "{prefix}" + topic.name
        message = resolved(document, channel["messages"][topic.name])
        assert message["contentType"]
        assert message["bindings"]["kafka"]["key"]["description"]
    assert set(document["components"]["messages"]["metrics.dead"]["headers"]["required"]) <= DEAD_HEADERS


DEAD_HEADERS = {"reason", "detail", "topic", "partition", "offset", "index"}


def test_the_document_says_which_topics_are_reserved():
    channels = asyncapi.document()["channels"]

    assert {name for name, channel in channels.items() if "reserved" in channel["description"]} == RESERVED


def test_each_reference_of_the_document_leads_somewhere():
    document = asyncapi.document()

    found = list(references(document))

    assert len(found) > 40
    for reference in found:
        resolved(document, {"$ref": reference})


@pytest.mark.parametrize("name", sorted(TYPES))
def test_golden_samples_are_valid_by_the_published_schemas(name):
    document = asyncapi.document()
    if name.startswith("metric_"):
        schema = document["components"]["messages"]["metrics"]["payload"]
    else:
        schema = {"$ref": f"#/components/schemas/{TYPES[name].__name__}"}

    jsonschema.validate(json.loads(golden(name)), {**document, **schema})


def test_the_words_about_features_name_each_column():
    words = asyncapi.PAYLOADS["features"].words

    assert [name for name in SCHEMA.names if name not in words] == []


def references(node):
    if isinstance(node, dict):
        yield from [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from references(child)


def resolved(document, reference):
    node = document
    for step in reference["$ref"].removeprefix("#/").split("/"):
        node = node[step]
    return node
