"""Many byte strings in one buffer, so that compiled code reads and writes them without a Python object each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined, inlined

_T = TypeVar("_T", bound=np.generic)

NO_BYTES = -1
"""The size of a piece that is None: Kafka's own sign for a record without a key or a value."""
_POINT = np.uint8(ord("."))


class Spans(NamedTuple):
    """n pieces of one buffer; the buffer may hold more, and pieces may share bytes.

    >>> list(Spans.of([b"leaf-1", None, b""]).pieces())
    [b'leaf-1', None, b'']
    """

    buffer: NDArray[np.uint8]
    start: NDArray[np.int64]  # (n,) place of each piece's first byte
    size: NDArray[np.int64]  # (n,) bytes of each piece, `NO_BYTES` where it is None

    @classmethod
    def of(cls, pieces: Sequence[bytes | bytearray | None]) -> "Spans":
        """Lay the pieces side by side."""
        size = np.array([NO_BYTES if piece is None else len(piece) for piece in pieces], np.int64)
        ends = np.cumsum(np.maximum(size, 0))
        buffer = np.frombuffer(b"".join(piece or b"" for piece in pieces), np.uint8)
        return cls(buffer, ends - np.maximum(size, 0), size)

    def pieces(self) -> Iterator[bytes | None]:
        """Yield each piece as Python has it; for what is few or isn't hot."""
        buffer = self.buffer.tobytes()
        for start, size in zip(self.start.tolist(), self.size.tolist(), strict=True):
            yield None if size == NO_BYTES else buffer[start : start + size]


class Arena:
    """Bytes by slot, in one buffer that grows; a slot that is used anew has its bytes replaced.

    Bytes once written stay as they are and a buffer that is outgrown stays with whom it was given to, so `Spans` of an
    arena hold for ever.

    >>> nodes = Arena()
    >>> nodes.extend([b"leaf-1", b"leaf-2"])
    >>> nodes.replace(0, b"spine-9")
    >>> list(nodes.at(np.array([1, 0, 0])).pieces())
    [b'leaf-2', b'spine-9', b'spine-9']
    """

    def __init__(self) -> None:
        self._buffer = np.empty(1 << 14, np.uint8)
        self._start, self._size = np.zeros(256, np.int64), np.zeros(256, np.int64)
        self._used = self._live = self._n = 0
        self.size_max = 0
        """No piece has more bytes."""

    def __len__(self) -> int:
        return self._n

    def extend(self, pieces: Sequence[bytes]) -> None:
        """Give the next slots their bytes."""
        if not pieces:
            return
        end = self._n + len(pieces)
        self._start, self._size = _grown(self._start, self._n, end), _grown(self._size, self._n, end)
        sizes = np.array([len(piece) for piece in pieces], np.int64)
        ends = self._write(b"".join(pieces)) + np.cumsum(sizes)
        self._start[self._n : end], self._size[self._n : end] = ends - sizes, sizes
        self._n = end
        self.size_max = max(self.size_max, int(sizes.max()))

    def replace(self, slot: int, piece: bytes) -> None:
        """Give a slot other bytes."""
        self._live -= int(self._size[slot])
        self._start[slot] = self._write(piece)
        self._size[slot] = len(piece)
        self.size_max = max(self.size_max, len(piece))
        if self._used > 2 * self._live + (1 << 14):  # else slots that come and go would fill the memory
            self._compact()

    def at(self, slots: NDArray[np.integer]) -> Spans:
        """Return the pieces of some slots, in their order."""
        return Spans(self._buffer, self._start[slots], self._size[slots])

    def all(self) -> Spans:
        """Return the pieces by slot, to be read before the arena changes."""
        return Spans(self._buffer, self._start, self._size)

    def _write(self, more: bytes) -> int:
        start, end = self._used, self._used + len(more)
        self._buffer = _grown(self._buffer, start, end)
        self._buffer[start:end] = np.frombuffer(more, np.uint8)
        self._used, self._live = end, self._live + len(more)
        return start

    def _compact(self) -> None:
        fresh = Arena()
        fresh.extend([piece or b"" for piece in self.at(np.arange(self._n)).pieces()])
        self.__dict__.update(fresh.__dict__)


def _grown(array: NDArray[_T], used: int, needed: int) -> NDArray[_T]:
    """Return `array`, or where it has no room for `needed` elements, a larger one with its first `used`."""
    if needed <= array.size:
        return array
    grown = np.empty(max(needed, 2 * array.size), array.dtype)
    grown[:used] = array[:used]
    return grown


@inlined  # asked once, below: at each byte it would be no copy by the word
def copy_bytes(out: NDArray[np.uint8], at: int, source: NDArray[np.uint8], start: int, size: int) -> int:
    """Copy `size` bytes to place `at` of `out`; return the place behind. `IndexError` where they don't fit in."""
    if size < 0 or not 0 <= at <= out.size - size or not 0 <= start <= source.size - size:
        raise IndexError("a piece that does not lie within its buffer")
    # Unsigned places: a signed one might count from the end, and asking that at each byte made it 20 times slower.
    to, since = np.uint64(at), np.uint64(start)
    for i in range(np.uint64(size)):
        out[to + i] = source[since + i]
    return at + size


@bounded_inlined
def put_int(out: NDArray[np.uint8], at: int, value: int) -> int:
    """Write an int of 0 or more; return the place behind it."""
    digits, power = 1, 10
    while value >= power and digits < 19:
        digits, power = digits + 1, power * 10
    end: int = _put_digits(out, at, value, digits)
    return end


@bounded_inlined
def put_fraction(out: NDArray[np.uint8], at: int, value: int, unit: int, decimals: int) -> int:
    """Write value / unit, 0 or more, without zeros at its end, one decimal at least; return the place behind it.

    `unit` is 10 to the `decimals`. Up to 4 of them these are the bytes of Python's own floats, which are the shortest
    decimals: below 0.0001 it would write an exponent.
    """
    at = put_int(out, at, value // unit)
    out[np.uint64(at)] = _POINT
    fraction = value % unit
    while decimals > 1 and fraction % 10 == 0:
        fraction, decimals = fraction // 10, decimals - 1
    end: int = _put_digits(out, at + 1, fraction, decimals)
    return end


@bounded_inlined
def _put_digits(out: NDArray[np.uint8], at: int, value: int, digits: int) -> int:
    # One at a time: two from a table took predictions a quarter longer.
    rest, to = np.uint64(value), np.uint64(at + digits)
    for _ in range(digits):
        to -= np.uint64(1)
        out[to] = np.uint64(48) + rest % np.uint64(10)
        rest //= np.uint64(10)
    return at + digits
