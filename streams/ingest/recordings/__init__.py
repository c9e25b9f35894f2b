"""Metric events from files, as columns: JSON Lines (a line is an event or a sweep), CSV, Parquet.

What can't be an event is reported with its line and reason, by the rules of `streams.wire.events`, and the rest goes
on. Memory is bounded: a chunk holds what some 8 MiB of text or 65,536 rows of Parquet say, however long the recording.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator

from streams.ingest.recordings.chunk import BadLine, Chunk, Codes, RecordingUnreadable
from streams.ingest.recordings.csv import read_csv
from streams.ingest.recordings.json_lines import read_json_lines
from streams.ingest.recordings.parquet import read_parquet

__all__ = ["BadLine", "Chunk", "RecordingUnreadable", "read"]


def read(paths: Iterable[str]) -> Iterator[Chunk]:
    """Read recordings one after the other; the kind is in the name, and `-` is JSON Lines on standard input.

    `.jsonl`, `.ndjson`, `.json` and `.csv`, each also with `.gz` or `.zst`, and `.parquet`. In a CSV the header names
    the fields and an empty cell is missing; in Parquet null and NaN are missing and `ts` is int64 ms or a timestamp
    (UTC where it has no zone). Columns that are no field are ignored, and byte-order marks. Raises
    `RecordingUnreadable` with the path.
    """
    codes = Codes()
    for path in paths:
        try:
            yield from _reader_of(path)(path, codes)
        except (OSError, EOFError, zlib.error) as error:
            raise RecordingUnreadable(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _reader_of(path: str) -> Callable[[str, Codes], Iterator[Chunk]]:
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    if path == "-" or name.endswith((".jsonl", ".ndjson", ".json")):
        return read_json_lines
    if name.endswith(".csv"):
        return read_csv
    if path.lower().endswith(".parquet"):
        return read_parquet
    raise RecordingUnreadable(f"{path}: name it .jsonl or .csv (also with .gz, .zst) or .parquet, or give - for stdin")
