"""The records of a fetch as arrays: where each key and value lies in the bytes that hold them all."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from streams.contract import DeadReason
from streams.inside_aiokafka import decode_varint_py
from streams.wire.spans import NO_BYTES

OFFSET, TIMESTAMP, KEY_START, KEY_SIZE, VALUE_START, VALUE_SIZE, HEADERS_START = range(7)
"""The rows of `Records.places`."""
NO_TIME = -1
"""The time of a record that has none: of Kafka's oldest format, or as its producer said."""
HEADERS_MAX = 1_000
"""No more headers of a record are read: a producer can put millions into one, and each becomes two objects."""


class Record(Protocol):
    """What is read of a Kafka record; the value and the key may be None, the time is the broker's, in ms, or none."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def key(self) -> Any: ...
    @property
    def value(self) -> Any: ...
    @property
    def headers(self) -> Sequence[tuple[str, Any]]: ...


class Taken(NamedTuple):
    """One record taken out of the arrays."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Records(Sequence[Record]):
    """n records in log order; one of them becomes an object only where it is asked for.

    >>> records = Records.of([Taken(7, 0, b"leaf-1", b"{}", [])])
    >>> records[0].value, records.offset.tolist(), len(records[1:])
    (b'{}', [7], 0)
    """

    def __init__(
        self,
        data: bytes,
        places: NDArray[np.int64],
        is_plain: NDArray[np.bool_],
        refusal: tuple[DeadReason, str] | None = None,
    ) -> None:
        """Take `places`, shape (7, n), in `data`: all lie within, and headers are whole, however many a record has.

        `is_plain`, shape (n,), is true of records with a value and a time, without headers, whose key is ASCII or None.
        `refusal` says why none of these records can be read; of them only the offset and the time are known.
        """
        self.data, self.places, self.is_plain, self.refusal = data, places, is_plain, refusal
        self._objects: Sequence[Record] | None = None

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Records":
        """Lay out records that are objects already: for what is not hot, and for tests."""
        if isinstance(records, Records):
            return records
        values = [record.value or b"" for record in records]
        places = np.zeros((7, len(records)), np.int64)
        places[OFFSET] = [record.offset for record in records]
        places[TIMESTAMP] = [NO_TIME if record.timestamp is None else record.timestamp for record in records]
        ends = np.cumsum([len(value) for value in values], dtype=np.int64)
        places[VALUE_SIZE] = [NO_BYTES if record.value is None else len(record.value) for record in records]
        places[VALUE_START] = ends - np.maximum(places[VALUE_SIZE], 0)
        is_plain = np.array([_is_plain(record) for record in records], np.bool_)
        made = cls(b"".join(values), places, is_plain)
        made._objects = records
        return made

    @classmethod
    def unread(cls, offsets: Sequence[int], timestamp: int, refusal: tuple[DeadReason, str]) -> "Records":
        """Return records that can't be read, by their offsets and their common time."""
        places = np.zeros((7, len(offsets)), np.int64)
        places[OFFSET], places[TIMESTAMP] = offsets, timestamp
        places[KEY_SIZE] = places[VALUE_SIZE] = NO_BYTES
        return cls(b"\0", places, np.zeros(len(offsets), np.bool_), refusal)  # the 0: none of them has a header

    @property
    def offset(self) -> NDArray[np.int64]:
        """The offsets, shape (n,), ascending."""
        return self._row(OFFSET)

    @property
    def timestamp(self) -> NDArray[np.int64]:
        """The broker's times, shape (n,), ms."""
        return self._row(TIMESTAMP)

    @property
    def value_size(self) -> NDArray[np.int64]:
        """The bytes of each value, shape (n,), `NO_BYTES` where there is none."""
        return self._row(VALUE_SIZE)

    def braces(self) -> int:
        """Return how many opening braces there are from the first value to the end of the last one."""
        if not len(self):
            return 0
        starts = self.places[VALUE_START]
        n: int = self.data.count(b"{", int(starts[0]), int(starts[-1]) + max(0, int(self.value_size[-1])))
        return n

    def value(self, i: int) -> bytes | None:
        """Return the value of one record."""
        return self._piece(VALUE_START, i)

    def __len__(self) -> int:
        return len(self.is_plain)

    @overload
    def __getitem__(self, at: int) -> Record: ...
    @overload
    def __getitem__(self, at: slice) -> "Records": ...
    def __getitem__(self, at: int | slice) -> "Record | Records":
        """Return one record as an object, or some, which share the bytes."""
        if isinstance(at, slice):
            some = Records(self.data, self.places[:, at], self.is_plain[at], self.refusal)
            some._objects = None if self._objects is None else self._objects[at]
            return some
        if self._objects is not None:
            return self._objects[at]
        offset, timestamp = self.places[:KEY_START, at].tolist()
        return Taken(offset, timestamp, self._piece(KEY_START, at), self._piece(VALUE_START, at), self._headers(at))

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def _row(self, row: int) -> NDArray[np.int64]:
        column: NDArray[np.int64] = self.places[row]
        return column

    def _piece(self, start_row: int, i: int) -> bytes | None:
        start, size = self.places[start_row : start_row + 2, i].tolist()
        return None if size == NO_BYTES else self.data[start : start + size]

    def _headers(self, i: int) -> list[tuple[str, bytes | None]]:
        count, at = decode_varint_py(self.data, int(self.places[HEADERS_START, i]))
        headers = []
        for _ in range(min(count, HEADERS_MAX)):
            name, at = self._field(at)
            value, at = self._field(at)
            headers.append(((name or b"").decode(errors="replace"), value))
        return headers

    def _field(self, at: int) -> tuple[bytes | None, int]:
        size, at = decode_varint_py(self.data, at)
        return (None, at) if size < 0 else (self.data[at : at + size], at + size)


def _is_plain(record: Record) -> bool:
    key: bytes | None = record.key
    has_time = record.timestamp is not None and record.timestamp >= 0
    return has_time and record.value is not None and not record.headers and (key is None or key.isascii())
