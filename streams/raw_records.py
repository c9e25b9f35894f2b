"""Fetched records as arrays, out of aiokafka's consumer: no Python object a record, where its own cost 2.6 µs each.

A consumer asks for them by `value_deserializer=AS_ARRAYS`: `getmany` then gives a list of `Records` for a partition.
Any other consumer in the process gets what it always got. This rests on privates of aiokafka 0.14
(`fetcher.MemoryRecords` and `PartitionRecords._unpack_records`), hence the pin and the test.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher

from streams.records import Record, Records
from streams.unpacked import Batch, batches, unpack

RECORDS_MAX = 8_192
"""In one `Records`, unless a single batch has more."""


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
        # Of a transaction that was aborted, aiokafka knows what to skip.
        elif self._aborted_transactions or (found := batches(bytes(self._records.data))) is None:
            yield from self._one_by_one()
        else:
            yield from self._as_arrays(found)

    def _as_arrays(self, found: Iterator[Batch]) -> Iterator[Records]:
        # All are read before one is given: what raises must not have moved the offset, or records would be lost.
        behind = self.next_fetch_offset
        groups: list[list[Batch]] = [[]]
        n = 0  # records in the last group
        for batch in found:
            behind = batch.next_offset
            if batch.is_control:
                continue
            groups[-1].append(batch)
            n += batch.n
            if n >= RECORDS_MAX:
                groups.append([])
                n = 0
        made = [unpack(group, first=self.next_fetch_offset) for group in groups]
        self.next_fetch_offset = behind
        yield from (records for records in made if len(records))

    def _one_by_one(self) -> Iterator[Records]:
        records: Iterator[Record] = super()._unpack_records()
        while some := list(islice(records, RECORDS_MAX)):
            yield Records.of(some)


fetcher.MemoryRecords, fetcher.PartitionRecords = _MemoryRecords, _PartitionRecords
