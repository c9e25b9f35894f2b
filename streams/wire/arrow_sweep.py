"""A sweep of metric events as an Arrow IPC stream: what a producer needs to write one."""

from collections.abc import Iterable, Sequence

import pyarrow as pa

from streams.contract import METRICS, MetricEvent

CONTENT_TYPE = ("content-type", b"application/vnd.apache.arrow.stream")
"""The header of a record on `metrics` whose value is such a sweep."""

SCHEMA = pa.schema([("stream_id", pa.string()), ("ts", pa.int64()), *((name, pa.float64()) for name in METRICS)])
"""What `encode` writes."""


def encode(sweep: Sequence[MetricEvent]) -> bytes:
    """Return the value of a record with events, which hold no `extra`: this form has no place for it."""
    columns = [
        pa.array([event.stream_id for event in sweep], pa.string()),
        pa.array([event.ts for event in sweep], pa.int64()),
        *(pa.array([getattr(event, name) for event in sweep], pa.float64()) for name in METRICS),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
    value: bytes = sink.getvalue().to_pybytes()
    return value


def is_arrow(headers: Iterable[tuple[str, bytes]]) -> bool:
    """Whether a record's headers say that its value is an Arrow stream."""
    return CONTENT_TYPE in headers
