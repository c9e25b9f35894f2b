"""The event that Lambda makes of Kafka records, byte for byte as AWS documents it."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

PAYLOAD_BYTES_MAX = 6 * 1024 * 1024
"""What one synchronous invocation takes, the whole event as JSON."""
_TIMESTAMP_TYPES = {0: "CREATE_TIME", 1: "LOG_APPEND_TIME"}


class Partition(NamedTuple):
    """A partition of a topic; in events it is the key `topic-partition`."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


@dataclass(frozen=True, slots=True)
class Record:
    """One Kafka record with what its JSON takes up in an event."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms since the epoch, UTC
    timestamp_type: int  # Kafka's: 0 by the producer, 1 by the broker
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    payload_bytes: int = 0

    @classmethod
    def from_kafka(cls, record: Any) -> Self:
        """Take over an aiokafka `ConsumerRecord`."""
        return cls.of(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            timestamp_type=record.timestamp_type,
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
        )

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Return the record with its size measured."""
        bare = cls(**fields)
        return cls(**fields, payload_bytes=len(json.dumps(bare.as_json(), separators=(",", ":"))) + 1)

    def as_json(self) -> dict[str, Any]:
        """Return the record as it stands in an event; a null key is left out, a tombstone's value is null."""
        made: dict[str, Any] = {
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            "timestampType": _TIMESTAMP_TYPES.get(self.timestamp_type, "NO_TIMESTAMP_TYPE"),
            "value": None if self.value is None else base64.b64encode(self.value).decode(),
            "headers": [{name: _signed(value)} for name, value in self.headers],
        }
        if self.key is not None:
            made["key"] = base64.b64encode(self.key).decode()
        return made


def _signed(value: bytes | None) -> list[int] | None:
    # Java's bytes: 0xff is -1.
    return None if value is None else [byte - 256 if byte > 127 else byte for byte in value]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where events say that they come from."""

    bootstrap_servers: str
    event_source: Literal["aws:kafka", "SelfManagedKafka"] = "SelfManagedKafka"
    event_source_arn: str | None = None  # MSK's alone

    def event(self, records: Mapping[Partition, Sequence[Record]]) -> dict[str, Any]:
        """Return the event of these records."""
        made: dict[str, Any] = {"eventSource": self.event_source}
        if self.event_source_arn is not None:
            made["eventSourceArn"] = self.event_source_arn
        made["bootstrapServers"] = self.bootstrap_servers
        made["records"] = {str(partition): [record.as_json() for record in each] for partition, each in records.items()}
        return made

    def overhead_bytes(self, partitions: Iterable[Partition]) -> int:
        """Return what an event takes up beside its records."""
        return len(json.dumps(self.event(dict.fromkeys(partitions, ())), separators=(",", ":")))
