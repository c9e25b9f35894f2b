"""Features and rule labels of recorded events, without a broker: the worker's own kernel over files or columns."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streams.contract import FEATURES, METRICS, LinkcastError, MetricEvent
from streams.features.kernel import LATE, REPEAT, ROW, TOO_LATE, Columns, Rows
from streams.features.labels import RuleTable
from streams.features.record_batch import CLASS_NAMES
from streams.features.stream_table import StreamTable
from streams.ingest import recordings

SCHEMA = pa.schema(
    [
        pa.field("stream_id", pa.string(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),  # event time, ms
        *(pa.field(name, pa.float32(), nullable=False) for name in FEATURES),  # NaN is missing
        pa.field("label", pa.string(), nullable=False),
        pa.field("rule_risk", pa.float64(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("needs_review", pa.bool_(), nullable=False),
    ]
)
"""Columns of a backfilled file."""
_WRITTEN = pa.schema(
    [
        field.with_type(pa.dictionary({"stream_id": pa.int32(), "label": pa.int8()}[field.name], pa.string()))
        if field.type == pa.string()
        else field
        for field in SCHEMA
    ]
)

BAD_KEPT = 1_000
"""How many of the lines that are no events a summary names; it counts them all."""
_STREAMS_MAX = 1 << 31
# Features hardly repeat, and dictionaries and bounds of them only cost: 60 bytes a row in two thirds of the time of
# pyarrow's default (pyarrow 26, 853,000 rows). Strings are handed over as the dictionaries they are, and read back as
# strings, for the file keeps no Arrow types.
_PARQUET = {
    "compression": "lz4",
    "use_dictionary": ["stream_id", "label"],
    "write_statistics": ["stream_id", "ts"],
    "store_schema": False,
}
_TRANSPOSED_ROWS = 1_024  # 96 KiB, in cache while each of the columns is read out of them


class BackfillFailed(LinkcastError):
    """The output can't be written, or there is nothing to write: no line is an event."""


class Backfill(NamedTuple):
    """What the kernel made of n events, with m rows; see `streams.features.kernel.Rows`."""

    disposition: NDArray[np.int8]  # (n,)
    rows: NDArray[np.intp]  # (m,) index of each row's event
    features: NDArray[np.float32]  # (m, 24)
    label: NDArray[np.int8]  # (m,)
    rule_risk: NDArray[np.float64]  # (m,)
    confidence: NDArray[np.float64]  # (m,)
    needs_review: NDArray[np.bool_]  # (m,)


def backfill_columns(
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    metrics: NDArray[np.float64],
    *,
    stream_ids: Sequence[str],
    time_zone: str = "UTC",
) -> Backfill:
    """Run the kernel over events in arrival order: index into `stream_ids`, ms, and metrics of shape (n, 12)."""
    table = StreamTable(time_zone=time_zone, streams_max=max(1, len(stream_ids)))
    disposition, rows = table.advance(Columns(table.slots(stream_ids)[slot], ts, metrics, np.zeros(ts.size, np.int64)))
    return Backfill(disposition, *rows)


def backfill_events(events: Sequence[MetricEvent], *, time_zone: str = "UTC") -> Backfill:
    """Run the kernel over events in arrival order."""
    stream_ids = list(dict.fromkeys(event.stream_id for event in events))
    slot = {stream_id: i for i, stream_id in enumerate(stream_ids)}
    return backfill_columns(
        np.array([slot[event.stream_id] for event in events], np.int64),
        np.array([event.ts for event in events], np.int64),
        np.array([[getattr(event, m) for m in METRICS] for event in events], np.float64).reshape(-1, len(METRICS)),
        stream_ids=stream_ids,
        time_zone=time_zone,
    )


class Summary(NamedTuple):
    """What became of the events of some files, and what was no event."""

    became: dict[str, int]  # rows, late, repeats, too_late, rejected
    bad: list[recordings.BadLine]  # the first `BAD_KEPT` of the rejected


def backfill_files(
    paths: Sequence[str],
    out: Path,
    *,
    time_zone: str = "UTC",
    rules: RuleTable | None = None,
    progress: Callable[[int], None] = lambda events: None,
) -> Summary:
    """Run the kernel over recordings, in the order given, into one Parquet file with the columns of `SCHEMA`.

    `out` is there only once it is whole, and only if a line is an event. `progress` is told the number of events read
    so far. Raises `recordings.RecordingUnreadable` and `BackfillFailed`.
    """
    table = StreamTable(time_zone=time_zone, rules=rules, streams_max=_STREAMS_MAX)
    became = np.zeros(4, np.int64)
    bad: list[recordings.BadLine] = []
    rejected = 0
    with _written_whole(out) as file:
        with pq.ParquetWriter(file, _WRITTEN, **_PARQUET) as writer:
            for chunk in recordings.read(paths):
                slot = table.slots(chunk.names)[chunk.streams]
                disposition, rows = table.advance(Columns(slot, chunk.ts, chunk.metrics, np.zeros_like(chunk.ts)))
                writer.write_batch(_record_batch(chunk, rows))
                became += np.bincount(disposition, minlength=4)
                rejected += len(chunk.bad)
                bad += chunk.bad[: BAD_KEPT - len(bad)]
                progress(int(became.sum()))
        if not became[ROW]:
            first = f" First {bad[0]}" if bad else " Give a recording that has events."
            raise BackfillFailed(f"none of the {rejected} lines is an event, so {out} was not written.{first}")
    names = {"rows": ROW, "late": LATE, "repeats": REPEAT, "too_late": TOO_LATE}
    return Summary({name: int(became[i]) for name, i in names.items()} | {"rejected": rejected}, bad)


@contextmanager
def _written_whole(out: Path) -> Iterator[IO[bytes]]:
    """Give a file that takes the place of `out` if the block ends well, and leaves nothing behind if it doesn't."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if out.exists() and not out.is_file():
            raise BackfillFailed(f"{out} is a folder or a device: name a file with --out.")
        with scratch.open("wb") as file:
            try:
                yield file
                file.flush()
                scratch.replace(out)
            except BaseException:
                scratch.unlink()
                raise
    except OSError as error:
        raise BackfillFailed(f"{out}: {error.strerror or error}: name a place to write to, with room.") from error


def _record_batch(chunk: recordings.Chunk, rows: Rows) -> pa.RecordBatch:
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(chunk.streams[rows.event]), pa.array(chunk.names, pa.string())),
        pa.array(chunk.ts[rows.event]),
        *map(pa.array, _by_column(rows.features)),
        pa.DictionaryArray.from_arrays(pa.array(rows.label), CLASS_NAMES),
        pa.array(rows.rule_risk),
        pa.array(rows.confidence),
        pa.array(rows.needs_review),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_WRITTEN)


def _by_column(features: NDArray[np.float32]) -> NDArray[np.float32]:
    columns = np.empty(features.shape[::-1], np.float32)
    for start in range(0, len(features), _TRANSPOSED_ROWS):
        columns[:, start : start + _TRANSPOSED_ROWS] = features[start : start + _TRANSPOSED_ROWS].T
    return columns
