"""Compressed bytes of Kafka's records to what they hold, never more of it than `BYTES_MAX`."""

from collections.abc import Callable

import cramjam
import numpy as np
from aiokafka.errors import CorruptRecordException

from streams.contract import LinkcastError

BYTES_MAX = 64 << 20
"""Of one record batch, decompressed. A record may have 1 MiB and a producer fills batches of some MiB before it
compresses them, so this leaves room for any that is meant; 44 KB of zstd can hold 1 GB."""

_GZIP, _SNAPPY, _LZ4, _ZSTD = 1, 2, 3, 4
_XERIAL = b"\x82SNAPPY\0"  # how Java's snappy frames its blocks: this, two versions, then each block behind its size
_XERIAL_HEADER_BYTES = 16
_NO_ROOM = "failed to write whole buffer"  # how cramjam 2.14 says that the output is full


class TooLarge(LinkcastError):
    """The records of a batch are beyond all bounds."""


class Unreadable(CorruptRecordException):  # type: ignore[misc]  # aiokafka is untyped
    """The bytes are those that their producer wrote, and no records."""


def decompressed(body: memoryview, codec: int) -> memoryview:
    """Return what is in `body`, by the number that Kafka gives the codec.

    Raises `TooLarge`, and `Unreadable` where the codec can't read it or isn't known. Takes no more memory
    than `BYTES_MAX` and a codec's window, whatever the bytes say, and what is written is never more than `out` holds.
    """
    room = min(BYTES_MAX, 4_096 + 16 * len(body))
    while True:
        out = np.empty(room, np.uint8).data
        try:
            return out[: _decompress(body, codec, out)]
        except cramjam.DecompressionError as error:
            if _NO_ROOM not in str(error):
                raise Unreadable(f"its compressed records can't be read: {error}") from None
        if room == BYTES_MAX:
            raise TooLarge(f"{len(body)} compressed bytes hold more than {BYTES_MAX}")
        room = min(BYTES_MAX, 8 * room)


def _decompress(body: memoryview, codec: int, out: memoryview) -> int:
    if codec == _SNAPPY:
        return _snappy(body, out)
    if codec not in _INTO:
        raise Unreadable(f"its codec {codec} is none of Kafka's")
    return _INTO[codec](body, out)


_INTO: dict[int, Callable[[memoryview, memoryview], int]] = {
    _GZIP: cramjam.gzip.decompress_into,
    _LZ4: cramjam.lz4.decompress_into,
    _ZSTD: cramjam.zstd.decompress_into,
}


def _snappy(body: memoryview, out: memoryview) -> int:
    if bytes(body[: len(_XERIAL)]) != _XERIAL:
        return _block(body, out)
    at, size = _XERIAL_HEADER_BYTES, 0
    while at < len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4], "big")
        if not at + 4 < end <= len(body):
            raise Unreadable("a snappy block that does not lie within its batch")
        size += _block(body[at + 4 : end], out[size:])
        at = end
    return size


def _block(block: memoryview, out: memoryview) -> int:
    if cramjam.snappy.decompress_raw_len(block) > len(out):  # as it says itself, and it can't write more
        raise cramjam.DecompressionError(_NO_ROOM)
    n: int = cramjam.snappy.decompress_raw_into(block, out)
    return n
