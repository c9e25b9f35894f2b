"""JSON Lines: a line is an event or a sweep."""

from collections.abc import Iterator

from streams.contract import MetricEvent
from streams.ingest.recordings.chunk import Chunk, Codes
from streams.ingest.recordings.lines import at_once, lines_of, one_by_one
from streams.wire.events import Refusal, decode_events, elements_of, parse


def read_json_lines(path: str, codes: Codes) -> Iterator[Chunk]:
    """Yield the chunks of one file, `-` for standard input."""
    first = 1
    for lines in lines_of(path):
        yield at_once(lines, codes, _events) or one_by_one(lines, codes, path, first, _elements)
        first += len(lines)


def _events(lines: list[bytes]) -> list[MetricEvent]:
    # Not decode_lines: it takes an event that spans two lines, and so would differ from the way one by one.
    found = list(map(decode_events, lines))
    if set(map(type, found)) == {MetricEvent}:
        return found  # type: ignore[return-value]
    if [] in found:
        raise ValueError("an empty sweep")
    return [event for sweep in found for event in (sweep if isinstance(sweep, list) else [sweep])]


def _elements(line: bytes) -> Iterator[tuple[int | None, MetricEvent | Refusal]]:
    if not line.strip():
        return  # the blank line that many a tool leaves at the end
    elements = elements_of(line)
    if elements is None:
        yield None, parse(line)
    elif not elements:
        yield None, ("empty_sweep", "an array without an event")
    else:
        yield from ((place, parse(element)) for place, element in enumerate(elements))
