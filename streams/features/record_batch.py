"""The rows of one flush as an Arrow IPC stream, the value of a record on topic `features`."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.contract import CLASSES, FEATURES
from streams.features.kernel import Rows
from streams.features.stream_ids import StreamIds

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
ROWS_MAX = 3_000
"""Rows of one record. A row has 137 bytes and its id, of 200 at the most; what stands before them has 4 KB. That makes
1,014,968 bytes, below the 1,048,588 that a broker takes by default."""

CLASS_NAMES = pa.array(CLASSES)


def encode(
    slot: NDArray[np.int64],
    streams: StreamIds,
    ts: NDArray[np.int64],
    rows: Rows,
    offset: NDArray[np.int64],
    element: NDArray[np.int64],
) -> list[bytearray]:
    """Return the records of m rows, at most `ROWS_MAX` rows each; all arguments but the table of ids of length m."""
    columns = ts, rows.label, rows.rule_risk, rows.confidence, offset, element
    values = []
    for start in range(0, slot.size, ROWS_MAX):
        part = slice(start, start + ROWS_MAX)
        values.append(_record(*streams.utf8(slot[part]), rows.features[part], [column[part] for column in columns]))
    return values


def _record(
    bounds: NDArray[np.int32],
    text: NDArray[np.uint8],
    features: NDArray[np.float32],
    others: Sequence[NDArray[np.generic]],
) -> bytearray:
    """Return what pyarrow's own writer would; that takes 200 µs for the 31 columns of 24 rows.

    Only some integers of what stands before the columns depend on the rows: they are set in a copy of it.
    """
    m = bounds.size - 1
    frame, shift = _frame(m), _padded(text.size)
    value = bytearray(frame.head.nbytes + frame.body_bytes + shift + len(_END))
    head = np.frombuffer(value, np.int64, frame.head.size)
    head[:] = frame.head
    head[frame.text_bytes_at] = text.size
    head[frame.body_bytes_at] += shift
    head[frame.places_after_text] += shift
    np.frombuffer(value, np.int32, m + 1, frame.bounds_place)[:] = bounds
    np.frombuffer(value, np.uint8, text.size, frame.text_place)[:] = text
    for place, dtype, column in zip(frame.places, _DTYPES, others, strict=True):
        np.frombuffer(value, dtype, m, place + shift)[:] = column
    pitch = _padded(4 * m) // 4
    by_column = np.frombuffer(value, np.float32, len(FEATURES) * pitch, frame.features_place + shift)
    by_column.reshape(len(FEATURES), pitch)[:, :m] = features.T
    value[-len(_END) :] = _END
    return value  # not copied into bytes: that alone took 0.15 µs a row, in memory fetched from the system each time


# Arrow's buffers by their number: of each column which values are there (all: no bytes), then the values. Between the
# two, a column of strings has where each begins.
_WIDTHS = np.array([0, 4, 0, 0, 8, *[0, 4] * len(FEATURES), 0, 1, 0, 8, 0, 8, 0, 8, 0, 4])  # bytes a row
_BOUNDS, _TEXT, _TS, _FEATURES = 1, 2, 4, 6
_LABEL = _FEATURES + 2 * len(FEATURES)
_OTHERS = (_TS, _LABEL, _LABEL + 2, _LABEL + 4, _LABEL + 6, _LABEL + 8)
_DTYPES = (np.int64, np.int8, np.float64, np.float64, np.int64, np.int32)
_END = b"\xff\xff\xff\xff\0\0\0\0"


def _layout(m: int, text_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the place in the body and the size of each buffer of m rows, and the size of the body."""
    sizes = _WIDTHS * m
    sizes[_BOUNDS], sizes[_TEXT] = 4 * (m + 1), text_bytes
    ends = np.cumsum((sizes + 7) & ~7)
    return ends - ((sizes + 7) & ~7), sizes, int(ends[-1])


def _padded(size: int) -> int:
    return (size + 7) & ~7


class _Frame(NamedTuple):
    """What stands around m rows, as if their ids had no byte: the text moves what comes behind it."""

    head: NDArray[np.int64]  # schema, names of the labels, and the description of the body
    body_bytes: int
    body_bytes_at: int
    text_bytes_at: int
    places_after_text: slice
    bounds_place: int  # in the record
    text_place: int
    features_place: int  # of the first one
    places: tuple[int, ...]  # of the other columns


@functools.lru_cache(256)
def _frame(m: int) -> _Frame:
    head, rows, body_bytes_at, first = _template()
    places, sizes, body_bytes = _layout(m, 0)
    head = head.copy()
    head[rows], head[body_bytes_at] = m, body_bytes
    end = first + 2 * places.size
    head[first:end] = np.stack((places, sizes), axis=1).ravel()
    at = (places + head.nbytes).tolist()
    return _Frame(
        head, body_bytes, body_bytes_at, first + 2 * _TEXT + 1, slice(first + 2 * (_TEXT + 1), end, 2),
        at[_BOUNDS], at[_TEXT], at[_FEATURES], tuple(at[buffer] for buffer in _OTHERS),
    )  # fmt: skip


@functools.cache
def _template() -> tuple[NDArray[np.int64], NDArray[np.intp], int, int]:
    """Let pyarrow write some rows, and return the head and where in it the numbers are that only these rows explain.

    These are the number of rows (in many places), the size of the body, and the first of the buffers' places and sizes.
    """
    m, stream_id = 1_013, "leaf-012/17"
    stream = np.frombuffer(_by_pyarrow(m, stream_id), np.int64)
    places, sizes, body_bytes = _layout(m, m * len(stream_id))
    head = stream[: stream.size - body_bytes // 8 - 1].copy()
    described = np.stack((places, sizes), axis=1).ravel()
    first = head.tobytes().find(described.tobytes()) // 8
    assert first >= 0, f"pyarrow {pa.__version__} lays out its buffers in a way this module doesn't know"
    head[first : first + described.size] = 0
    (body_bytes_at,), rows = np.flatnonzero(head == body_bytes), np.flatnonzero(head == m)
    assert rows.size == 1 + len(SCHEMA), f"pyarrow {pa.__version__} says the number of rows {rows.size} times"
    return head, rows, int(body_bytes_at), first


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


def decode(value: bytes | bytearray) -> pa.Table:
    """Return the rows of one record of `features`."""
    with pa.ipc.open_stream(value) as reader:
        return reader.read_all()
