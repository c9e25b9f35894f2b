"""Kafka's record batches to records as arrays: the way back of `streams.wire.packed`, in one compiled pass.

The format is version 2 (KIP-98). What is read here is what aiokafka 0.14 reads of the same bytes, but that no size,
count or offset is believed before it is checked: aiokafka's compiled varints read wherever one says.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from aiokafka.errors import CorruptRecordException
from numpy.typing import NDArray

from streams.compiled import bounded_inlined, bounded_kernel
from streams.inside_aiokafka import calc_crc32c
from streams.wire.bounded_bytes import byte_at
from streams.wire.decompression import TooLarge, Unreadable, decompressed
from streams.wire.records import (
    HEADERS_START,
    KEY_SIZE,
    KEY_START,
    OFFSET,
    TIMESTAMP,
    VALUE_SIZE,
    VALUE_START,
    Records,
)

_HEADER = struct.Struct(">qiibIhiqqqhii")
_MAGIC, _AFTER_CRC = 2, 21
_CODEC, _APPEND_TIME, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20
_OFFSET_END = 1 << 62
_RECORD_BYTES_MIN = 7  # its size, attributes, time, offset, the sizes of its key and value, and how many headers
BATCH_RECORDS_MAX = 1_000_000
"""Of one batch; a batch of 12 MiB has as many where each record has 5 bytes of key and value."""


class Batch(NamedTuple):
    """One record batch: what its header says, and its records as they lie one after another, or compressed."""

    base_offset: int
    next_offset: int
    first_timestamp: int  # ms
    append_time: int  # ms, the time of all records where the broker gives it, else -1
    n: int
    is_control: bool
    body: memoryview
    codec: int = 0
    producer_id: int = -1
    is_transactional: bool = False

    def opened(self) -> "Batch":
        """Return the batch with its records decompressed. Raises `TooLarge` and `Unreadable`."""
        if not 0 <= self.n <= self.next_offset - self.base_offset:
            raise Unreadable(f"it says that it has {self.n} records")
        if self.n > BATCH_RECORDS_MAX:
            raise TooLarge(f"{self.n} records in one batch, at most {BATCH_RECORDS_MAX}")
        return self._replace(body=decompressed(self.body, self.codec), codec=0) if self.codec else self


def batch_in(frame: memoryview) -> Batch:
    """Return the batch of one frame of the log. Raises `CorruptRecordException` if it isn't the one that was written.

    The checksum, which its producer made, covers all but the offset, which the broker gave.
    """
    if len(frame) < _HEADER.size:
        raise CorruptRecordException(f"a batch of {len(frame)} bytes is shorter than its header")
    (base, _, _, magic, crc, attributes, last_delta, first_ts, max_ts, producer, _, _, count) = _HEADER.unpack_from(
        frame
    )
    if calc_crc32c(frame[_AFTER_CRC:]) != crc:
        raise CorruptRecordException("it has another checksum than it says")
    if magic != _MAGIC:
        raise CorruptRecordException(f"a batch of format {magic}, this worker reads {_MAGIC}")
    if not 0 <= base < _OFFSET_END or last_delta < 0:
        raise CorruptRecordException(f"it says that it goes from offset {base} to {last_delta} behind it")
    return Batch(
        base, base + last_delta + 1, first_ts, max_ts if attributes & _APPEND_TIME else -1, count,
        bool(attributes & _CONTROL), frame[_HEADER.size :], attributes & _CODEC, producer,
        bool(attributes & _TRANSACTIONAL),
    )  # fmt: skip


def unpack(taken: Sequence[Batch], *, first: int) -> Records:
    """Return the records of batches from offset `first` on. Raises `TooLarge` and `Unreadable`."""
    taken = [batch.opened() for batch in taken]
    data = b"".join([batch.body for batch in taken])
    n = sum(batch.n for batch in taken)
    if n * _RECORD_BYTES_MIN > len(data):
        raise Unreadable(f"{n} records in {len(data)} bytes")
    places, is_plain = np.empty((7, n), np.int64), np.empty(n, np.bool_)
    view, row, start = np.frombuffer(data, np.uint8), 0, 0
    for batch in taken:
        end, behind = start + len(batch.body), row + batch.n
        at = _unpack(
            view[start:end], start, batch.base_offset, batch.next_offset, batch.first_timestamp, batch.append_time,
            places[:, row:behind], is_plain[row:behind],
        )  # fmt: skip
        if at != end - start:
            raise Unreadable("the sizes and counts of its records don't fit in it")
        row, start = behind, end
    skipped = int(np.searchsorted(places[OFFSET], first))
    return Records(data, places, is_plain)[skipped:]


def compile_unpack() -> None:
    """Compile `unpack`, or load it from its cache."""
    unpack([Batch(0, 1, 0, -1, 1, False, memoryview(bytes([12, 0, 0, 0, 1, 1, 0])))], first=0)


@bounded_kernel
def _unpack(
    body: NDArray[np.uint8],
    place: int,
    base_offset: int,
    next_offset: int,
    first_timestamp: int,
    append_time: int,
    places: NDArray[np.int64],
    is_plain: NDArray[np.bool_],
) -> int:
    """Read the r records of a batch, whose body lies at `place`, into `places` (7, r); return the place behind, or -1.

    Sizes are held against what is left before a place moves by one: added to it, a huge one would come round.
    """
    at, earlier = 0, base_offset - 1
    for i in range(is_plain.size):
        size, at = _varint(body, at, body.size)
        if size < 1 or size > body.size - at:
            return -1
        behind = at + size
        ts_delta, at = _varint(body, at + 1, behind)  # behind the attributes, of which none are defined
        offset_delta, at = _varint(body, at, behind)
        if offset_delta <= earlier - base_offset or offset_delta >= next_offset - base_offset:
            return -1
        places[OFFSET, i] = earlier = base_offset + offset_delta
        places[TIMESTAMP, i] = first_timestamp + ts_delta if append_time < 0 else append_time
        key_size, key_at, at = _piece(body, at, behind)
        value_size, value_at, at = _piece(body, at, behind)
        places[KEY_SIZE, i], places[KEY_START, i] = key_size, place + key_at
        places[VALUE_SIZE, i], places[VALUE_START, i] = value_size, place + value_at
        places[HEADERS_START, i] = place + at
        headers, at = _varint(body, at, behind)
        for _ in range(headers):
            name_size, _, at = _piece(body, at, behind)
            _, _, at = _piece(body, at, behind)
            if name_size < 0 or at > behind:
                return -1
        if headers < 0 or at != behind:
            return -1
        is_plain[i] = (
            headers == 0 and value_size >= 0 and places[TIMESTAMP, i] >= 0 and _is_ascii(body, key_at, key_size)
        )
    return at


@bounded_inlined
def _piece(body: NDArray[np.uint8], at: int, end: int) -> tuple[int, int, int]:
    """Return the size of the bytes at `at`, -1 for none, their place, and the one behind, past `end` where they lie."""
    size, at = _varint(body, at, end)
    if size < -1 or size > end - at:
        return -1, at, end + 1
    return size, at, at + max(0, size)


@bounded_inlined
def _varint(body: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Return the zigzag varint at `at` and the place behind it, which is past `end` where it is cut off."""
    value, shift = 0, 0
    while at < end and shift < 64:
        byte = byte_at(body, at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) & 0x7FFFFFFFFFFFFFFF ^ -(value & 1), at
        shift += 7
    return -2, end + 1


@bounded_inlined
def _is_ascii(body: NDArray[np.uint8], start: int, size: int) -> bool:
    for i in range(start, start + size):
        if byte_at(body, i) >= 0x80:
            return False
    return True
