"""CSV: the header names the fields, and an empty cell is missing."""

import csv
import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from streams.contract import MetricEvent
from streams.ingest.recordings.chunk import FIELDS, Chunk, Codes, check_columns
from streams.ingest.recordings.lines import at_once, lines_of, one_by_one
from streams.wire.events import Refusal, flaw, parse


def read_csv(path: str, codes: Codes) -> Iterator[Chunk]:
    """Yield the chunks of one file. Raises `RecordingUnreadable` for a header without the columns of an event."""
    first, table = 2, None
    for lines in lines_of(path):
        table = table or _Table(_header(path, lines.pop(0)))
        yield at_once(lines, codes, table.events) or one_by_one(lines, codes, path, first, table.elements)
        first += len(lines)


def _header(path: str, line: bytes) -> list[str]:
    (header,) = csv.reader([line.decode("utf-8-sig", errors="replace")])
    check_columns(path, header)
    return header


class _Table(NamedTuple):
    """Lines of a CSV to events, by its header."""

    header: list[str]

    def events(self, lines: list[bytes]) -> list[MetricEvent]:
        try:
            rows = list(csv.reader(map(bytes.decode, lines), strict=True))
        except csv.Error as error:
            raise ValueError(error) from error
        if len(rows) != len(lines):
            raise ValueError("a quoted cell spans lines")
        return msgspec.convert(list(map(self.cells, rows)), list[MetricEvent], strict=False)

    def elements(self, line: bytes) -> Iterator[tuple[None, MetricEvent | Refusal]]:
        if line.strip():
            yield None, self.event(line)

    def event(self, line: bytes) -> MetricEvent | Refusal:
        try:
            # Line by line: one quote that is never closed would swallow the lines after it.
            (row,) = csv.reader([line.decode()], strict=True)
            cells = self.cells(row)
        except (ValueError, csv.Error) as error:
            return "wrong_type", f"{error}: the header has {len(self.header)} columns"
        try:
            event = msgspec.convert(cells, MetricEvent, strict=False)
        except msgspec.ValidationError as error:
            numbers = {name: _number_or_text(cell) for name, cell in cells.items() if name != "stream_id"}
            found = parse(msgspec.json.encode(cells | numbers))
            return ("wrong_type", str(error)) if isinstance(found, MetricEvent) else found
        return flaw(event) or event

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
