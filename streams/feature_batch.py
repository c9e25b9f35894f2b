"""The rows of one flush as an Arrow IPC stream, the value of a record on topic `features`."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.contract import CLASSES, FEATURES
from streams.features import Rows
from streams.stream_ids import StreamIds

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
    slot: NDArray[np.int64],
    streams: StreamIds,
    ts: NDArray[np.int64],
    rows: Rows,
    offset: NDArray[np.int64],
    element: NDArray[np.int64],
) -> list[bytes]:
    """Return the records of m rows, at most `ROWS_MAX` rows each; all arguments but the table of ids of length m."""
    offsets, id_bytes = streams.utf8(slot)
    columns = [
        pa.StringArray.from_buffers(slot.size, pa.py_buffer(offsets), pa.py_buffer(id_bytes)),
        pa.array(ts),
        *(pa.array(np.ascontiguousarray(rows.features[:, i])) for i in range(len(FEATURES))),
        pa.DictionaryArray.from_arrays(pa.array(rows.label), CLASS_NAMES),
        pa.array(rows.rule_risk),
        pa.array(rows.confidence),
        pa.array(offset),
        pa.array(element.astype(np.int32)),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
    values = []
    for start in range(0, batch.num_rows, ROWS_MAX):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(batch.slice(start, ROWS_MAX))
        values.append(sink.getvalue().to_pybytes())
    return values


def decode(value: bytes) -> pa.Table:
    """Return the rows of one record of `features`."""
    with pa.ipc.open_stream(value) as reader:
        return reader.read_all()
