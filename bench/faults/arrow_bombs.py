"""Arrow streams that Arrow itself takes and pays dearly for: built from flatbuffers by hand, as no library writes them.

The tables are those of Arrow's format/Message.fbs and Schema.fbs, their fields by place.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from streams.contract import METRICS

_CONTINUATION, _END = b"\xff" * 4, b"\xff" * 4 + bytes(4)
_SCHEMA, _RECORD_BATCH = 1, 3
_INT, _FLOAT, _UTF8, _STRUCT, _FIXED_SIZE_LIST, _UTF8_VIEW = 2, 3, 5, 13, 16, 24
V4, V5 = 3, 4

i1, i2, i4, i8 = (partial(struct.pack, f"<{code}") for code in "bhiq")


@dataclass(eq=False)
class Table:
    """A flatbuffer's table: by place, packed numbers and what is referred to. One that is named twice is shared."""

    fields: "dict[int, bytes | Part]"


@dataclass(eq=False)
class Tables:
    """A vector of tables."""

    items: Sequence[Table]


@dataclass(eq=False)
class Raw:
    """A text, or a vector of structs, whose `count` is not its size in bytes."""

    data: bytes
    count: int | None = None


Part = Table | Tables | Raw


def flatbuffer(root: Table) -> bytes:
    """Return a flatbuffer. Offsets lead forth only, so who shares a part is as deep as the others who do."""
    out = bytearray(8)
    places: dict[Part, int] = {}
    references: list[tuple[int, Part]] = [(0, root)]
    for _, part in references:  # which grows meanwhile
        if part in places:
            continue
        if isinstance(part, Table):
            slots = sorted(part.fields)
            offsets = [8 + 8 * slots.index(i) if i in slots else 0 for i in range(max(slots, default=-1) + 1)]
            vtable = struct.pack(f"<HH{len(offsets)}H", 4 + 2 * len(offsets), 8 + 8 * len(slots), *offsets)
            vtable += bytes(-len(vtable) % 8)
            places[part] = len(out) + len(vtable)
            out += vtable + i4(len(vtable)) + bytes(4)
            for slot in slots:
                value = part.fields[slot]
                references += [] if isinstance(value, bytes) else [(len(out), value)]
                out += value.ljust(8, b"\0") if isinstance(value, bytes) else bytes(8)
        elif isinstance(part, Tables):
            places[part] = len(out)
            references += [(len(out) + 4 + 4 * i, item) for i, item in enumerate(part.items)]
            out += i4(len(part.items)) + bytes(4 * len(part.items))
        else:
            out += bytes(4)  # what is counted begins at a multiple of 8
            places[part] = len(out)
            out += i4(len(part.data) if part.count is None else part.count) + part.data + b"\0"
        out += bytes(-len(out) % 8)
    for at, part in references:
        struct.pack_into("<I", out, at, places[part] - at)
    return bytes(out)


def message(kind: int, header: Table, body: bytes = b"", *, version: int = V5, metadata: Tables | None = None) -> bytes:
    """Return one message of a stream."""
    fields: dict[int, bytes | Part] = {0: i2(version), 1: i1(kind), 2: header, 3: i8(len(body))}
    packed = flatbuffer(Table(fields | ({4: metadata} if metadata else {})))
    return _CONTINUATION + i4(len(packed)) + packed + body


def field(
    name: str | Raw, kind: int, of: Table, *, children: Tables | None = None, metadata: Tables | None = None
) -> Table:
    """Return a column, or what is nested in one."""
    fields = {0: Raw(name.encode()) if isinstance(name, str) else name, 1: i1(1), 2: i1(kind), 3: of}
    return Table(fields | ({5: children} if children else {}) | ({6: metadata} if metadata else {}))


def _int64() -> Table:
    return Table({0: i4(64), 1: i1(1)})


def schema(fields: Sequence[Table], metadata: Tables | None = None) -> Table:
    """Return what a stream begins with."""
    return Table({1: Tables(fields)} | ({2: metadata} if metadata else {}))


def entry(key: bytes, value: bytes) -> Table:
    """Return one entry of metadata."""
    return Table({0: Raw(key), 1: Raw(value)})


def event_fields() -> list[Table]:
    """Return the columns that an event can't be without."""
    return [
        field("stream_id", _UTF8, Table({})),
        field("ts", _INT, _int64()),
        field(METRICS[0], _FLOAT, Table({0: i2(2)})),
    ]


def event_buffers(stream_id: bytes = b"a/1") -> list[bytes]:
    """Return what is in the columns of `event_fields` for one event."""
    return [b"", struct.pack("<ii", 0, len(stream_id)), stream_id, b"", i8(0), b"", struct.pack("<d", 1.0)]


def batch(
    buffers: Sequence[bytes], columns: int = 3, *, version: int = V5, metadata: Tables | None = None, views: int = 0
) -> bytes:
    """Return the message of one row; it says that a column of views has so many buffers."""
    places, body = b"", b""
    for buffer in buffers:
        places += struct.pack("<qq", len(body), len(buffer))
        body += buffer + bytes(-len(buffer) % 8)
    nodes = Raw(struct.pack("<qq", 1, 0) * columns, columns)
    fields: dict[int, bytes | Part] = {0: i8(1), 1: nodes, 2: Raw(places, len(buffers))}
    header = Table(fields | ({4: Raw(i8(views), 1)} if views else {}))
    return message(_RECORD_BATCH, header, body, version=version, metadata=metadata)


def sweep(*more: Table, metadata: Tables | None = None, body: bytes | None = None) -> bytes:
    """Return a stream with the columns of an event and `more`."""
    return message(_SCHEMA, schema([*event_fields(), *more], metadata)) + (body or b"") + _END


def compressed_v4(size: int) -> bytes:
    """Return a sweep whose id is `size` zeros, compressed the way of metadata V4."""
    packed = [
        i8(len(buffer)) + pa.compress(buffer, "zstd", asbytes=True) if buffer else b""
        for buffer in event_buffers(bytes(size))
    ]
    metadata = Tables([entry(b"ARROW:experimental_compression", b"zstd")])
    return message(_SCHEMA, schema(event_fields()), version=V4) + batch(packed, version=V4, metadata=metadata) + _END


def shared_columns(*widths: int) -> bytes:
    """Return a schema of as many columns, nested in one, as the product of `widths`, and no event."""
    below = field("x", _INT, _int64())
    for width in widths:
        below = field("x", _STRUCT, Table({}), children=Tables([below] * width))
    # Arrow gives up where it has seen eight tables a byte.
    return sweep(below, metadata=Tables([entry(b"padding", bytes(60_000))]))


def shared_text(count: int = 10_000, size: int = 10_000) -> Tables:
    """Return metadata of so many entries, which are one of twice `size` bytes."""
    text = Raw(b"x" * size)
    return Tables([Table({0: text, 1: text})] * count)


def bombs() -> dict[str, bytes]:
    """Return streams of 1 to 200 KB: Arrow takes tenths of a second, hundreds of megabytes, or the process for each.

    The last two end it in pyarrow 22, which linkcast may run with.
    """
    extension = [(b"ARROW:extension:name", b"arrow.fixed_shape_tensor"), (b"ARROW:extension:metadata", b"[" * 200_000)]
    tensor = field(
        "x", _FIXED_SIZE_LIST, Table({0: i4(1)}), children=Tables([field("x", _INT, _int64())]),
        metadata=Tables([entry(*pair) for pair in extension]),
    )  # fmt: skip
    views = batch([*event_buffers(), b"", bytes(16)], 4, views=(1 << 31) - 1)
    return {
        "compressed, metadata V4": compressed_v4(1 << 29),
        "shared columns": shared_columns(60, 60, 60),
        "shared name": sweep(*[field(Raw(b"x" * 20_000), _INT, _int64())] * 10_000),
        "shared metadata of a column": sweep(field("x", _INT, _int64(), metadata=shared_text())),
        "shared metadata of the schema": sweep(metadata=shared_text()),
        "shared metadata of a batch": sweep(body=batch(event_buffers(), metadata=shared_text())),
        "JSON of an extension": sweep(tensor),
        "buffers of a view": sweep(field("x", _UTF8_VIEW, Table({})), body=views),
    }
