"""The messages of an Arrow IPC stream, looked at before Arrow is: what reading them costs is bounded here.

Arrow checks that a message is sound, and not what becomes of it: a body of 48 KB unpacks to 1.5 GB, and one table or
text that a flatbuffer names many times over becomes as many objects (a schema of 100 KB: 800 MB).

Layout: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc, and the
tables of format/Message.fbs and Schema.fbs. What would lie outside its message is a `struct.error`, and not read.
"""

from collections.abc import Iterator
from functools import lru_cache
from struct import Struct, error

from streams.wire.events import Refusal

ROWS_MAX = 65_536
MESSAGES_MAX = 64
MESSAGE_BYTES_MAX = 1 << 16
"""Of a message without its body; a usual one has 500. Extensions' JSON of 150 KB overflows the stack of pyarrow 22."""
FIELDS_MAX = 256
"""Columns, those nested in them, and entries of metadata, each as often as it is named."""

_BROKEN: Refusal = "not_arrow", "marked as Arrow, and no stream of whole Arrow IPC messages"
_COMPRESSED: Refusal = "not_arrow", "a compressed body, whose size nobody knows beforehand: send it uncompressed"
# Metadata V4, which C# wrote until 2023, has its compression in there.
_OWN_METADATA: Refusal = "not_arrow", "metadata of a batch, which may mean that it is compressed: leave it out"
_ROWS: Refusal = "too_large", f"more than {ROWS_MAX} rows"
_FIELDS: Refusal = "too_large", f"more than {FIELDS_MAX} columns and entries of metadata"
_MESSAGES: Refusal = "too_large", f"more than {MESSAGES_MAX} messages, or one of more than {MESSAGE_BYTES_MAX} bytes"

_CONTINUATION = b"\xff\xff\xff\xff"
_END = _CONTINUATION + bytes(4)
_SCHEMA, _DICTIONARY_BATCH, _RECORD_BATCH = 1, 2, 3

_u1, _u2, _u4, _i4, _i8 = (Struct(f"<{code}").unpack_from for code in "BHIiq")
_PLACES_MAX = 7  # no table has more fields that matter here
_places = [Struct(f"<{n}H").unpack_from for n in range(_PLACES_MAX + 1)]


class _Refused(Exception):
    """Carries a refusal out of the loops."""


def first_look(value: bytes) -> Refusal | None:
    """Return why Arrow must not read a stream, None where it may, at a cost that the bounds here limit."""
    try:
        _look(value)
    except _Refused as refused:
        refusal: Refusal = refused.args[0]
        return refusal
    except error:
        return _BROKEN
    return None


def schema_of(value: bytes) -> bytes:
    """Return the schema's message, which a stream that may be read begins with."""
    return value[: 8 + _u4(value, 4)[0]]


def _look(value: bytes) -> None:
    rows = 0
    for n, (kind, message, header) in enumerate(_messages(value)):
        if n == 0 and kind == _SCHEMA:
            if refusal := _schema_flaw(message, header):
                raise _Refused(refusal)
        elif n and kind == _DICTIONARY_BATCH:
            _, data, *_ = _fields(message, header)
            _rows(message, _below(message, data))
        elif n and kind == _RECORD_BATCH:
            rows += _rows(message, header)
        else:
            raise _Refused(_BROKEN)
        if rows > ROWS_MAX:
            raise _Refused(_ROWS)


def _messages(value: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield kind, message and place of the header in it, of each message up to the end."""
    at = 0
    for _ in range(MESSAGES_MAX):
        size = _u4(value, at + 4)[0]
        body = at + 8 + size
        if value[at : at + 4] != _CONTINUATION or body > len(value):
            raise _Refused(_BROKEN)
        if size > MESSAGE_BYTES_MAX:
            raise _Refused(_MESSAGES)
        message = value[at + 8 : body]
        _, kind, header, length, metadata, *_ = _fields(message, _u4(message)[0])
        at = body + (_i8(message, length)[0] if length else 0)
        if not kind or not body <= at <= len(value):
            raise _Refused(_BROKEN)
        if _count(message, metadata):
            raise _Refused(_OWN_METADATA)
        yield _u1(message, kind)[0], message, _below(message, header)
        if at == len(value) or value[at : at + 9] == _END:
            return
    raise _Refused(_MESSAGES)


def _rows(message: bytes, batch: int) -> int:
    rows, _, buffers, compression, views, *_ = _fields(message, batch)
    if compression:
        raise _Refused(_COMPRESSED)
    # How many buffers each column of views has: pyarrow 22 makes room for them, whether they are there or not.
    if any(not 0 <= n <= _count(message, buffers) for n in _numbers(message, views)):
        raise _Refused(_BROKEN)
    n: int = _i8(message, rows)[0] if rows else 0
    if n < 0:
        raise _Refused(_BROKEN)
    if n > ROWS_MAX:
        raise _Refused(_ROWS)
    return n


@lru_cache(maxsize=64)
def _schema_flaw(message: bytes, schema: int) -> Refusal | None:
    _, fields, metadata, *_ = _fields(message, schema)
    left = FIELDS_MAX - _count(message, metadata)
    vectors = [fields] if fields else []
    while vectors:
        vector = vectors.pop()
        n = _count(message, vector)
        left -= n
        if left < 0:
            return _FIELDS
        first = _below(message, vector) + 4
        for at in range(first, first + 4 * n, 4):
            *_, children, metadata = _fields(message, _below(message, at))
            left -= _count(message, metadata)
            if children:
                vectors.append(children)
    return _FIELDS if left < 0 else None


def _fields(message: bytes, table: int) -> list[int]:
    """Return where the fields of a flatbuffer's table are, shape (7,), 0 for one that is left out."""
    vtable = table - _i4(message, table)[0]
    if vtable < 0:
        raise _Refused(_BROKEN)
    n = max(0, min((_u2(message, vtable)[0] - 4) // 2, _PLACES_MAX))
    places = [table + place if place else 0 for place in _places[n](message, vtable + 4)]
    return places + [0] * (_PLACES_MAX - n)


def _below(message: bytes, at: int) -> int:
    """Return the place that the offset at `at` leads to; 0 stands for one that is left out, and leads nowhere."""
    if not at:
        raise _Refused(_BROKEN)
    place: int = at + _u4(message, at)[0]
    return place


def _numbers(message: bytes, at: int) -> Iterator[int]:
    """Yield the 64-bit numbers of a vector, as `_count` counts them."""
    n, first = _count(message, at), at and _below(message, at) + 4
    return (_i8(message, place)[0] for place in range(first, first + 8 * n, 8))


def _count(message: bytes, at: int) -> int:
    """Return how many elements the vector has that the offset at `at` leads to; none where `at` is 0."""
    n: int = _u4(message, _below(message, at))[0] if at else 0
    return n
