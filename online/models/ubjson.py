"""A model's file as XGBoost writes it (Universal Binary JSON, draft 12), read within bounds.

XGBoost's own reader trusts its bytes: of 1,800 models with a few bytes changed or cut off, 143 killed the process and 9
kept it busy for ever. So we read them first, strictly: only the forms that XGBoost writes, each size held to the bytes
that are there, a bound on how many values there are, and nothing left over.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

VALUES_MAX = 1 << 18
"""A tree has some 25 values, its arrays among them: room for 10,000 trees."""
_DEPTH_MAX = 16
_NUMBERS = {
    ord(marker): np.dtype(of)
    for marker, of in {"i": "i1", "U": "u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}.items()
}


def read(content: bytes) -> dict[str, Any]:
    r"""Return the document; arrays of one type are NumPy arrays over `content`, others lists.

    >>> read(b"{" + b"L" + bytes(7) + b"\x01" + b"a" + b"[$U#L" + bytes(7) + b"\x02" + b"\x07\x08" + b"}")
    {'a': array([7, 8], dtype=uint8)}

    Raises `ValueError`, which says at which byte it is none.
    """
    reader = _Reader(content)
    document = reader.value(0)
    if not isinstance(document, dict) or reader.at != len(content):
        raise ValueError(f"at byte {reader.at}: not one object and nothing else")
    return document


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self.at, self._values = content, 0, 0

    def value(self, depth: int) -> Any:
        self._values += 1
        if depth > _DEPTH_MAX or self._values > VALUES_MAX:
            raise ValueError(f"at byte {self.at}: more than {_DEPTH_MAX} deep, or than {VALUES_MAX} values")
        marker = self._take(1)[0]
        if marker == ord("{"):
            return self._object(depth)
        if marker == ord("["):
            return self._array(depth)
        if marker == ord("S"):
            return self._text()
        return self._numbers(marker, 1)[0].item()

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._content[self.at : self.at + 1] != b"}":
            key = self._text()
            if key in found:
                raise ValueError(f"at byte {self.at}: a second {key[:40]!r}")
            found[key] = self.value(depth + 1)
        self.at += 1
        return found

    def _array(self, depth: int) -> NDArray[Any] | list[Any]:
        marker = None
        if self._content[self.at : self.at + 1] == b"$":
            marker = self._take(2)[1]
        if self._take(1) != b"#":
            raise ValueError(f"at byte {self.at - 1}: an array without its size")
        size = self._size()
        return [self.value(depth + 1) for _ in range(size)] if marker is None else self._numbers(marker, size)

    def _numbers(self, marker: int, count: int) -> NDArray[Any]:
        if marker not in _NUMBERS:
            raise ValueError(f"at byte {self.at - 1}: {chr(marker)!r} begins no value that XGBoost writes")
        dtype = _NUMBERS[marker]
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _text(self) -> str:
        return self._take(self._size()).decode()  # a UnicodeDecodeError is a ValueError, too

    def _size(self) -> int:
        marker, size = struct.unpack(">cq", self._take(9))
        if marker != b"L" or size < 0:
            raise ValueError(f"at byte {self.at - 9}: not a size")
        return int(size)

    def _take(self, size: int) -> bytes:
        if size > len(self._content) - self.at:
            raise ValueError(f"at byte {self.at}: ends early, {size} bytes should follow")
        self.at += size
        return self._content[self.at - size : self.at]
