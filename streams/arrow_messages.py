"""The messages of an Arrow IPC stream, read from their flatbuffers before Arrow itself sees untrusted bytes.

Layout: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc, the tables
of format/Message.fbs. Every place is checked against the end before it is read.
"""

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.raw_bytes import byte_at, word_at

FINE, UNREADABLE, COMPRESSED, TOO_MANY_ROWS = range(4)
"""What `walk` finds."""

_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY_BATCH, RECORD_BATCH = 1, 2, 3
# Fields by their place in a flatbuffer table.
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3
_ROWS, NODES, BUFFERS, _COMPRESSION = 0, 1, 2, 3
_DICTIONARY_DATA = 1


@inlined
def u4_at(data: NDArray[np.uint8], i: int, end: int) -> int:
    """Return the 32-bit number at `i`, -1 where it isn't whole before `end`."""
    if i < 0 or i + 4 > end:
        return -1
    return byte_at(data, i) | byte_at(data, i + 1) << 8 | byte_at(data, i + 2) << 16 | byte_at(data, i + 3) << 24


@inlined
def i8_at(data: NDArray[np.uint8], i: int, end: int) -> int:
    """Return the 64-bit number at `i`, -1 where it isn't whole before `end`."""
    return -1 if i < 0 or i + 8 > end else int(np.int64(word_at(data, i)))


@inlined
def field_at(data: NDArray[np.uint8], table: int, field: int, end: int) -> int:
    """Return the place of a field of a flatbuffer table, 0 where it is left out, -1 where the table is broken."""
    back = u4_at(data, table, end)
    if back < 0:
        return -1
    vtable = table - (back - (1 << 32) if back >= 1 << 31 else back)
    if vtable < 0 or vtable + 4 > end:
        return -1
    entry = vtable + 4 + 2 * field
    size = byte_at(data, vtable) | byte_at(data, vtable + 1) << 8
    if entry + 2 > vtable + size:
        return 0
    if entry + 2 > end:
        return -1
    offset = byte_at(data, entry) | byte_at(data, entry + 1) << 8
    return table + offset if offset else 0


@inlined
def below(data: NDArray[np.uint8], at: int, end: int) -> int:
    """Return the place that the offset at `at` leads to, -1 where there is none."""
    offset = u4_at(data, at, end) if at > 0 else -1
    return at + offset if offset > 0 else -1


@inlined
def message_at(data: NDArray[np.uint8], i: int, end: int) -> tuple[int, int, int, int]:
    """Return type, header, start and end of the body of the message at `i`; type 0 is the end mark, -1 is none."""
    size = u4_at(data, i + 4, end)
    if u4_at(data, i, end) != _CONTINUATION or size < 0 or i + 8 + size > end:
        return -1, 0, 0, 0
    body = i + 8 + size
    if size == 0:
        return 0, 0, body, body
    table = below(data, i + 8, body)
    kind_at = field_at(data, table, _HEADER_TYPE, body)
    header = below(data, field_at(data, table, _HEADER, body), body)
    length_at = field_at(data, table, _BODY_LENGTH, body)
    length = i8_at(data, length_at, body) if length_at else 0
    if kind_at <= 0 or kind_at >= body or header < 0 or length < 0 or length > end - body:
        return -1, 0, 0, 0
    return byte_at(data, kind_at), header, body, body + length


@inlined
def rows_of(data: NDArray[np.uint8], batch: int, end: int) -> int:
    """Return how many rows a record batch says it has, -1 where it can't be read."""
    at = field_at(data, batch, _ROWS, end)
    return i8_at(data, at, end) if at else 0


@inlined
def is_compressed(data: NDArray[np.uint8], batch: int, end: int) -> bool:
    """Whether a record batch has a compressed body, or can't be read."""
    return bool(field_at(data, batch, _COMPRESSION, end) != 0)


@inlined
def structs_at(data: NDArray[np.uint8], batch: int, field: int, count: int, end: int) -> int:
    """Return where a vector of `count` structs of 16 bytes begins, -1 where it isn't there in full."""
    vector = below(data, field_at(data, batch, field, end), end)
    if u4_at(data, vector, end) != count or vector + 4 + 16 * count > end:
        return -1
    return int(vector + 4)


@kernel
def walk(data: NDArray[np.uint8], start: int, end: int, rows_max: int) -> int:
    """Return what is wrong with the stream in `data[start:end]` before a body is looked at, or `FINE`."""
    i, rows = start, 0
    while i < end:
        kind, header, body, body_end = message_at(data, i, end)
        if kind == 0 and i > start:
            return FINE if body == end else UNREADABLE
        if kind == _DICTIONARY_BATCH:
            header = below(data, field_at(data, header, _DICTIONARY_DATA, body), body)
        elif kind != (_SCHEMA if i == start else RECORD_BATCH):
            return UNREADABLE
        if kind != _SCHEMA:
            length = rows_of(data, header, body)
            if length < 0:
                return UNREADABLE
            if is_compressed(data, header, body):
                return COMPRESSED
            rows += length if kind == RECORD_BATCH else 0
            if length > rows_max or rows > rows_max:
                return TOO_MANY_ROWS
        i = body_end
    return FINE if i > start else UNREADABLE


@inlined
def is_whole(data: NDArray[np.uint8], i: int, end: int) -> bool:
    """Whether a stream ends at `i`, or with an end mark there."""
    return i == end or (i + 8 == end and u4_at(data, i, end) == _CONTINUATION and u4_at(data, i + 4, end) == 0)
