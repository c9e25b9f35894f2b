"""Metric events from files, as columns: JSON Lines (a line is an event or a sweep), CSV, Parquet.

What can't be an event is reported with its line and reason, by the rules of `streams.decode`, and the rest goes on.
Memory is bounded: a chunk holds what some 8 MiB of text or 65,536 rows of Parquet say, however long the recording.
"""

import csv
import gzip
import io
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract import EVENT_TIME_MS_MAX, METRICS, VERSION, DeadReason, LinkcastError, MetricEvent
from streams.decode import explain, is_stream_id

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_BYTES = 8 << 20
LINE_BYTES_MAX = 12 << 20  # what topic `metrics` takes in one record
ROWS = 1 << 16
FIELDS = frozenset(("v", "stream_id", "ts", *METRICS))
METRIC_MAX = np.array([1e12, 100.0, 1.0, 1e12, 1e12, 1e12])  # of `contract.MetricEvent`; the least is 0

_events = msgspec.json.Decoder(MetricEvent | list[MetricEvent])
_elements = msgspec.json.Decoder(list[msgspec.Raw])


class RecordingUnreadable(LinkcastError):
    """A file that can't be read on: not there, of an unknown kind, damaged, or without the columns of an event."""


class BadLine(NamedTuple):
    """What was no event: its line or row, from 1, and its place from 0 where the line is a sweep."""

    path: str
    line: int
    element: int | None
    reason: DeadReason
    detail: str

    def __str__(self) -> str:
        element = "" if self.element is None else f"[{self.element}]"
        return f"{self.path}:{self.line}{element}: {self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some n events of a recording in the order of the file, and the lines among them that are none.

    Attributes
    ----------
    names
        The stream ids met so far, by first appearance; all chunks of one `read` share the list, and it grows.
    streams, ts, metrics
        int32 `(n,)` index into `names`; int64 `(n,)` event time in ms; float64 `(n, 6)` in the order of
        `contract.METRICS`, NaN where missing.
    extras
        The `extra` of the few rows that carry one.
    """

    names: list[str]
    streams: NDArray[np.int32]
    ts: NDArray[np.int64]
    metrics: NDArray[np.float64]
    extras: dict[int, dict[str, float]] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ts)

    def events(self) -> list[MetricEvent]:
        """Return the rows as events."""
        rows = zip(self.streams.tolist(), self.ts.tolist(), self.metrics.tolist(), strict=True)
        # Only NaN differs from itself: it becomes None, a missing metric.
        return [
            MetricEvent(
                stream_id=self.names[stream],
                ts=ts,
                latency_p99=latency if latency == latency else None,
                utilization=utilization if utilization == utilization else None,
                error_rate=errors if errors == errors else None,
                bandwidth_gbps=bandwidth if bandwidth == bandwidth else None,
                qp_errors=qp if qp == qp else None,
                mr_failures=mr if mr == mr else None,
                extra=self.extras.get(row),
            )
            for row, (stream, ts, (latency, utilization, errors, bandwidth, qp, mr)) in enumerate(rows)
        ]


def read(paths: Iterable[str]) -> Iterator[Chunk]:
    """Read recordings one after the other; the kind is in the name, and `-` is JSON Lines on standard input.

    `.jsonl`, `.ndjson`, `.json` and `.csv`, each also with `.gz` or `.zst`, and `.parquet`. In a CSV the header names
    the fields and an empty cell is missing; in Parquet null and NaN are missing and `ts` is int64 ms or a timestamp
    (UTC where it has no zone). Columns that are no field are ignored. Raises `RecordingUnreadable` with the path.
    """
    codes = _Codes()
    for path in paths:
        try:
            yield from _reader_of(path)(path, codes)
        except (OSError, EOFError, zlib.error) as error:
            raise RecordingUnreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from error


class _Codes(dict[str, int]):
    """Stream ids to their codes: 0, 1, 2 … by first appearance, and -1 for what can't be an id."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __missing__(self, stream_id: str) -> int:
        if not is_stream_id(stream_id):
            return -1
        self[stream_id] = code = len(self.names)
        self.names.append(stream_id)
        return code

    def of(self, stream_ids: Sequence[str]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, stream_ids), np.int32, len(stream_ids))


def _reader_of(path: str) -> Callable[[str, _Codes], Iterator[Chunk]]:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    if path == "-" or name.endswith((".jsonl", ".ndjson", ".json")):
        return _read_json_lines
    if name.endswith(".csv"):
        return _read_csv
    if path.lower().endswith(".parquet"):
        return _read_parquet
    raise RecordingUnreadable(f"{path}: name it .jsonl or .csv (also with .gz, .zst) or .parquet, or give - for stdin")


Refusal = tuple[DeadReason, str]


def _read_json_lines(path: str, codes: _Codes) -> Iterator[Chunk]:
    first = 1
    for lines in _lines(path):
        yield _at_once(lines, codes, _json_events) or _one_by_one(lines, codes, path, first, _json_elements)
        first += len(lines)


def _json_events(lines: list[bytes]) -> list[MetricEvent]:
    # Not decode_lines: it takes an event that spans two lines, and so would differ from the way one by one.
    found = list(map(_events.decode, lines))
    if set(map(type, found)) == {MetricEvent}:
        return found
    if [] in found:
        raise ValueError("an empty sweep")
    return [event for sweep in found for event in (sweep if type(sweep) is list else [sweep])]


def _json_elements(line: bytes) -> Iterator[tuple[int | None, MetricEvent | Refusal]]:
    if not line.strip():
        return  # the blank line that many a tool leaves at the end
    sweep = _raw_sweep(line)
    if sweep is None:
        yield None, _json_event(line)
    elif not sweep:
        yield None, ("empty_sweep", "an array without an event")
    else:
        for element, raw in enumerate(sweep):
            yield element, _json_event(bytes(raw))


def _raw_sweep(line: bytes) -> list[msgspec.Raw] | None:
    try:
        return _elements.decode(line)
    except (ValueError, RecursionError):
        return None  # an event, or bad as a whole


def _json_event(raw: bytes) -> MetricEvent | Refusal:
    return explain(raw) or msgspec.json.decode(raw, type=MetricEvent)


def _read_csv(path: str, codes: _Codes) -> Iterator[Chunk]:
    first, csv_lines = 2, None
    for lines in _lines(path):
        csv_lines = csv_lines or _CsvLines(_csv_header(path, lines.pop(0)))
        yield _at_once(lines, codes, csv_lines.events) or _one_by_one(lines, codes, path, first, csv_lines.elements)
        first += len(lines)


def _csv_header(path: str, line: bytes) -> list[str]:
    (header,) = csv.reader([line.decode("utf-8-sig", errors="replace")])
    if not {"stream_id", "ts"} <= set(header) or not set(header) & set(METRICS) or len(set(header)) < len(header):
        raise RecordingUnreadable(
            f"{path}: the header {','.join(header)[:200]!r} has to name stream_id, ts and a metric, each once; "
            f"the metrics are {', '.join(METRICS)}"
        )
    return header


class _CsvLines(NamedTuple):
    """Lines of a CSV to events, by its header."""

    header: list[str]

    def events(self, lines: list[bytes]) -> list[MetricEvent]:
        rows = list(csv.reader(map(bytes.decode, lines), strict=True))
        if len(rows) != len(lines):
            raise ValueError("a quoted cell spans lines")
        return msgspec.convert(list(map(self.cells, rows)), list[MetricEvent], strict=False)

    def elements(self, line: bytes) -> Iterator[tuple[None, MetricEvent | Refusal]]:
        if not line.strip():
            return
        try:
            # Line by line: one quote that is never closed would swallow the lines after it.
            (row,) = csv.reader([line.decode()], strict=True)
            cells = self.cells(row)
        except (ValueError, csv.Error) as error:
            yield None, ("wrong_type", f"{error}: the header has {len(self.header)} columns")
            return
        try:
            yield None, msgspec.convert(cells, MetricEvent, strict=False)
        except msgspec.ValidationError as error:
            numbers = {name: _number_or_text(cell) for name, cell in cells.items() if name != "stream_id"}
            yield None, explain(msgspec.json.encode(cells | numbers)) or ("wrong_type", str(error))

    def cells(self, row: list[str]) -> dict[str, str]:
        return {name: cell for name, cell in zip(self.header, row, strict=True) if cell and name in FIELDS}


def _number_or_text(cell: str) -> float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    if not math.isfinite(number):
        return cell  # JSON would make it null, and so a missing metric
    return int(number) if number.is_integer() else number


def _at_once(lines: list[bytes], codes: _Codes, events_of: Callable[[list[bytes]], list[MetricEvent]]) -> Chunk | None:
    """Return the chunk of lines that are all good, the quick way; None where one of them is not."""
    try:
        events = events_of(lines)
    except (ValueError, RecursionError, csv.Error):
        return None
    metrics = _metrics_of(events)
    if np.isnan(metrics).all(axis=1).any():
        return None
    chunk = _chunk(events, metrics, codes, [])
    return None if (chunk.streams < 0).any() else chunk


def _one_by_one(
    lines: list[bytes],
    codes: _Codes,
    path: str,
    first: int,
    elements_of: Callable[[bytes], Iterator[tuple[int | None, MetricEvent | Refusal]]],
) -> Chunk:
    events: list[MetricEvent] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines, first):
        for element, found in elements_of(line):
            refusal = found if isinstance(found, tuple) else _flaw(found.stream_id, _metrics_of([found]))
            if refusal:
                bad.append(BadLine(path, number, element, *refusal))
            elif isinstance(found, MetricEvent):
                events.append(found)
    return _chunk(events, _metrics_of(events), codes, bad)


def _flaw(stream_id: str, metrics: NDArray[np.float64]) -> Refusal | None:
    """Return what the types of an event can't say against it."""
    if not is_stream_id(stream_id):
        return "out_of_range", f"stream_id {stream_id[:50]!r} is not 1 to 200 bytes of printable text"
    if np.isnan(metrics).all():
        return "no_metric", "none of the metrics is there"
    return None


def _metrics_of(events: list[MetricEvent]) -> NDArray[np.float64]:
    metrics = np.empty((len(events), len(METRICS)))
    metrics[:, 0] = [e.latency_p99 for e in events]
    metrics[:, 1] = [e.utilization for e in events]
    metrics[:, 2] = [e.error_rate for e in events]
    metrics[:, 3] = [e.bandwidth_gbps for e in events]
    metrics[:, 4] = [e.qp_errors for e in events]
    metrics[:, 5] = [e.mr_failures for e in events]
    return metrics


def _chunk(events: list[MetricEvent], metrics: NDArray[np.float64], codes: _Codes, bad: list[BadLine]) -> Chunk:
    streams = codes.of([e.stream_id for e in events])
    ts = np.array([e.ts for e in events], np.int64)
    extras = {row: e.extra for row, e in enumerate(events) if e.extra}
    return Chunk(codes.names, streams, ts, metrics, extras, bad)


def _lines(path: str) -> Iterator[list[bytes]]:
    """Yield the lines of some 8 MiB of text at a time, without their ends."""
    rest = b""
    for block in _blocks(path):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield (rest + head).split(b"\n")
            rest = tail
        elif len(rest := rest + block) > LINE_BYTES_MAX:
            raise RecordingUnreadable(f"{path}: a line of more than {LINE_BYTES_MAX} bytes: write one event a line")
    if rest:
        yield [rest]


def _blocks(path: str) -> Iterator[bytes]:
    if path == "-":
        stdin = cast(io.BufferedReader, sys.stdin.buffer)
        # read1 returns what is there: a live pipe isn't held back until a block is full.
        yield from iter(lambda: stdin.read1(BLOCK_BYTES), b"")
        return
    with Path(path).open("rb") as file:
        if path.lower().endswith(".zst"):
            yield from _unzstd(path, file)
            return
        text = gzip.GzipFile(fileobj=file) if path.lower().endswith(".gz") else file
        yield from iter(lambda: text.read(BLOCK_BYTES), b"")


def _unzstd(path: str, file: IO[bytes]) -> Iterator[bytes]:
    # Frame by frame: zstandard's stream_reader takes a frame that is cut off for the end of the file (0.25).
    import zstandard

    frame, is_open = zstandard.ZstdDecompressor().decompressobj(), False
    try:
        while data := file.read(1 << 17):
            while data:
                yield frame.decompress(data)
                data, is_open = frame.unused_data, not frame.eof
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise RecordingUnreadable(f"{path}: {error}") from error
    if is_open:
        raise RecordingUnreadable(f"{path}: the file ends inside a zstd frame: copy it again, whole")


def _read_parquet(path: str, codes: _Codes) -> Iterator[Chunk]:
    import pyarrow as pa
    from pyarrow import parquet

    first = 1
    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in file.schema_arrow.names if name in FIELDS]
            if not {"stream_id", "ts"} <= set(present) or not set(present) & set(METRICS):
                raise RecordingUnreadable(f"{path}: has no columns stream_id, ts and a metric ({', '.join(METRICS)})")
            for batch in file.iter_batches(batch_size=ROWS, columns=present):
                yield _rows(path, first, batch, codes)
                first += len(batch)
    except pa.ArrowException as error:
        raise RecordingUnreadable(f"{path}: {str(error).splitlines()[0]}") from error


def _rows(path: str, first: int, batch: "pa.RecordBatch", codes: _Codes) -> Chunk:
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
    refusal = explain(msgspec.json.encode(event)) or _flaw(event["stream_id"], metrics)
    assert refusal, f"{event} was refused without a reason"
    return BadLine(path, first + row, None, *refusal)
