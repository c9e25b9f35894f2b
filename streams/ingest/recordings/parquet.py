"""Parquet: a column a field, in batches and without an object per event."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, METRICS, VERSION, MetricEvent
from streams.ingest.recordings.chunk import FIELDS, BadLine, Chunk, Codes, RecordingUnreadable, check_columns
from streams.wire.events import METRIC_MAX, is_stream_id, parse

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 16
_encode = msgspec.json.Encoder(decimal_format="number").encode


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
    names, index = _dictionary(batch)
    ts = _event_time(batch)
    metrics, is_good = _metrics(batch)
    is_good &= _is_good_id(names, index) & (ts >= EVENT_TIME_MS_MIN) & (ts <= EVENT_TIME_MS_MAX)
    if "v" in batch.schema.names:
        versions, is_read = _numbers(batch, "v", null=VERSION)
        is_good &= is_read & (versions == VERSION)
    if is_good.all():
        return Chunk(codes.names, _streams(names, index, codes), ts, metrics)
    bad = [_bad_row(path, first, int(row), batch, metrics[row], ts) for row in np.flatnonzero(~is_good)]
    return Chunk(codes.names, _streams(names, index[is_good], codes), ts[is_good], metrics[is_good], {}, bad)


def _dictionary(batch: "pa.RecordBatch") -> tuple["pa.Array", NDArray[np.int32]]:
    """Return the distinct ids as bytes, some of which no row may have, and each row's index among them, -1 for null."""
    import pyarrow as pa

    column = batch["stream_id"]
    if not pa.types.is_dictionary(column.type):
        text = column if pa.types.is_binary(column.type) else _cast(batch, "stream_id", pa.string())[0]
        column = text.dictionary_encode()
    index: NDArray[np.int32] = column.indices.cast(pa.int32()).fill_null(-1).to_numpy()
    return column.dictionary.cast(pa.binary()), index


def _is_good_id(names: "pa.Array", index: NDArray[np.int32]) -> NDArray[np.bool_]:
    used = _by_first_appearance(names, index[index >= 0])
    is_good = np.zeros(len(names) + 1, np.bool_)  # the last is for null
    is_good[used] = [_is_id(name) for name in names.take(used).to_pylist()]
    return is_good[index]


def _is_id(name: bytes | None) -> bool:
    try:
        return name is not None and is_stream_id(name.decode())
    except UnicodeDecodeError:
        return False


def _streams(names: "pa.Array", index: NDArray[np.int32], codes: Codes) -> NDArray[np.int32]:
    used = _by_first_appearance(names, index)
    code = np.zeros(len(names), np.int32)
    code[used] = codes.of([name.decode() for name in names.take(used).to_pylist()])
    return code[index]


def _by_first_appearance(names: "pa.Array", index: NDArray[np.int32]) -> NDArray[np.intp]:
    first = np.full(len(names), -1)
    first[index[::-1]] = np.arange(len(index))[::-1]  # of several writes the last one stays: the first row
    used = np.flatnonzero(first >= 0)
    return used[np.argsort(first[used])]


def _metrics(batch: "pa.RecordBatch") -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the metrics, shape (n, 12), and which rows have one at least and none out of its bounds."""
    metrics = np.full((len(batch), len(METRICS)), np.nan)
    is_told, is_outside = np.zeros((2, len(batch)), np.bool_)
    # A column at a time: over the rows, NumPy takes five times as long.
    for i, name in enumerate(METRICS):
        if name in batch.schema.names:
            values, is_read = _numbers(batch, name, null=np.nan)
            metrics[:, i] = values
            is_told |= values == values
            is_outside |= (values < 0) | (values > METRIC_MAX[i]) | ~is_read
    return metrics, is_told & ~is_outside


def _numbers(batch: "pa.RecordBatch", name: str, *, null: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column's numbers, and which of its cells are one or null."""
    import pyarrow as pa

    values, is_read = _cast(batch, name, pa.float64())
    return values.fill_null(null).to_numpy(), is_read


def _event_time(batch: "pa.RecordBatch") -> NDArray[np.int64]:
    """Return int64 ms, -1 where null or no time."""
    import pyarrow as pa

    column = batch["ts"]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)  # what is finer than 1 ms is cut off
        column = column.cast(pa.int64())
    else:
        column, _ = _cast(batch, "ts", pa.int64())
    ts: NDArray[np.int64] = column.fill_null(-1).to_numpy()
    return ts


def _cast(batch: "pa.RecordBatch", name: str, to: "pa.DataType") -> tuple["pa.Array", NDArray[np.bool_]]:
    """Return a column as another type, null where a cell has no such value, and which cells have one or are null."""
    import pyarrow as pa

    try:
        cast = _cast_what_can_be(batch[name], to)
    except pa.ArrowNotImplementedError as error:
        raise pa.ArrowNotImplementedError(f"column {name}: {error}") from error
    is_well = cast.is_valid().to_numpy(zero_copy_only=False) | batch[name].is_null().to_numpy(zero_copy_only=False)
    return cast, is_well


def _cast_what_can_be(column: "pa.Array", to: "pa.DataType") -> "pa.Array":
    import pyarrow as pa

    try:
        return column.cast(to)
    except pa.ArrowInvalid:  # for one cell Arrow refuses all, and doesn't say which: halve
        if len(column) == 1:
            return pa.nulls(1, to)
        half = len(column) // 2
        return pa.concat_arrays([_cast_what_can_be(part, to) for part in (column[:half], column[half:])])


def _bad_row(
    path: str, first: int, row: int, batch: "pa.RecordBatch", metrics: NDArray[np.float64], ts: NDArray[np.int64]
) -> BadLine:
    # Infinity as the largest number: JSON would make it null, and so a missing metric.
    event: dict[str, Any] = dict(zip(METRICS, np.nan_to_num(metrics, nan=np.nan).tolist(), strict=True))
    if batch["ts"][row].is_valid and ts[row] != -1:
        event["ts"] = int(ts[row])
    for name in batch.schema.names:
        if event.get(name, np.nan) != event.get(name, np.nan):  # missing, or why the row is bad
            event[name] = value = _value(batch[name][row])
            if isinstance(value, bytes):
                return BadLine(path, first + row, None, "wrong_type", f"{name} {value[:50]!r} is no UTF-8")
    refusal = parse(_encode({name: x for name, x in event.items() if x is not None and x == x}))
    assert not isinstance(refusal, MetricEvent), f"{event} was refused without a reason"
    return BadLine(path, first + row, None, *refusal)


def _value(cell: "pa.Scalar") -> Any:
    """Return a cell as JSON has it, and text that is no UTF-8 as bytes."""
    import pyarrow as pa

    if pa.types.is_dictionary(cell.type):
        cell = cell.value
    if not pa.types.is_string(cell.type) and not pa.types.is_binary(cell.type):
        return cell.as_py()
    text = cell.cast(pa.binary()).as_py()
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return text
