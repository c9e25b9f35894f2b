"""Fetched records as arrays, out of aiokafka's consumer: no Python object a record, where its own cost 2.6 µs each.

A consumer asks for them by `value_deserializer=AS_ARRAYS`: `getmany` then gives a list of `Records` for a partition.
Any other consumer in the process gets what it always got. This rests on privates of aiokafka 0.14
(`fetcher.MemoryRecords`, `PartitionRecords._unpack_records`, and what that knows of transactions that were aborted),
hence the pin and the test.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher

from streams.wire.fetched import read
from streams.wire.unpacked import Batch, unpack


def AS_ARRAYS(value: bytes | None) -> bytes | None:  # noqa: N802  # a mark first, a function for aiokafka's sake
    """Return the value: a consumer with this deserializer gives arrays."""
    return value


class _MemoryRecords(fetcher.MemoryRecords):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        if self._value_deserializer is not AS_ARRAYS:
            yield from super()._unpack_records()
            return
        # All are read before one is given: what raises must not have moved the offset, or records would be lost.
        parts, self.next_fetch_offset = read(
            bytes(self._records.data),
            partition=f"{self._tp.topic}-{self._tp.partition}",
            first=self.next_fetch_offset,
            is_left_out=self._is_aborted,
        )
        yield from parts

    def _is_aborted(self, batch: Batch) -> bool:
        """Whether a batch is of a transaction that was taken back, as aiokafka's own reader finds it."""
        if self._isolation_level != fetcher.READ_COMMITTED:
            return False
        self._consume_aborted_up_to(batch.base_offset)
        if batch.is_control and batch.producer_id in self._aborted_producers and _is_abort(batch):
            self._aborted_producers.discard(batch.producer_id)
        return batch.is_transactional and batch.producer_id in self._aborted_producers


def _is_abort(control: Batch) -> bool:
    return any((record.key or b"")[2:4] == b"\0\0" for record in unpack([control], first=0)[:1])  # version, then type


fetcher.MemoryRecords, fetcher.PartitionRecords = _MemoryRecords, _PartitionRecords
