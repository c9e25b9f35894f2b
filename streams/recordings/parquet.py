"""Parquet: a column a field, in batches and without an object per event."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract import EVENT_TIME_MS_MAX, METRICS, VERSION, MetricEvent
from streams.events import is_stream_id, parse
from streams.recordings.chunk import FIELDS, BadLine, Chunk, Codes, RecordingUnreadable, check_columns

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
METRIC_MAX = np.array([1e12, 100.0, 1.0, 1e12, 1e12, 1e12])  # of `contract.MetricEvent`; the least is 0


def read_parquet(path: str, codes: Codes) -> Iterator[Chunk]:
    """Yield the chunks of one file. Raises `RecordingUnreadable` if it is damaged or lacks the columns of an event."""
    import pyarrow as pa
    from pyarrow import parquet

    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow.names)
            present = [name for name in file.schema_arrow.names if name in FIELDS]
            for batch in file.iter_batches(batch_size=ROWS, columns=present):
                yield _chunk(path, first, batch, codes)
                first += len(batch)
    except pa.ArrowException as error:
        raise RecordingUnreadable(f"{path}: {str(error).splitlines()[0]}") from error


def _chunk(path: str, first: int, batch: "pa.RecordBatch", codes: Codes) -> Chunk:
    import pyarrow as pa

    stream_ids = batch["stream_id"].cast(pa.string())
    ts = _event_time(batch["ts"])
    metrics = np.full((len(batch), len(METRICS)), np.nan)
    for i, name in enumerate(METRICS):
        if name in batch.schema.names:
            metrics[:, i] = batch[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    is_good = _is_good_id(stream_ids) & (ts >= 0) & (ts <= EVENT_TIME_MS_MAX)
    is_good &= ~np.isnan(metrics).all(axis=1) & ~((metrics < 0) | (metrics > METRIC_MAX)).any(axis=1)
    if "v" in batch.schema.names:
        is_good &= batch["v"].cast(pa.float64()).fill_null(VERSION).to_numpy(zero_copy_only=False) == VERSION
    bad = [_bad_row(path, first, int(row), batch, metrics[row], ts) for row in np.flatnonzero(~is_good)]
    ids = stream_ids.filter(pa.array(is_good)).dictionary_encode()
    streams = codes.of(ids.dictionary.to_pylist())[ids.indices.to_numpy()]
    return Chunk(codes.names, streams, ts[is_good], metrics[is_good], {}, bad)


def _event_time(column: "pa.Array") -> NDArray[np.int64]:
    """Return int64 ms, -1 where null."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)  # what is finer than 1 ms is cut off
    ts: NDArray[np.int64] = column.cast(pa.int64()).fill_null(-1).to_numpy()
    return ts


def _is_good_id(stream_ids: "pa.Array") -> NDArray[np.bool_]:
    ids = stream_ids.dictionary_encode()
    is_good = np.array([*map(is_stream_id, ids.dictionary.to_pylist()), False])  # the last is for null
    indices: NDArray[np.int32] = ids.indices.fill_null(-1).to_numpy()
    return is_good[indices]


def _bad_row(
    path: str, first: int, row: int, batch: "pa.RecordBatch", metrics: NDArray[np.float64], ts: NDArray[np.int64]
) -> BadLine:
    # Infinity as the largest number: JSON would make it null, and so a missing metric.
    numbers = zip(METRICS, np.nan_to_num(metrics, nan=np.nan).tolist(), strict=True)
    event = {name: x for name, x in numbers if x == x}
    event |= {name: batch[name][row].as_py() for name in ("v", "stream_id") if name in batch.schema.names}
    if batch["ts"][row].is_valid:
        event["ts"] = int(ts[row])
    refusal = parse(msgspec.json.encode(event))
    assert not isinstance(refusal, MetricEvent), f"{event} was refused without a reason"
    return BadLine(path, first + row, None, *refusal)
