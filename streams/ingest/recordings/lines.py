"""Lines of text to chunks, at once where all of them are good and one by one where one is not."""

import gzip
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from streams.contract import MetricEvent
from streams.ingest.recordings.chunk import BadLine, Chunk, Codes, RecordingUnreadable
from streams.wire.events import Refusal, metrics_of

BLOCK_BYTES = 8 << 20
LINE_BYTES_MAX = 12 << 20  # what topic `metrics` takes in one record
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def lines_of(path: str) -> Iterator[list[bytes]]:
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
        # The raw file returns what is there: a live pipe isn't held back until a block is full. A buffered one has a
        # lock, and Python aborts if a thread still reads from it at the end.
        stdin = cast(io.BufferedReader, sys.stdin.buffer).raw
        yield from iter(lambda: stdin.read(BLOCK_BYTES), b"")
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


def at_once(lines: list[bytes], codes: Codes, events_of: Callable[[list[bytes]], list[MetricEvent]]) -> Chunk | None:
    """Return the chunk of lines that are all good, the quick way; None where one of them is not.

    `events_of` returns the events of the lines, or raises `ValueError` or `RecursionError` where one is none.
    """
    try:
        events = events_of(lines)
    except (ValueError, RecursionError):
        return None
    metrics = metrics_of(events)
    if np.isnan(metrics).all(axis=1).any():
        return None
    chunk = _chunk(events, metrics, codes, [])
    return None if (chunk.streams < 0).any() else chunk


def one_by_one(
    lines: list[bytes],
    codes: Codes,
    path: str,
    first: int,
    elements_of: Callable[[bytes], Iterator[tuple[int | None, MetricEvent | Refusal]]],
) -> Chunk:
    """Return the chunk of lines of which some are bad; `first` is the number of the first of them, from 1.

    `elements_of` yields each event of a line, or why it is none, with its place in the line's sweep.
    """
    events: list[MetricEvent] = []
    bad: list[BadLine] = []
    for number, line in enumerate(lines, first):
        # Windows writes one at the start of a file, and files are joined: no decoder takes it, so each comes this way.
        for element, found in elements_of(line.removeprefix(BYTE_ORDER_MARK)):
            if isinstance(found, MetricEvent):
                events.append(found)
            else:
                bad.append(BadLine(path, number, element, *found))
    return _chunk(events, metrics_of(events), codes, bad)


def _chunk(events: list[MetricEvent], metrics: NDArray[np.float64], codes: Codes, bad: list[BadLine]) -> Chunk:
    streams = codes.of([e.stream_id for e in events])
    ts = np.array([e.ts for e in events], np.int64)
    extras = {row: e.extra for row, e in enumerate(events) if e.extra}
    return Chunk(codes.names, streams, ts, metrics, extras, bad)
