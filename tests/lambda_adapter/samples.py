"""Predictions and events as AWS hands them over, and doubles for where they go."""

import base64
import json
from collections.abc import Callable
from typing import Any

from lambda_adapter.dead_letters import DeadLetter

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
BUS = "linkcast-alerts"


class Bus:
    """An event bus that remembers what came."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.calls = 0
        self.answer: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        self.calls += 1
        assert len(Entries) <= 10
        # AWS' formula, "Calculating PutEvents event entry size": above it the call fails whole.
        sizes = [
            14 + sum(len(e.get(name, "").encode()) for name in ("Source", "DetailType", "Detail")) for e in Entries
        ]
        assert sum(sizes) < 256 * 1024
        answer = self.answer(Entries) if self.answer else {}
        results = answer.get("Entries", [{"EventId": "x"} for _ in Entries])
        self.entries += [entry for entry, result in zip(Entries, results, strict=True) if "ErrorCode" not in result]
        return {"FailedEntryCount": sum("ErrorCode" in result for result in results), "Entries": results}

    @property
    def details(self) -> list[dict[str, Any]]:
        return [json.loads(entry["Detail"]) for entry in self.entries]


class Letters:
    """A dead-letter topic in memory."""

    def __init__(self) -> None:
        self.sent: list[DeadLetter] = []
        self.fails: list[Exception] = []

    def send(self, letters: list[DeadLetter]) -> None:
        if letters and self.fails:
            raise self.fails.pop()
        self.sent += letters

    @property
    def reasons(self) -> dict[int, str]:
        """By offset."""
        return {letter.record.offset: letter.why.reason for letter in self.sent}


def prediction(**fields: Any) -> dict[str, Any]:
    """A prediction that opens an episode and is an alert, as the worker writes it."""
    stream_id = fields.get("stream_id", "leaf-012/17")
    return {
        "v": 1,
        "stream_id": stream_id,
        "ts": NOW_MS,
        "class": "latency_spike",
        "risk": 85.5,
        "confidence": 0.9312,
        "model": "20261123-0123456789ab",
        "src": "3:1000:0",
        "probabilities": {"latency_spike": 0.9312, "healthy": 0.0688},
        "change": "opened",
        "episode": f"{stream_id}@{NOW_MS}",
        "drivers": [{"feature": "latency_p99", "value": 7.25, "contribution": 1.5}],
    } | fields


def event(*values: Any, partition: int = 0, topic: str = "linkcast.predictions", first: int = 0) -> dict[str, Any]:
    """An invocation's event of one partition: each value a prediction, bytes, or a whole record with its quirks."""
    records = [_record(value, topic, partition, first + i) for i, value in enumerate(values)]
    return {
        "eventSource": "aws:kafka",
        "eventSourceArn": "arn:aws:kafka:eu-central-1:123456789012:cluster/c/1",
        "bootstrapServers": "b-1:9098",
        "records": {f"{topic}-{partition}": records},
    }


def _record(value: Any, topic: str, partition: int, offset: int) -> dict[str, Any]:
    record = {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": NOW_MS,
        "timestampType": "CREATE_TIME",
        "key": base64.b64encode(b"leaf-012").decode(),
        "headers": [],
    }
    if isinstance(value, dict) and "value" in value:
        return record | value
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return record | {"value": base64.b64encode(raw).decode()}
