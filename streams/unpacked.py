"""Kafka's record batches to records as arrays: the way back of `streams.packed`, in one compiled pass.

The format is version 2 (KIP-98). What is read here is what aiokafka 0.14 reads of the same bytes.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from aiokafka import codec
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.util import calc_crc32c
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.raw_bytes import byte_at
from streams.records import (
    HEADERS_START,
    KEY_SIZE,
    KEY_START,
    OFFSET,
    PADDING,
    TIMESTAMP,
    VALUE_SIZE,
    VALUE_START,
    Records,
)

_HEADER = struct.Struct(">qiibIhiqqqhii")
_MAGIC = 2
_BEFORE_LENGTH, _AFTER_CRC = 12, 21
_CODEC, _APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20
_CODECS: dict[int, tuple[str, Callable[[], bool], Callable[[bytes], bytes]]] = {
    1: ("gzip", codec.has_gzip, codec.gzip_decode),
    2: ("snappy", codec.has_snappy, codec.snappy_decode),
    3: ("lz4", codec.has_lz4, codec.lz4_decode),
    4: ("zstd", codec.has_zstd, codec.zstd_decode),
}


class Batch(NamedTuple):
    """One record batch: what its header says, and its records as they lie one after another."""

    base_offset: int
    next_offset: int
    first_timestamp: int  # ms
    append_time: int  # ms, the time of all records where the broker gives it, else -1
    n: int
    is_control: bool
    body: memoryview


def batches(data: bytes) -> Iterator[Batch] | None:
    """Return the batches of a partition's fetched bytes, None where one is of another version than 2.

    The last batch may be cut off, and is left out then. Raises aiokafka's `CorruptRecordException`, as they come.
    """
    edges = _edges(data)
    return None if edges is None else (_batch(memoryview(data)[start:end]) for start, end in edges)


def _edges(data: bytes) -> list[tuple[int, int]] | None:
    edges, at = [], 0
    while at + _HEADER.size <= len(data):
        end = at + _BEFORE_LENGTH + int.from_bytes(data[at + 8 : at + _BEFORE_LENGTH], "big")
        if data[at + 16] != _MAGIC:
            return None
        if end < at + _HEADER.size:
            raise CorruptRecordException("a batch that is shorter than its header")
        if end > len(data):
            break
        edges.append((at, end))
        at = end
    return edges


def _batch(data: memoryview) -> Batch:
    (base, _, _, _, crc, attributes, last_delta, first_ts, max_ts, _, _, _, count) = _HEADER.unpack_from(data)
    if calc_crc32c(data[_AFTER_CRC:]) != crc:
        raise CorruptRecordException(f"the batch from offset {base} on has another checksum than it says")
    if count < 0:
        raise CorruptRecordException(f"the batch from offset {base} on says that it has {count} records")
    body = data[_HEADER.size :]
    if attributes & _CODEC:
        body = memoryview(_decompressed(body, attributes & _CODEC))
    append_time = max_ts if attributes & _APPEND_TIME else -1
    return Batch(base, base + last_delta + 1, first_ts, append_time, count, bool(attributes & _CONTROL), body)


def _decompressed(body: memoryview, number: int) -> bytes:
    name, is_here, decode = _CODECS.get(number, (f"number {number}", lambda: False, bytes))
    if not is_here():
        raise UnsupportedCodecError(f"records are compressed with {name}, and its library is not here")
    return decode(body.tobytes())


def unpack(taken: list[Batch], *, first: int) -> Records:
    """Return the records of batches from offset `first` on. Raises `CorruptRecordException`."""
    data = b"".join([*(batch.body for batch in taken), PADDING])
    n = sum(batch.n for batch in taken)
    if n > len(data):  # a record takes more bytes than one
        raise CorruptRecordException(f"{n} records in {len(data)} bytes")
    places, is_plain = np.empty((7, n), np.int64), np.empty(n, np.bool_)
    view, row, start = np.frombuffer(data, np.uint8), 0, 0
    for batch in taken:
        end = start + len(batch.body)
        at = _unpack(
            view, start, end, batch.n, batch.base_offset, batch.first_timestamp, batch.append_time, row, places,
            is_plain,
        )  # fmt: skip
        if at != end:
            raise CorruptRecordException(f"the records from offset {batch.base_offset} on don't fill their batch")
        row, start = row + batch.n, end
    skipped = int(np.searchsorted(places[OFFSET], first))
    return Records(data, places, is_plain)[skipped:]


def compile_unpack() -> None:
    """Compile `unpack`, or load it from its cache."""
    unpack([Batch(0, 1, 0, -1, 1, False, memoryview(bytes([12, 0, 0, 0, 1, 1, 0])))], first=0)


@kernel
def _unpack(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    count: int,
    base_offset: int,
    first_timestamp: int,
    append_time: int,
    row: int,
    places: NDArray[np.int64],
    is_plain: NDArray[np.bool_],
) -> int:
    """Read `count` records between `at` and `end` into the places from `row` on; return the place behind, -1 if bad."""
    for i in range(row, row + count):
        size, at = _varint(data, at, end)
        behind = at + size
        if size < 0 or behind > end:
            return -1
        ts_delta, at = _varint(data, at + 1, behind)  # behind the attributes, of which none are defined
        offset_delta, at = _varint(data, at, behind)
        places[OFFSET, i] = base_offset + offset_delta
        places[TIMESTAMP, i] = first_timestamp + ts_delta if append_time < 0 else append_time
        places[KEY_SIZE, i], at = _varint(data, at, behind)
        places[KEY_START, i] = at
        at += max(0, places[KEY_SIZE, i])
        if at > behind:
            return -1
        places[VALUE_SIZE, i], at = _varint(data, at, behind)
        places[VALUE_START, i] = at
        at += max(0, places[VALUE_SIZE, i])
        if at > behind or places[KEY_SIZE, i] < -1 or places[VALUE_SIZE, i] < -1:
            return -1
        places[HEADERS_START, i] = at
        headers, at = _varint(data, at, behind)
        if headers < 0 or at > behind or (headers == 0 and at != behind):
            return -1
        is_plain[i] = (
            headers == 0 and places[VALUE_SIZE, i] >= 0 and _is_ascii(data, places[KEY_START, i], places[KEY_SIZE, i])
        )
        at = behind
    return at


@inlined
def _varint(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Return the zigzag varint at `at` and the place behind it, which is past `end` where it is cut off."""
    value, shift = 0, 0
    while at < end and shift < 64:
        byte = byte_at(data, at)
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) & 0x7FFFFFFFFFFFFFFF ^ -(value & 1), at
        shift += 7
    return -2, end + 1


@inlined
def _is_ascii(data: NDArray[np.uint8], start: int, size: int) -> bool:
    for i in range(start, start + size):
        if byte_at(data, i) >= 0x80:
            return False
    return True
