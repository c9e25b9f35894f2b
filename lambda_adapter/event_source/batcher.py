"""Forms batches: the records of several partitions, up to a size, a payload and a window.

A partition of which a batch is under way gives nothing until that batch is over. Time is an argument, in seconds.
"""

import json
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from lambda_adapter.event_source.delivery import Batch, Piece
from lambda_adapter.event_source.event import PAYLOAD_BYTES_MAX, Partition, Record

BUFFERED_MIN = 2_000
"""Records that a partition may hold ready whatever the batch size: enough not to wait for the next fetch."""


class Taken(NamedTuple):
    """A batch, and for each of its partitions the offset to go on from once all of it is settled."""

    batch: Batch
    ends: dict[Partition, int]


class _Buffer:
    def __init__(self) -> None:
        self.records: deque[tuple[Record, float]] = deque()
        self.payload_bytes = 0
        self.next_offset = 0
        self.is_busy = False

    def end(self) -> int:
        """Return the offset that follows all that was taken out, what the filter skipped included."""
        return self.records[0][0].offset if self.records else self.next_offset


class Batcher:
    """Holds what was fetched, and gives it out in batches."""

    def __init__(
        self, *, batch_size: int, window_s: float, overhead_bytes: int, payload_bytes_max: int = PAYLOAD_BYTES_MAX
    ) -> None:
        self._batch_size, self._window_s = batch_size, window_s
        self._overhead_bytes, self._payload_bytes_max = overhead_bytes, payload_bytes_max
        self._buffers: dict[Partition, _Buffer] = {}

    def add(self, partition: Partition, records: Sequence[Record], *, next_offset: int, now_s: float) -> None:
        """Take in what was fetched and passed the filter; `next_offset` follows all that was fetched."""
        buffer = self._buffers.setdefault(partition, _Buffer())
        buffer.records.extend((record, now_s) for record in records)
        buffer.payload_bytes += sum(record.payload_bytes for record in records)
        buffer.next_offset = next_offset

    def has_room(self, partition: Partition) -> bool:
        """Whether more of a partition should be fetched."""
        buffer = self._buffers.get(partition)
        if buffer is None:
            return True
        return (
            len(buffer.records) < max(BUFFERED_MIN, 2 * self._batch_size)
            and buffer.payload_bytes < 2 * self._payload_bytes_max
        )

    def is_idle(self, partition: Partition) -> bool:
        """Whether nothing of a partition waits or is under way."""
        buffer = self._buffers.get(partition)
        return buffer is None or not (buffer.records or buffer.is_busy)

    def ready_in_s(self, now_s: float) -> float | None:
        """Return how long until a batch is due (0 for now), None if nothing waits that could be one."""
        free = self._free()
        if not free:
            return None
        count = sum(len(buffer.records) for _, buffer in free)
        payload = self._overhead_bytes + sum(
            _name_bytes(partition) + buffer.payload_bytes for partition, buffer in free
        )
        if count >= self._batch_size or payload >= self._payload_bytes_max:
            return 0.0
        return max(0.0, free[0][1].records[0][1] + self._window_s - now_s)

    def take(self) -> Taken:
        """Return a batch of what has waited longest; its partitions are busy until `free`."""
        room, payload_room = self._batch_size, self._payload_bytes_max - self._overhead_bytes
        pieces: list[Piece] = []
        for partition, buffer in self._free():
            payload_room -= _name_bytes(partition)
            taken = self._taken(buffer, room, payload_room, is_first=not pieces)
            if not taken:
                break
            pieces.append(Piece(partition, tuple(taken)))
            buffer.is_busy = True
            room -= len(taken)
            payload_room -= sum(record.payload_bytes for record in taken)
        return Taken(tuple(pieces), {piece.partition: self._buffers[piece.partition].end() for piece in pieces})

    def _taken(self, buffer: _Buffer, room: int, payload_room: int, *, is_first: bool) -> list[Record]:
        taken: list[Record] = []
        while buffer.records and len(taken) < room:
            record, _ = buffer.records[0]
            payload_room -= record.payload_bytes
            # A record that is too large alone is taken alone: it has to become of something.
            if payload_room < 0 and not (is_first and not taken):
                break
            buffer.records.popleft()
            buffer.payload_bytes -= record.payload_bytes
            taken.append(record)
        return taken

    def free(self, partition: Partition) -> None:
        """A batch with this partition is over."""
        if buffer := self._buffers.get(partition):
            buffer.is_busy = False

    def _free(self) -> list[tuple[Partition, _Buffer]]:
        free = [(p, buffer) for p, buffer in self._buffers.items() if buffer.records and not buffer.is_busy]
        return sorted(free, key=lambda pair: pair[1].records[0][1])


def payload_bytes(batch: Batch, *, overhead_bytes: int) -> int:
    """Return how large the event of a batch is as JSON, `overhead_bytes` being that of an empty one."""
    return overhead_bytes + sum(
        _name_bytes(piece.partition) + sum(record.payload_bytes for record in piece.records) for piece in batch
    )


def _name_bytes(partition: Partition) -> int:
    return len(json.dumps(str(partition))) + len(":[],")
