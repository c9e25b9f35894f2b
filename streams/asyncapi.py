"""The AsyncAPI 3 document of all topics, generated from the records of `streams.contract` and from `streams.topics`.

`python -m streams.asyncapi > docs/asyncapi.json` writes the checked-in copy, which a test holds to this.
"""

import json
from typing import Any, NamedTuple, get_args

import msgspec

from streams import contract
from streams.topics import RESERVED, TOPICS, Topic

_SCHEMAS = "#/components/schemas/"
_NODE = "The node: stream_id up to its last slash, UTF-8. Keeps a stream on one partition."
_PARTITION = "The partition number in decimal."
_MODEL = f"The model's name, `{contract.MODEL_NAME}`."


_DESCRIPTION = (
    "Metric events of InfiniBand and RoCE ports in, predictions of failing links out. Times are integer milliseconds "
    "since the epoch, UTC; a missing or null metric is missing, never zero; unknown fields are ignored. Addresses "
    "carry the prefix of LINKCAST_PREFIX, `linkcast.` unless set."
)


class Payload(NamedTuple):
    """What a topic carries: its record type, or what its bytes are in words; and its key."""

    key: str
    record: type[msgspec.Struct] | None = None
    content_type: str = "application/json"
    words: str = ""


PAYLOADS = {
    "metrics": Payload(_NODE, contract.MetricEvent, words="One event, or a sweep: a JSON array of events of a node."),
    "metrics.dead": Payload(
        "The key of the original record.",
        None,
        "application/octet-stream",
        "The original bytes of what was rejected, at most 7 MiB of them: header `detail` says where they were more.",
    ),
    "features": Payload(
        "None: the partition number is that of the source.",
        None,
        "application/vnd.apache.arrow.stream",
        "Arrow IPC stream of a record batch: stream_id utf8; ts int64 (event time, ms); the 24 features of set `core` "
        f"as float32, NaN where missing ({', '.join(contract.FEATURES)}); label, the rule label, utf8 by dictionary; "
        "rule_risk and confidence float64; offset int64 of the source record; element int32, the place in its sweep. "
        "Several messages a partition and flush where there are many rows.",
    ),
    "predictions": Payload(_NODE, contract.Prediction),
    "predictions.dead": Payload(
        "The key of the original record.",
        None,
        "application/octet-stream",
        "The original bytes, at most 900 KiB of them, of what the Lambda adapter refused.",
    ),
    "outcomes": Payload(_NODE, contract.Outcome),
    "labels": Payload(_NODE, contract.Label),
    "signals": Payload(_PARTITION, contract.Signals),
    "calls": Payload("The stream_id. The partition number is that of the source.", contract.Call),
    "drift": Payload("The node or the stream_id, or `fleet`.", contract.DriftAlarm),
    "scorecards": Payload(_PARTITION, contract.Scorecard),
    "retrain": Payload(_MODEL, contract.RetrainRequest),
    "models": Payload("The version.", contract.ModelManifest),
    "rollout": Payload(_MODEL, contract.RolloutState),
    "state": Payload(
        "The source partition and the part of its state.",
        None,
        "application/octet-stream",
        "Part of the snapshot of a partition's state. Private to the worker: the layout may change with any release.",
    ),
}

_DEAD_HEADERS: dict[str, Any] = {
    "type": "object",
    "required": ["reason", "detail", "topic", "partition", "offset", "index"],
    "properties": {
        "reason": {"type": "string", "enum": list(get_args(contract.DeadReason))},
        "detail": {"type": "string", "description": "What was wrong with it, for people"},
        "topic": {"type": "string", "description": "Topic of the original record"},
        "partition": {"type": "string", "pattern": r"^\d+$", "description": "Its partition, in decimal"},
        "offset": {"type": "string", "pattern": r"^\d+$", "description": "Its offset, in decimal"},
        "index": {"type": "string", "pattern": r"^\d+$", "description": "Place in its sweep; 0 for a lone event"},
    },
}

_REFUSED_HEADERS = {
    "type": "object",
    "required": ["reason", "detail", "topic", "partition", "offset", "bytes"],
    "properties": {
        **{name: _DEAD_HEADERS["properties"][name] for name in ("detail", "topic", "partition", "offset")},
        "reason": {"type": "string"},
        "bytes": {"type": "string", "pattern": r"^\d+$", "description": "Length of the original value, in decimal"},
    },
}
_HEADERS = {"metrics.dead": _DEAD_HEADERS, "predictions.dead": _REFUSED_HEADERS}


def document() -> dict[str, Any]:
    """Return the document, JSON-ready."""
    records = [payload.record for payload in PAYLOADS.values() if payload.record]
    _, schemas = msgspec.json.schema_components(records, ref_template=_SCHEMAS + "{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "linkcast",
            "version": str(contract.VERSION),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": {
            f"{action}-{topic.name}": {"action": action, "channel": {"$ref": f"#/channels/{topic.name}"}}
            for topic in TOPICS
            for action in ("send", "receive")
        },
        "components": {
            "schemas": schemas,
            "messages": {topic.name: _message(topic.name, PAYLOADS[topic.name]) for topic in TOPICS},
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    partitions = "as many partitions as `metrics`" if topic.follows_metrics else "one partition"
    config = ", ".join(f"{key}={value}" for key, value in topic.config.items())
    reserved = "; reserved: nothing of linkcast reads it yet" if topic.name in RESERVED else ""
    return {
        "address": f"{{prefix}}{topic.name}",
        "parameters": {"prefix": {"default": "linkcast.", "description": "LINKCAST_PREFIX"}},
        "description": f"{partitions}; {config}{reserved}",
        "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
    }


def _message(name: str, payload: Payload) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": name,
        "contentType": payload.content_type,
        "payload": _payload_schema(payload),
        "bindings": {"kafka": {"key": {"type": "string", "description": payload.key}}},
    }
    if payload.words:
        message["description"] = payload.words
    if name in _HEADERS:
        message["headers"] = _HEADERS[name]
    return message


def _payload_schema(payload: Payload) -> dict[str, Any]:
    if payload.record is None:
        return {"type": "string", "format": "binary", "description": payload.words}
    reference = {"$ref": _SCHEMAS + payload.record.__name__}
    if payload.record is contract.MetricEvent:
        return {"oneOf": [reference, {"type": "array", "minItems": 1, "items": reference}]}
    return reference


def main() -> None:
    """Print the document."""
    print(json.dumps(document(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
