"""Parquet: a column a field, in batches and without an object per event."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, METRICS, VERSION, MetricEvent
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
        schema = parquet.read_schema(path)
        check_columns(path, schema.names)
        with parquet.ParquetFile(path, read_dictionary=["stream_id"]) as file:
            present = [name for name in file.schema_arrow.names if name in FIELDS]
            for batch in file.iter_batches(batch_size=ROWS, columns=present):
                yield _chunk(path, first, batch, codes)
                first += len(batch)
    except pa.ArrowException as error:
        raise RecordingUnreadable(f"{path}: {str(error).splitlines()[0]}") from error


def _chunk(path: str, first: int, batch: "pa.RecordBatch", codes: Codes) -> Chunk:
    names, index = _dictionary(batch["stream_id"])
    ts = _event_time(batch["ts"])
    metrics, is_good = _metrics(batch)
    is_good &= _is_good_id(names, index) & (ts >= EVENT_TIME_MS_MIN) & (ts <= EVENT_TIME_MS_MAX)
    if "v" in batch.schema.names:
        is_good &= _numbers(batch["v"], null=VERSION) == VERSION
    if is_good.all():
        return Chunk(codes.names, _streams(names, index, codes), ts, metrics)
    bad = [_bad_row(path, first, int(row), batch, metrics[row], ts) for row in np.flatnonzero(~is_good)]
    return Chunk(codes.names, _streams(names, index[is_good], codes), ts[is_good], metrics[is_good], {}, bad)


def _dictionary(column: "pa.Array") -> tuple["pa.Array", NDArray[np.int32]]:
    """Return the distinct ids, some of which no row may have, and each row's index among them, -1 where null."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    index: NDArray[np.int32] = column.indices.cast(pa.int32()).fill_null(-1).to_numpy()
    return column.dictionary.cast(pa.string()), index


def _is_good_id(names: "pa.Array", index: NDArray[np.int32]) -> NDArray[np.bool_]:
    used = _by_first_appearance(names, index[index >= 0])
    is_good = np.zeros(len(names) + 1, np.bool_)  # the last is for null
    is_good[used] = [name is not None and is_stream_id(name) for name in names.take(used).to_pylist()]
    return is_good[index]


def _streams(names: "pa.Array", index: NDArray[np.int32], codes: Codes) -> NDArray[np.int32]:
    used = _by_first_appearance(names, index)
    code = np.zeros(len(names), np.int32)
    code[used] = codes.of(names.take(used).to_pylist())
    return code[index]


def _by_first_appearance(names: "pa.Array", index: NDArray[np.int32]) -> NDArray[np.intp]:
    first = np.full(len(names), -1)
    first[index[::-1]] = np.arange(len(index))[::-1]  # of several writes the last one stays: the first row
    used = np.flatnonzero(first >= 0)
    return used[np.argsort(first[used])]


def _metrics(batch: "pa.RecordBatch") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the metrics, shape (n, 6), and which rows have one at least and none out of its bounds."""
    metrics = np.full((len(batch), len(METRICS)), np.nan)
    is_told, is_outside = np.zeros((2, len(batch)), np.bool_)
    # A column at a time: over the rows of six, NumPy takes five times as long.
    for i, name in enumerate(METRICS):
        if name in batch.schema.names:
            values = _numbers(batch[name], null=np.nan)
            metrics[:, i] = values
            is_told |= values == values
            is_outside |= (values < 0) | (values > METRIC_MAX[i])
    return metrics, is_told & ~is_outside


def _numbers(column: "pa.Array", *, null: float) -> NDArray[np.float64]:
    import pyarrow as pa

    values: NDArray[np.float64] = column.cast(pa.float64()).fill_null(null).to_numpy()
    return values


def _event_time(column: "pa.Array") -> NDArray[np.int64]:
    """Return int64 ms, -1 where null."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)  # what is finer than 1 ms is cut off
    ts: NDArray[np.int64] = column.cast(pa.int64()).fill_null(-1).to_numpy()
    return ts


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
