"""The rows of any Arrow sweep: the columns of `contract.MetricEvent`, one row an event, and what is wrong with them.

`stream_id` is utf8 or a dictionary of it, `ts` int64, metrics are float64 or float32; null is missing, other columns
are ignored. The value of a record is untrusted: its messages are walked before Arrow sees them, so that nothing is
decompressed and no more than `ROWS_MAX` rows are read, and what Arrow read is validated in full before it is used.
"""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.arrow_messages import COMPRESSED, FINE, TOO_MANY_ROWS, walk
from streams.arrow_sweep import SCHEMA
from streams.contract import EVENT_TIME_MS_MAX, METRICS, STREAM_ID_BYTES_MAX, VERSION, MetricEvent
from streams.events import Refusal, is_stream_id, parse
from streams.scan import METRIC_MAX

ROWS_MAX = 65_536


class Sweep(NamedTuple):
    """The n rows of a sweep; what is null has any value at all, and a NaN metric may be one that is there."""

    id_bytes: NDArray[np.uint8]
    id_start: NDArray[np.int64]  # (n,) in `id_bytes`
    id_end: NDArray[np.int64]
    ts: NDArray[np.int64]  # (n,) ms
    metrics: NDArray[np.float64]  # (n, 6), NaN where null
    version: NDArray[np.int64]  # (n,) 1 where there is no such column
    has_id: NDArray[np.bool_]  # (n,)
    has_ts: NDArray[np.bool_]
    has_metric: NDArray[np.bool_]  # (n, 6)

    def row_json(self, row: int) -> bytes:
        """Return one row as JSON: the bytes of its dead letter. A NaN stays one, which no JSON parser takes."""
        fields: dict[str, Any] = {"v": int(self.version[row])}
        if self.has_id[row]:
            fields["stream_id"] = self.id_bytes[self.id_start[row] : self.id_end[row]].tobytes().decode()
        if self.has_ts[row]:
            fields["ts"] = int(self.ts[row])
        metrics = zip(METRICS, self.metrics[row].tolist(), self.has_metric[row].tolist(), strict=True)
        fields |= {name: value for name, value, is_there in metrics if is_there}
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

    def refusal(self, row: int) -> Refusal:
        """Say why a row that isn't in `good` is no event, in the words that its JSON would earn."""
        odd = np.flatnonzero(self.has_metric[row] & ~np.isfinite(self.metrics[row]))
        if odd.size:
            return "out_of_range", f"{METRICS[odd[0]]} is {self.metrics[row, odd[0]]}: null says missing"
        refusal = parse(self.row_json(row))
        assert not isinstance(refusal, MetricEvent)
        return refusal

    def good(self) -> NDArray[np.bool_]:
        """Return which rows are events, shape (n,)."""
        size = self.id_end - self.id_start
        # A NaN compares as false: it is out of range wherever it is there.
        in_range = (self.metrics >= 0.0) & (self.metrics <= METRIC_MAX)
        is_good: NDArray[np.bool_] = (
            self.has_id & self.has_ts & (size > 0) & (size <= STREAM_ID_BYTES_MAX) & (self.version == VERSION)
        )
        is_good &= (self.ts >= 0) & (self.ts <= EVENT_TIME_MS_MAX)
        is_good &= (in_range | ~self.has_metric).all(axis=1) & self.has_metric.any(axis=1)
        if ((self.id_bytes < ord(" ")) | (self.id_bytes > ord("~"))).any():
            spans = zip(self.id_start.tolist(), self.id_end.tolist(), strict=True)
            text = self.id_bytes.tobytes()
            is_good &= [
                not good or is_stream_id(text[a:b].decode()) for good, (a, b) in zip(is_good, spans, strict=True)
            ]
        return is_good


def read(value: bytes) -> Sweep | Refusal:
    """Return the rows of a sweep, at most `ROWS_MAX`, or why none of them can be read."""
    data = np.frombuffer(value, np.uint8)
    match walk(data, 0, data.size, ROWS_MAX):
        case code if code == COMPRESSED:
            return "not_arrow", "a compressed body, whose size nobody knows beforehand: send it uncompressed"
        case code if code == TOO_MANY_ROWS:
            return "too_large", f"more than {ROWS_MAX} rows"
        case code if code != FINE:
            return "not_arrow", "marked as Arrow, and no stream of whole Arrow IPC messages"
    try:
        with pa.ipc.open_stream(value) as reader:
            if flaw := _schema_flaw(reader.schema):
                return "wrong_type", flaw
            batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return "not_arrow", str(error)[:200]
    sweep = _joined([_sweep(batch) for batch in batches])
    # A dictionary has one long id for many rows, and their dead letters would have it as often.
    if int((sweep.id_end - sweep.id_start).sum()) > max(len(value), STREAM_ID_BYTES_MAX * sweep.ts.size):
        return "out_of_range", f"ids of more than {STREAM_ID_BYTES_MAX} bytes"
    return sweep


def _schema_flaw(schema: pa.Schema) -> str | None:
    for name in ("stream_id", "ts", "v", *METRICS):
        found = schema.get_all_field_indices(name)
        if len(found) > 1:
            return f"{len(found)} columns {name}"
        if not found:
            if name in ("stream_id", "ts"):
                return f"no column {name}"
            continue
        of = schema.field(name).type
        if not _is_fitting(name, of):
            return f"column {name} is {of}"
    return None


def _is_fitting(name: str, of: pa.DataType) -> bool:
    if name == "stream_id":
        of = of.value_type if pa.types.is_dictionary(of) else of
        return bool(pa.types.is_string(of))
    if name in ("ts", "v"):
        return bool(pa.types.is_int64(of))
    return bool(pa.types.is_float64(of) or pa.types.is_float32(of))


def _sweep(batch: pa.RecordBatch) -> Sweep:
    n = batch.num_rows
    id_bytes, id_start, id_end, has_id = _texts(batch["stream_id"])
    ts, has_ts = _numbers(batch["ts"])
    version = np.full(n, VERSION, np.int64)
    if batch.schema.get_field_index("v") >= 0:
        version, has_version = _numbers(batch["v"])
        version = np.where(has_version, version, VERSION)
    metrics, has_metric = np.full((n, len(METRICS)), np.nan), np.zeros((n, len(METRICS)), np.bool_)
    for i, name in enumerate(METRICS):
        if batch.schema.get_field_index(name) >= 0:
            with np.errstate(invalid="ignore"):  # a float32 may be a signalling NaN
                metrics[:, i], has_metric[:, i] = _numbers(batch[name])
    metrics[~has_metric] = np.nan
    return Sweep(id_bytes, id_start, id_end, ts, metrics, version, has_id, has_ts, has_metric)


def _texts(
    column: pa.Array,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the bytes of a column of text, start and end of each row's in them, and which rows have one."""
    if pa.types.is_dictionary(column.type):
        code, is_there = _numbers(column.indices)
        data, start, end, has_text = _texts(column.dictionary)
        code = np.where(is_there, code, 0).astype(np.int64)
        if not start.size:
            return data, np.zeros(len(code), np.int64), np.zeros(len(code), np.int64), np.zeros(len(code), np.bool_)
        return data, start[code], end[code], is_there & has_text[code]
    _, offsets, data = column.buffers()
    n = len(column)
    if not n:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.bool_)
    edges = np.frombuffer(offsets, np.int32, n + 1, 4 * column.offset).astype(np.int64)
    is_there = column.is_valid().to_numpy(zero_copy_only=False)
    # What a null spans, nobody has checked.
    start, end = np.where(is_there, edges[:-1], 0), np.where(is_there, edges[1:], 0)
    return np.frombuffer(data or b"", np.uint8), start, end, is_there


def _numbers(column: pa.Array) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the numbers of a column and which rows have one; 0 stands where one has none."""
    is_there = column.is_valid().to_numpy(zero_copy_only=False)
    return (column if is_there.all() else column.fill_null(0)).to_numpy(zero_copy_only=False), is_there


def _joined(sweeps: Sequence[Sweep]) -> Sweep:
    """Return the batches of one stream as one."""
    if len(sweeps) == 1:
        return sweeps[0]
    if not sweeps:
        return _sweep(pa.RecordBatch.from_pylist([], SCHEMA))
    sizes = np.array([sweep.id_bytes.size for sweep in sweeps])
    shift = np.repeat(sizes.cumsum() - sizes, [sweep.ts.size for sweep in sweeps])
    joined = Sweep(*(np.concatenate(column) for column in zip(*sweeps, strict=True)))
    return joined._replace(id_start=joined.id_start + shift, id_end=joined.id_end + shift)
