"""The one place that reaches into aiokafka: its private names, and modules of it that its documentation leaves out.

They are those of aiokafka 0.14, and a new version may change any of them without a word: under another one, importing
this raises `OtherAiokafka`. docs/decisions/0009-inside-aiokafka.md says what rests on them, and what would end that.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aiokafka
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.consumer import fetcher
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c, decode_varint_py

from streams.contract import LinkcastError

__all__ = [
    "BatchBuilder",
    "DefaultRecordBatchBuilder",
    "MetadataRequest",
    "ProduceRequest_v7",
    "calc_crc32c",
    "collect_hosts",
    "create_conn",
    "decode_varint_py",
]

VERSION = "0.14"


class OtherAiokafka(LinkcastError):
    """The aiokafka that is installed is not the one whose inside is known here."""


def check_version(version: str) -> None:
    """Raise `OtherAiokafka` for a version whose inside may be another.

    >>> check_version("0.14.3")
    """
    if version.split(".")[:2] != VERSION.split("."):
        raise OtherAiokafka(
            f"aiokafka {version} is installed, and linkcast rests on the inside of {VERSION}: "
            f"run 'make setup' in the checkout, or pip install 'aiokafka=={VERSION}.*'"
        )


check_version(aiokafka.__version__)


async def fetch_metadata(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Have a consumer that has no topics yet learn of all there are: `partitions_for_topic` then knows them."""
    await consumer._client.force_metadata_update()


async def disconnect(consumer: aiokafka.AIOKafkaConsumer) -> None:
    """Close the connections of a consumer whose `stop` did not get that far."""
    await consumer._client.close()


async def abandon(producer: aiokafka.AIOKafkaProducer, *, seconds: float) -> None:
    """End a producer with what it could not deliver, where `stop` would flush for ever; its sender gets `seconds`."""
    sender = producer._sender.sender_task
    sender.cancel()
    await asyncio.wait([sender], timeout=seconds)
    await producer.client.close()


class CompleteBatch:
    """A record batch that is complete: `AIOKafkaProducer.send_batch` takes it in place of its own `BatchBuilder`.

    Parameters
    ----------
    buffer, n
        The batch's bytes with room for its header, and the number of its records.
    write_header
        Called with id, epoch and base sequence of the producer once they are known, and whenever they have changed;
        -1, -1, 0 of one that is not idempotent.
    """

    def __init__(self, buffer: bytearray, n: int, write_header: Callable[[int, int, int], None]) -> None:
        self._buffer, self._n, self._write_header = buffer, n, write_header
        self._producer = (-1, -1, 0)
        self._is_headed = False

    def append(self, **_record: object) -> None:
        """Take no record more; None is aiokafka's word for that."""

    def close(self) -> None:
        """It always is."""

    def closed(self) -> bool:
        """Return True: there is nothing to linger for."""
        return True

    def record_count(self) -> int:
        """Return the number of records."""
        return self._n

    def size(self) -> int:
        """Return the size in bytes, header included."""
        return len(self._buffer)

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = producer_id, producer_epoch, base_sequence
        self._is_headed = False

    def _build(self) -> bytearray:
        if not self._is_headed:
            self._write_header(*self._producer)
            self._is_headed = True
        return self._buffer


def built(batch: CompleteBatch | BatchBuilder, *, producer: tuple[int, int, int] | None = None) -> bytearray:
    """Return the bytes that a producer would send of a batch: one with that id, epoch and base sequence, if any."""
    if producer:
        batch._set_producer_state(*producer)
    body: bytearray = batch._build()
    return body


class _MemoryRecords(fetcher.MemoryRecords):  # type: ignore[misc]  # aiokafka is untyped
    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


class Fetch(fetcher.PartitionRecords):  # type: ignore[misc]
    """What a consumer has fetched of one partition, as the reader of a `ReadBy` takes it."""

    next_fetch_offset: int

    @property
    def data(self) -> bytes:
        """The record batches as the broker sent them; the first may begin before `next_fetch_offset`."""
        return bytes(self._records.data)

    @property
    def partition(self) -> str:
        """What the partition is called in errors, as `metrics-3`."""
        return f"{self._tp.topic}-{self._tp.partition}"

    def aborting_at(self, offset: int) -> set[int]:
        """Return the ids of producers whose transaction at that offset was taken back; ask at rising offsets.

        Whoever reads takes a producer out of the set at the marker that ends its transaction. Of a consumer that reads
        what is uncommitted it is empty.
        """
        if self._isolation_level != fetcher.READ_COMMITTED:
            return set()
        self._consume_aborted_up_to(offset)
        aborting: set[int] = self._aborted_producers
        return aborting

    def _unpack_records(self) -> Iterator[Any]:
        if not isinstance(self._value_deserializer, ReadBy):
            yield from super()._unpack_records()
            return
        # All are read before one is given: what raises must not have moved the offset, or records would be lost.
        parts, self.next_fetch_offset = self._value_deserializer.read(self)
        yield from parts


class ReadBy:
    """A `value_deserializer` that has a function read the fetches of its consumer, and of no other.

    `read` takes a fetch, and returns what `getmany` gives of it in place of records, and the next offset.
    """

    def __init__(self, read: Callable[[Fetch], tuple[Sequence[Any], int]]) -> None:
        self.read = read

    def __call__(self, value: bytes | None) -> bytes | None:
        """Return the value: aiokafka wants a function."""
        return value


fetcher.MemoryRecords, fetcher.PartitionRecords = _MemoryRecords, Fetch
