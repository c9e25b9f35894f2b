"""The rows of one flush as an Arrow IPC stream, the value of a record on topic `features`."""

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.contract import CLASSES, FEATURES
from streams.features import Rows

_Size = TypeVar("_Size", int, NDArray[np.int64])

SCHEMA = pa.schema(
    [
        pa.field("stream_id", pa.string(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),  # event time, ms
        *(pa.field(name, pa.float32(), nullable=False) for name in FEATURES),  # NaN is missing
        pa.field("label", pa.dictionary(pa.int8(), pa.string()), nullable=False),  # the rule label
        pa.field("rule_risk", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),  # of the rule label
        pa.field("offset", pa.int64(), nullable=False),  # of the source record
        pa.field("element", pa.int32(), nullable=False),  # of the event in its record
    ],
    metadata={"v": "1"},
)
ROWS_MAX = 4_096
"""Rows of one record: 600 KB at the most, below the 1 MiB that a broker takes by default."""

CLASS_NAMES = pa.array(CLASSES)


def encode(
    stream_id: Sequence[str],
    ts: NDArray[np.int64],
    rows: Rows,
    offset: NDArray[np.int64],
    element: NDArray[np.intp],
) -> list[bytes]:
    """Return the records of m rows, all arguments of length m; at most `ROWS_MAX` rows each."""
    ids = pa.array(stream_id, pa.string())
    columns = ts, rows.label, rows.rule_risk, rows.confidence, offset, element
    values = []
    for start in range(0, len(ids), ROWS_MAX):
        part = slice(start, start + ROWS_MAX)
        values.append(_record(ids[part], rows.features[part], [column[part] for column in columns]))
    return values


def _record(ids: pa.Array, features: NDArray[np.float32], others: Sequence[NDArray[np.generic]]) -> bytes:
    """Return what pyarrow's writer would: it takes 100 µs for the 31 columns of a single row.

    Only some integers of what comes before the columns depend on the rows: they are set in a copy of it.
    """
    m, frame = len(ids), _frame()
    bounds, text = _text_of(ids)
    places, sizes = _layout(m, len(text))
    body_bytes = int(places[-1]) + _padded(int(sizes[-1]))
    out = np.zeros(frame.head.size + body_bytes // 8 + 1, np.int64)  # one more for the mark of the end
    head, body = out[: frame.head.size], out[frame.head.size :].view(np.uint8)
    head[:] = frame.head
    head[frame.rows], head[frame.body_bytes] = m, body_bytes
    head[frame.buffers] = np.stack((places, sizes), axis=1).ravel()
    for (buffer, dtype), column in zip(_COLUMNS, (bounds, text, *others), strict=True):
        body[places[buffer] : places[buffer] + sizes[buffer]].view(dtype)[:] = column
    by_column = body[places[_FEATURES] : places[_AFTER_FEATURES]].view(np.float32)
    by_column.reshape(len(FEATURES), -1)[:, :m] = features.T
    out[-1] = _END
    return out.tobytes()


def _text_of(ids: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return where each id begins and the last one ends, shape (m + 1,), and the ids one after another."""
    _, bounds, text = ids.buffers()
    bounds = np.frombuffer(bounds, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    return bounds - bounds[0], np.frombuffer(text, np.uint8)[bounds[0] : bounds[-1]]


# Arrow's buffers by their number: two a column, which values are there (all: no bytes) and then the values. Between
# them, a string column has where each string begins.
_WIDTHS = np.array([0, 4, 0, 0, 8, *[0, 4] * len(FEATURES), 0, 1, 0, 8, 0, 8, 0, 8, 0, 4])  # bytes a row
_FEATURES = 6
_AFTER_FEATURES = _FEATURES + 2 * len(FEATURES)
_COLUMNS = (
    (1, np.int32), (2, np.uint8), (4, np.int64), (_AFTER_FEATURES, np.int8), (_AFTER_FEATURES + 2, np.float64),
    (_AFTER_FEATURES + 4, np.float64), (_AFTER_FEATURES + 6, np.int64), (_AFTER_FEATURES + 8, np.int32),
)  # fmt: skip
_END = 0xFFFFFFFF  # a continuation mark, and 0 for the length of what follows


def _layout(m: int, text_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the place in the body, and the size, of each buffer of m rows."""
    sizes = _WIDTHS * m
    sizes[1], sizes[2] = 4 * (m + 1), text_bytes
    padded = _padded(sizes)
    return np.cumsum(padded) - padded, sizes


def _padded(size: _Size) -> _Size:
    return (size + 7) & ~7


class _Frame(NamedTuple):
    """What stands before the body of a record, as int64, and where in it is what depends on the rows."""

    head: NDArray[np.int64]  # schema, names of the labels, and the description of the body
    rows: NDArray[np.intp]  # number of rows, here and of each column
    body_bytes: int
    buffers: slice  # of each buffer: its place and size


@functools.cache
def _frame() -> _Frame:
    """Let pyarrow write some rows, and look where the numbers are that only these rows explain."""
    m, stream_id = 1_013, "leaf-012/17"
    stream = np.frombuffer(_by_pyarrow(m, stream_id), np.int64)
    places, sizes = _layout(m, m * len(stream_id))
    body_bytes = int(places[-1]) + _padded(int(sizes[-1]))
    head = stream[: stream.size - body_bytes // 8 - 1].copy()
    described = np.stack((places, sizes), axis=1).ravel()
    first = head.tobytes().find(described.tobytes()) // 8
    assert first >= 0, f"pyarrow {pa.__version__} lays out its buffers in a way this module doesn't know"
    buffers = slice(first, first + described.size)
    head[buffers] = 0
    (body_at,), rows = np.flatnonzero(head == body_bytes), np.flatnonzero(head == m)
    assert rows.size == 1 + len(SCHEMA), f"pyarrow {pa.__version__} says the number of rows {rows.size} times"
    return _Frame(head, rows, int(body_at), buffers)


def _by_pyarrow(m: int, stream_id: str) -> bytes:
    zeros = np.zeros(m)
    columns = [pa.array(zeros).cast(field.type) for field in SCHEMA if field.name not in ("stream_id", "label")]
    columns.insert(SCHEMA.get_field_index("stream_id"), pa.array([stream_id] * m))
    labels = pa.DictionaryArray.from_arrays(pa.array(zeros.astype(np.int8)), CLASS_NAMES)
    columns.insert(SCHEMA.get_field_index("label"), labels)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    value: bytes = sink.getvalue().to_pybytes()
    return value


def decode(value: bytes) -> pa.Table:
    """Return the rows of one record of `features`."""
    with pa.ipc.open_stream(value) as reader:
        return reader.read_all()
