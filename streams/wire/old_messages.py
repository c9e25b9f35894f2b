"""Messages of Kafka's formats 0 and 1, as a topic still holds them that was written before Kafka 0.11.

A message is a record with a frame of its own. A compressed one holds a set of others, and stands at the offset of the
last of them. Format 0 has no time.
"""

import struct
import zlib

from aiokafka.errors import CorruptRecordException

from streams.wire.decompression import TooLarge, Unreadable, decompressed
from streams.wire.records import NO_TIME, Taken

_FRAME = struct.Struct(">qi")  # offset, and the bytes behind it
_HEAD = struct.Struct(">IbB")  # checksum, format, attributes
_TIME, _SIZE = struct.Struct(">q"), struct.Struct(">i")
_CRC_BYTES = 4
_CODEC, _APPEND_TIME = 0x07, 0x08
SET_MESSAGES_MAX = 100_000
"""In one compressed set: each becomes an object."""


def next_offset(frame: memoryview) -> int:
    """Return the offset behind a message, or a compressed set of them."""
    offset: int = _FRAME.unpack_from(frame)[0]
    return offset + 1


def messages_in(frame: memoryview) -> list[Taken]:
    """Return the messages of one frame of the log.

    Raises `CorruptRecordException` where it has another checksum than it says, else `TooLarge` and `Unreadable`.
    """
    message, codec, has_append_time = _message(frame)
    if not codec:
        return [message]
    if message.value is None:
        raise Unreadable("a compressed message without a value")
    try:
        inner = _inner(decompressed(memoryview(message.value), codec))
    except CorruptRecordException as error:
        raise Unreadable(*error.args) from None  # within what has its checksum
    # Format 1 counts from 0, and format 0 has the offsets themselves: either way the last one is the message's own.
    shift = message.offset - inner[-1].offset
    inner = [found._replace(offset=found.offset + shift) for found in inner]
    return [found._replace(timestamp=message.timestamp) for found in inner] if has_append_time else inner


def _inner(data: memoryview) -> list[Taken]:
    """Return what a compressed message holds, at least one."""
    inner: list[Taken] = []
    at = 0
    while at < len(data) or not inner:
        if len(inner) == SET_MESSAGES_MAX:
            raise TooLarge(f"more than {SET_MESSAGES_MAX} messages in one")
        end = at + _FRAME.size + (_FRAME.unpack_from(data, at)[1] if len(data) - at >= _FRAME.size else 0)
        if not at + _FRAME.size < end <= len(data):
            raise Unreadable("a message that does not lie within its set")
        found, codec, _ = _message(data[at:end])
        if codec or (inner and found.offset <= inner[-1].offset):
            raise Unreadable("compressed messages in one, or out of order")
        inner.append(found)
        at = end
    return inner


def _message(frame: memoryview) -> tuple[Taken, int, bool]:
    """Return a message, the codec of its value, and whether its time is the broker's."""
    offset, body = _FRAME.unpack_from(frame)[0], frame[_FRAME.size :]
    if len(body) < _HEAD.size:
        raise CorruptRecordException(f"a message of {len(body)} bytes is shorter than its header")
    crc, version, attributes = _HEAD.unpack_from(body)
    if version not in (0, 1) or zlib.crc32(body[_CRC_BYTES:]) != crc:
        raise CorruptRecordException("it has another checksum than it says")
    at, timestamp = _HEAD.size, NO_TIME
    try:
        if version == 1:
            (timestamp,), at = _TIME.unpack_from(body, at), at + _TIME.size
        key, at = _piece(body, at)
        value, at = _piece(body, at)
    except struct.error:
        raise Unreadable("a message that is shorter than its fields") from None
    return Taken(offset, timestamp, key, value, []), attributes & _CODEC, bool(attributes & _APPEND_TIME)


def _piece(body: memoryview, at: int) -> tuple[bytes | None, int]:
    (size,), at = _SIZE.unpack_from(body, at), at + _SIZE.size
    if size == -1:
        return None, at
    if not 0 <= size <= len(body) - at:
        raise Unreadable("a key or a value that does not lie within its message")
    return bytes(body[at : at + size]), at + size
