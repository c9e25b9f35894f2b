"""Fetched records as arrays, out of aiokafka's consumer: no Python object a record, where its own cost 2.6 µs each.

A consumer asks for them by `value_deserializer=AS_ARRAYS`: `getmany` then gives a list of `Records` for a partition.
Any other consumer in the process gets what it always got.
"""

from streams.inside_aiokafka import Fetch, ReadBy
from streams.wire.fetched import read
from streams.wire.records import Records
from streams.wire.unpacked import Batch, unpack


def _read(fetch: Fetch) -> tuple[list[Records], int]:
    return read(
        fetch.data,
        partition=fetch.partition,
        first=fetch.next_fetch_offset,
        is_left_out=lambda batch: _is_aborted(fetch, batch),
    )


def _is_aborted(fetch: Fetch, batch: Batch) -> bool:
    """Whether a batch is of a transaction that was taken back, as aiokafka's own reader finds it."""
    aborting = fetch.aborting_at(batch.base_offset)
    if batch.is_control and batch.producer_id in aborting and _is_abort(batch):
        aborting.discard(batch.producer_id)
    return batch.is_transactional and batch.producer_id in aborting


def _is_abort(control: Batch) -> bool:
    return any((record.key or b"")[2:4] == b"\0\0" for record in unpack([control], first=0)[:1])  # version, then type


AS_ARRAYS = ReadBy(_read)
"""The mark: a consumer with this deserializer gives arrays."""
