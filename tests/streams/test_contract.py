"""The records: bytes of each release decode for ever, and the published document says what they are."""

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from streams import asyncapi, contract
from streams.feature_batch import SCHEMA
from streams.topics import TOPICS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "golden" / "v1"
TYPES = {
    "metric_event": contract.MetricEvent,
    "metric_event_sparse": contract.MetricEvent,
    "metric_sweep": list[contract.MetricEvent],
    "prediction": contract.Prediction,
    "prediction_healthy": contract.Prediction,
    "outcome": contract.Outcome,
    "label": contract.Label,
    "drift_alarm": contract.DriftAlarm,
    "scorecard": contract.Scorecard,
    "retrain_request": contract.RetrainRequest,
    "model_manifest": contract.ModelManifest,
    "rollout_state": contract.RolloutState,
}
ALONE = sorted(TYPES.keys() - {"metric_sweep"})


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
