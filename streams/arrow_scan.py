"""The usual form of an Arrow sweep straight into columns: as `streams.scan` does JSON, and as free to refuse.

Usual is a schema message that this fetch's first sweep has too, of utf8 ids and no column but an event's; one record
batch after it; and rows that are all events. `streams.arrow_rows` takes the rest, and says what is wrong with it.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.arrow_messages import (
    BUFFERS,
    NODES,
    RECORD_BATCH,
    i8_at,
    is_compressed,
    is_whole,
    message_at,
    rows_of,
    structs_at,
)
from streams.compiled import inlined, kernel
from streams.contract import EVENT_TIME_MS_MAX, METRICS, STREAM_ID_BYTES_MAX
from streams.raw_bytes import byte_at, f4_at, f8_at, word_at
from streams.scan import ELEMENT, ID_END, ID_START, METRIC_MAX, RECORD, SEEN, TS

ROW_BYTES_MIN = 17
"""No row is narrower: 8 bytes of event time, 4 of offset, 1 of id and 4 of a metric."""
_SCHEMA_BYTES_MAX = 1 << 16
_ID, _TS = len(METRICS), len(METRICS) + 1


class Plan(NamedTuple):
    """How the sweeps of one schema message are laid out."""

    schema: NDArray[np.uint8]  # the message
    column: NDArray[np.int64]  # (columns,) index into `contract.METRICS`, 6 for the id, 7 for the event time
    is_float32: NDArray[np.bool_]  # (columns,)


def plan_of(value: bytes) -> Plan | None:
    """Return how the sweep in `value` is laid out, None where its schema isn't a usual one."""
    size = int.from_bytes(value[4:8], "little")
    return _plan(value[: 8 + size]) if 0 < size <= min(len(value) - 8, _SCHEMA_BYTES_MAX) else None


@lru_cache(maxsize=64)
def _plan(message: bytes) -> Plan | None:
    try:
        with pa.ipc.open_stream(message) as reader:
            fields = [(field.name, field.type) for field in reader.schema]
    except (pa.ArrowException, OSError, ValueError):
        return None
    kinds = {"stream_id": (pa.string(),), "ts": (pa.int64(),)} | dict.fromkeys(METRICS, (pa.float64(), pa.float32()))
    order = (*METRICS, "stream_id", "ts")
    names = [name for name, _ in fields]
    if len(set(names)) < len(names) or not {"stream_id", "ts"} <= set(names):
        return None
    if any(of not in kinds.get(name, ()) for name, of in fields):
        return None
    return Plan(
        np.frombuffer(message, np.uint8),
        np.array([order.index(name) for name in names], np.int64),
        np.array([of == pa.float32() for _, of in fields], np.bool_),
    )


@kernel
def scan_arrow(
    data: NDArray[np.uint8], ends: NDArray[np.int64], seen: NDArray[np.int64], schema: NDArray[np.uint8],
    column: NDArray[np.int64], is_float32: NDArray[np.bool_], rows_max: int, places: NDArray[np.int64],
    metrics: NDArray[np.float64], is_mine: NDArray[np.uint8],
) -> int:  # fmt: skip
    """Take the usual ones among r sweeps into the columns, as `scan` does; return how many events that gave.

    `data` holds the values one after another, and `ends` (r,) are the places where they end. The columns have room for
    an event every `ROW_BYTES_MIN` bytes.
    """
    n, start = 0, 0
    for r in range(ends.size):
        rows = _sweep(data, start, ends[r], schema, column, is_float32, rows_max, n, places, metrics)
        is_mine[r] = rows > 0
        for row in range(rows):
            places[RECORD, n], places[ELEMENT, n], places[SEEN, n] = r, row, seen[r]
            n += 1
        start = ends[r]
    return n


@inlined
def _sweep(
    data: NDArray[np.uint8], start: int, end: int, schema: NDArray[np.uint8], column: NDArray[np.int64],
    is_float32: NDArray[np.bool_], rows_max: int, n: int, places: NDArray[np.int64], metrics: NDArray[np.float64],
) -> int:  # fmt: skip
    """Read one sweep into the columns from `n` on; return its rows, -1 where it isn't the usual form."""
    if end - start <= schema.size:
        return -1
    for i in range(schema.size):
        if byte_at(data, start + i) != byte_at(schema, i):
            return -1
    kind, batch, body, body_end = message_at(data, start + schema.size, end)
    if kind != RECORD_BATCH or not is_whole(data, body_end, end) or is_compressed(data, batch, body):
        return -1
    rows = rows_of(data, batch, body)
    node = structs_at(data, batch, NODES, column.size, body)
    buffer = structs_at(data, batch, BUFFERS, 2 * column.size + 1, body)
    if not 0 < rows <= min(rows_max, (end - start) // ROW_BYTES_MIN) or node < 0 or buffer < 0:
        return -1
    for row in range(rows):
        for m in range(len(METRICS)):
            metrics[n + row, m] = np.nan
    for c in range(column.size):
        nulls = i8_at(data, node + 16 * c + 8, body)
        if i8_at(data, node + 16 * c, body) != rows or nulls < 0:
            return -1
        valid, valid_size = _buffer(data, buffer, body, body_end)
        at, size = _buffer(data, buffer + 16, body, body_end)
        buffer += 32
        if valid < 0 or at < 0 or (nulls > 0 and valid_size < (rows + 7) // 8):
            return -1
        if column[c] == _ID:
            text, text_size = _buffer(data, buffer, body, body_end)
            buffer += 16
            is_usual = nulls == 0 and text >= 0 and size >= 4 * (rows + 1)
            is_usual = is_usual and _take_ids(data, at, text, text_size, rows, n, places)
        elif column[c] == _TS:
            is_usual = nulls == 0 and size >= 8 * rows and _take_times(data, at, rows, n, places)
        else:
            is_usual = size >= (4 if is_float32[c] else 8) * rows and _take_metric(
                data, at, is_float32[c], valid if nulls else -1, nulls, rows, n, column[c], metrics
            )
        if not is_usual:
            return -1
    return rows if _have_metrics(rows, n, metrics) else -1


@inlined
def _buffer(data: NDArray[np.uint8], at: int, body: int, body_end: int) -> tuple[int, int]:
    """Return start and size of the buffer that the struct at `at`, before the body, describes; -1 for a broken one."""
    offset, size = i8_at(data, at, body), i8_at(data, at + 8, body)
    if offset < 0 or size < 0 or offset > body_end - body or size > body_end - body - offset:
        return -1, 0
    return body + offset, size


@inlined
def _i4_at(data: NDArray[np.uint8], i: int) -> int:
    value = byte_at(data, i) | byte_at(data, i + 1) << 8 | byte_at(data, i + 2) << 16 | byte_at(data, i + 3) << 24
    return value - (1 << 32) if value >= 1 << 31 else value


@inlined
def _take_ids(
    data: NDArray[np.uint8], offsets: int, text: int, text_size: int, rows: int, n: int, places: NDArray[np.int64]
) -> bool:
    end = _i4_at(data, offsets)
    for row in range(rows):
        start, end = end, _i4_at(data, offsets + 4 * row + 4)
        if not 0 <= start < end <= text_size or end - start > STREAM_ID_BYTES_MAX:
            return False
        for i in range(text + start, text + end):
            if byte_at(data, i) < 32 or byte_at(data, i) > 126:
                return False
        places[ID_START, n + row], places[ID_END, n + row] = text + start, text + end
    return True


@inlined
def _take_times(data: NDArray[np.uint8], at: int, rows: int, n: int, places: NDArray[np.int64]) -> bool:
    for row in range(rows):
        ts = int(np.int64(word_at(data, at + 8 * row)))
        if ts < 0 or ts > EVENT_TIME_MS_MAX:
            return False
        places[TS, n + row] = ts
    return True


@inlined
def _take_metric(
    data: NDArray[np.uint8], at: int, is_float32: bool, valid: int, nulls: int, rows: int, n: int, m: int,
    metrics: NDArray[np.float64],
) -> bool:  # fmt: skip
    left = nulls
    for row in range(rows):
        if valid >= 0 and not byte_at(data, valid + row // 8) >> row % 8 & 1:
            left -= 1
            continue
        value = np.float64(f4_at(data, at + 4 * row)) if is_float32 else f8_at(data, at + 8 * row)
        if not 0.0 <= value <= METRIC_MAX[m]:
            return False
        metrics[n + row, m] = value
    return left == 0


@inlined
def _have_metrics(rows: int, n: int, metrics: NDArray[np.float64]) -> bool:
    for row in range(n, n + rows):
        has_metric = False
        for m in range(len(METRICS)):
            has_metric |= not np.isnan(metrics[row, m])
        if not has_metric:
            return False
    return True
