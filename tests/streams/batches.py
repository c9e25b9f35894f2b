"""Record batches as a broker sends them, made by aiokafka's own builders or laid out byte by byte."""

import struct
from collections.abc import Sequence

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from bench.faults.hostile_bytes import varint
from streams.wire.records import Taken

NOW_MS = 1_767_225_600_000


def batch_of(records: Sequence[Taken], *, codec: int = 0) -> bytes:
    """A batch of format 2, from offset 0 on."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 26)
    for i, record in enumerate(records):
        builder.append(i, record.timestamp, record.key, record.value, list(record.headers))
    return bytes(builder.build())


def laid_out(body: bytes, *, n: int = 1, codec: int = 0, base: int = 0, last_delta: int | None = None) -> bytes:
    """A batch of format 2 with any bytes for its records, and the checksum of these."""
    delta = n - 1 if last_delta is None else last_delta
    rest = struct.pack(">hiqqqhii", codec, delta, NOW_MS, NOW_MS, -1, -1, -1, n) + body
    return struct.pack(">qiibI", base, 9 + len(rest), -1, 2, calc_crc32c(rest)) + rest


def record_of(*fields: bytes, size: int | None = None) -> bytes:
    """A record of format 2 behind its size: these fields, after its attributes, time and offset."""
    content = b"\0\0\0" + b"".join(fields)
    return varint(len(content) if size is None else size) + content


def old_messages(records: Sequence[Taken], *, magic: int, codec: int = 0) -> bytes:
    """Messages of format 0 or 1, from offset 0 on; compressed, they are a set at the offset of the last of them."""
    builder = LegacyRecordBatchBuilder(magic, codec, 1 << 26)
    for i, record in enumerate(records):
        builder.append(i, record.timestamp, record.key, record.value)
    built = bytes(builder.build())
    return (len(records) - 1).to_bytes(8, "big") + built[8:] if codec else built
