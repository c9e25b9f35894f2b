"""What the Kafka shell asks of the one object that holds a partition's state. Nothing here knows Kafka's client."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from streams.features.snapshot import Chunks, Manifest
from streams.wire.packed import Message, Packed
from streams.wire.records import Record

Messages = Mapping[str, Packed | Sequence[Message]]
"""What is to be sent, by topic without the prefix."""


class Outputs(NamedTuple):
    """What one batch of records gave: messages, and what the events became."""

    messages: Messages
    became: dict[str, int]
    dead: dict[str, int]
    streams: int


class Owner(Protocol):
    """The owner of one partition. `advance` is deterministic: the same records and switches give the same bytes."""

    topics: tuple[str, ...]
    """Where its outputs go, without the prefix: each must have a partition of the same number."""

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; may run in a thread. No switch lies within one call's records."""
        ...

    def flush(self) -> Messages:
        """Return what was held back so that it goes out in larger pieces; the shell commits after it."""
        return {}

    def snapshot(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last call, and say what the manifest is to say of it; fast."""
        ...

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Take over a snapshot's state; raises `SnapshotRefused` where that is not possible."""
        ...

    def switch_offsets(self) -> Sequence[int]:
        """Return the offsets from which something else than the log takes effect, as a new model: batches end there."""
        return ()

    def switch(self, offset: int) -> bytes | None:
        """Let what is new take effect from `offset` on; return the schedule of all switches, None where nothing is new.

        The schedule has to be on record before any output rests on the switch. It replaces the record before.
        """
        return None

    def restore_schedule(self, record: bytes) -> None:
        """Switch at the same offsets, to the same, as whoever wrote this record."""
