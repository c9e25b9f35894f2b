"""The rows of Arrow sweeps: the columns of `contract.MetricEvent`, one row an event, and what is wrong with them.

`stream_id` is utf8 or a dictionary of it, `ts` int64, metrics are float64 or float32; null is missing, other columns
are ignored. The value of a record is untrusted: `arrow_messages` bounds what reading it costs before Arrow sees it, and
the columns that Arrow read are validated in full before they are used.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streams.contract import EVENT_TIME_MS_MAX, EVENT_TIME_MS_MIN, METRICS, STREAM_ID_BYTES_MAX, VERSION, MetricEvent
from streams.wire.arrow_messages import first_look, schema_of
from streams.wire.arrow_sweep import SCHEMA
from streams.wire.events import METRIC_MAX, Refusal, is_stream_id, parse

_SCHEMA = SCHEMA.append(pa.field("v", pa.int64()))


def read(value: bytes) -> pa.Table | Refusal:
    """Return the rows of a sweep for `rows_of`, 1 to `arrow_messages.ROWS_MAX`, or why none of them can be read."""
    if refusal := first_look(value):
        return refusal
    try:
        columns = _columns(schema_of(value))
        if isinstance(columns, tuple):
            return columns
        with pa.ipc.open_stream(value) as reader:
            batches = list(reader)
        if columns is not SCHEMA:
            batches = [batch.select(columns.names) for batch in batches]
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        return "not_arrow", str(error)[:200]
    n = sum(batch.num_rows for batch in batches)
    if n == 0:
        return "empty_sweep", "a stream without a row"
    table = pa.Table.from_batches(batches)
    if columns is SCHEMA:
        return table
    ids = table["stream_id"]
    # A dictionary has one long id for many rows, and each of them, and its dead letter, would have it of its own.
    is_coded = pa.types.is_dictionary(ids.type)
    if is_coded and sum(map(_text_size, ids.chunks)) > max(len(value), STREAM_ID_BYTES_MAX * n):
        return "out_of_range", f"ids of more than {STREAM_ID_BYTES_MAX} bytes"
    return table.cast(columns)


@lru_cache(maxsize=64)
def _columns(schema_message: bytes) -> pa.Schema | Refusal:
    """Return the columns of an event that a schema has, in its order, as `_SCHEMA` types them, or what is wrong."""
    schema = pa.ipc.read_schema(pa.py_buffer(schema_message))
    if schema.equals(SCHEMA):
        return SCHEMA
    fields = []
    for field in _SCHEMA:
        found = schema.get_all_field_indices(field.name)
        if len(found) > 1:
            return "wrong_type", f"{len(found)} columns {field.name}"
        if found:
            of = schema.field(found[0]).type
            if not _is_fitting(field, of):
                return "wrong_type", f"column {field.name} is {of}"[:200]
            fields.append(field)
        elif field.name in ("stream_id", "ts"):
            return "wrong_type", f"no column {field.name}"
    return pa.schema(sorted(fields, key=lambda field: schema.get_field_index(field.name)))


def _is_fitting(field: pa.Field, of: pa.DataType) -> bool:
    if field.name == "stream_id" and pa.types.is_dictionary(of):
        return bool(of.value_type == field.type)
    return bool(of == field.type or (pa.types.is_floating(field.type) and pa.types.is_float32(of)))


def _text_size(ids: pa.DictionaryArray) -> int:
    """Return how many bytes some ids take without their dictionary."""
    size: int = pc.sum(pc.binary_length(ids.dictionary).take(ids.indices)).as_py() or 0
    return size


class Rows(NamedTuple):
    """The n rows of some sweeps; what is null has any value at all, and a NaN metric may be one that is there."""

    id_bytes: NDArray[np.uint8]
    id_start: NDArray[np.int64]  # (n,) in `id_bytes`
    id_end: NDArray[np.int64]
    ts: NDArray[np.int64]  # (n,) ms
    version: NDArray[np.int64]  # (n,)
    metrics: NDArray[np.float64]  # (n, metrics), NaN where null
    has_id: NDArray[np.bool_]  # (n,)
    has_ts: NDArray[np.bool_]
    has_metric: NDArray[np.bool_]  # (n, metrics)

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
        is_good &= (self.ts >= EVENT_TIME_MS_MIN) & (self.ts <= EVENT_TIME_MS_MAX)
        is_good &= (in_range | ~self.has_metric).all(axis=1) & self.has_metric.any(axis=1)
        if ((self.id_bytes < ord(" ")) | (self.id_bytes > ord("~"))).any():
            at, text = np.flatnonzero(is_good), self.id_bytes.tobytes()
            spans = zip(self.id_start[at].tolist(), self.id_end[at].tolist(), strict=True)
            is_good[at] = [is_stream_id(text[start:end].decode()) for start, end in spans]
        return is_good


def rows_of(sweeps: Sequence[pa.Table]) -> Rows:
    """Return the rows of one or more sweeps that `read` has returned, one after another."""
    # The empty one has the columns that others lack, which become null in them.
    table = pa.concat_tables([_SCHEMA.empty_table(), *sweeps], promote_options="default")
    (batch,) = table.combine_chunks().to_batches()
    ids, metrics = batch.column(0), batch.select(METRICS)
    _, offsets, text = ids.buffers()
    edges = np.frombuffer(offsets, np.int32, batch.num_rows + 1, 4 * ids.offset).astype(np.int64)
    return Rows(
        np.frombuffer(text or b"", np.uint8),
        edges[:-1],
        edges[1:],
        _numbers(batch["ts"].fill_null(0)).copy(),  # Arrow's is read-only, another type to compiled code
        _numbers(batch["v"].fill_null(VERSION)),
        metrics.to_tensor(null_to_nan=True).to_numpy(),
        _is_there(ids),
        _is_there(batch["ts"]),
        np.stack([_is_there(column) for column in metrics.columns], axis=1),
    )


def _numbers(column: pa.Array) -> NDArray[Any]:
    numbers: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return numbers


def _is_there(column: pa.Array) -> NDArray[np.bool_]:
    """Return which rows are not null."""
    return _numbers(column.is_valid())
