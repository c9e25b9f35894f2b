"""Records of topic `metrics` to columns of events, and to dead letters with their reason.

The usual form of an event never becomes a Python object: `streams.wire.scan` reads JSON. What it leaves, record by
record, goes the way of `streams.wire.events`, the only one that rejects. Arrow sweeps all go the way of
`streams.wire.arrow_rows`.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streams.contract import METRICS, DeadReason, MetricEvent
from streams.wire import arrow_rows
from streams.wire.arrow_sweep import is_arrow
from streams.wire.events import FUTURE_MS_MAX, Refusal, decode_events, elements_of, flaw, metrics_of, parse
from streams.wire.records import VALUE_START, Record, Records, Taken
from streams.wire.scan import ELEMENT, ID_END, ID_START, RECORD, SEEN, TS, scan
from streams.wire.unpacked import compile_unpack

_encode = msgspec.json.Encoder().encode

VALUE_BYTES_MAX = 1 << 20
"""A larger record is a dead letter unread."""
REJECTED_MAX = 1_000
"""Events of one record that become a dead letter each; of more, the record is one as a whole. A sweep has the ports of
a node, some hundred at most, and 1 MiB can hold half a million elements that are no events."""
_EVENT_BYTES_MIN = len(b'{"ts":0,"stream_id":"a","":0}') + min(map(len, METRICS))


class Rejected(NamedTuple):
    """An event that is none; `element` is its place in a sweep, and `value` its own bytes."""

    record: Record
    element: int
    reason: DeadReason
    detail: str
    value: bytes | None


class Decoded(NamedTuple):
    """The n events of a fetch that may enter the windows, in log order."""

    id_bytes: NDArray[np.uint8]
    id_start: NDArray[np.int64]  # (n,) of the stream's id in `id_bytes`
    id_end: NDArray[np.int64]
    ts: NDArray[np.int64]  # (n,) event time, ms
    metrics: NDArray[np.float64]  # (n, 12) in the order of `contract.METRICS`, NaN missing
    record: NDArray[np.int64]  # (n,) place of the event's record in the fetch
    element: NDArray[np.int64]  # (n,) place of the event in its record
    seen: NDArray[np.int64]  # (n,) the broker's time of the record, ms

    def at(self, events: NDArray[np.integer]) -> "Decoded":
        """Return some of the events."""
        return Decoded(self.id_bytes, *(column[events] for column in self[1:]))

    def stream_ids(self) -> list[str]:
        """Return the ids as text: for people and tests, a worker has no need of it."""
        spans = zip(self.id_start.tolist(), self.id_end.tolist(), strict=True)
        return [self.id_bytes[start:end].tobytes().decode() for start, end in spans]


def decode(records: Sequence[Record]) -> tuple[Decoded, list[Rejected]]:
    """Split a fetch into events and dead letters: each event of each record is in exactly one of the two."""
    records = Records.of(records)
    unread = _unread(records)
    usual, is_mine, ahead = _scanned(records, unread)
    rejected: list[Rejected] = []
    if is_mine is None:
        return _admitted(records, usual, {}, rejected) if ahead else usual, rejected
    arrow = [i for i, refusal in unread.items() if refusal is None]
    sweeps = _swept(records, arrow, rejected)
    is_mine[arrow] = 1
    unusual, flawed = _taken_apart(records, np.flatnonzero(is_mine == 0).tolist(), unread, rejected)
    return _admitted(records, _merged([usual, sweeps, unusual]), flawed, rejected), rejected


def compile_scanners() -> None:
    """Compile what `decode` may call, or load it from its cache."""
    event = MetricEvent(stream_id="a/1", ts=0, utilization=0.0)
    compile_unpack()
    _scanned(Records.of([Taken(0, 0, b"a", _encode(event), [])]), {})


def event_bytes(record: Record, element: int) -> bytes | None:
    """Return the original bytes of one event of a record: an element of a sweep, or all of it."""
    return events_bytes(record, [element])[0]


def events_bytes(record: Record, elements: Sequence[int]) -> list[bytes | None]:
    """Return the bytes of several events of one record, each once; a row of an Arrow sweep is written as JSON."""
    value: bytes | None = record.value
    if value is None or len(value) > VALUE_BYTES_MAX:
        return [value for _ in elements]
    if is_arrow(record.headers):
        sweep = arrow_rows.read(value)
        rows = None if isinstance(sweep, tuple) else arrow_rows.rows_of([sweep])
        return [rows.row_json(i) if rows else value for i in elements]
    found = elements_of(value)
    return [value if found is None else found[i] for i in elements]


def reject(
    records: Sequence[Record],
    decoded: Decoded,
    at: NDArray[np.integer],
    refusals: Iterable[Refusal],
    rejected: list[Rejected],
) -> None:
    """Add the events `at`, ascending, to the dead letters, each with its refusal; of one record, `REJECTED_MAX`."""
    places = zip(decoded.record[at].tolist(), decoded.element[at].tolist(), refusals, strict=True)
    for i, of_record in groupby(places, itemgetter(0)):
        group = list(of_record)
        if len(group) > REJECTED_MAX:
            reason, detail = group[0][2]
            rejected.append(_whole(records[i], (reason, f"{len(group)} of its events, the first one: {detail}")))
            continue
        values = events_bytes(records[i], [element for _, element, _ in group])
        for (_, element, refusal), value in zip(group, values, strict=True):
            rejected.append(Rejected(records[i], element, *refusal, value))


def _whole(record: Record, refusal: Refusal) -> Rejected:
    reason, detail = refusal
    return Rejected(
        record, 0, reason, f"the record as a whole, more than {REJECTED_MAX} refused: {detail}", record.value
    )


def _unread(records: Records) -> dict[int, Refusal | None]:
    """Return the records that are not for the scanner of JSON: why they are refused, or None for Arrow sweeps."""
    if len(records.data) <= VALUE_BYTES_MAX and b"\0" not in records.is_plain.tobytes():
        return {}  # a small batch's arrays cost by the call and not by the record
    is_odd = ~records.is_plain | (records.value_size > VALUE_BYTES_MAX)
    odd = ((i, records[i]) for i in np.flatnonzero(is_odd).tolist())
    unread = ((i, record, records.refusal or _unread_refusal(record)) for i, record in odd)
    return {i: refusal for i, record, refusal in unread if refusal or is_arrow(record.headers)}


def _unread_refusal(record: Record) -> Refusal | None:
    if record.value is None:
        return "tombstone", "a record without a value"
    if len(record.value) > VALUE_BYTES_MAX:
        return "too_large", f"{len(record.value)} bytes, at most {VALUE_BYTES_MAX}"
    if not _has_key(record):
        return "bad_key", f"key {record.key[:50]!r} is not UTF-8"
    if record.timestamp is None or record.timestamp < 0:
        return "no_time", "a record without a time: none of its events can be told from one of the future"
    return None


def _has_key(record: Record) -> bool:
    """Whether the key is text; a producer that sends none is served, though its streams may then move."""
    try:
        return record.key is None or bool(record.key.decode() or True)
    except UnicodeDecodeError:
        return False


def _scanned(records: Records, unread: Mapping[int, Refusal | None]) -> tuple[Decoded, NDArray[np.uint8] | None, int]:
    """Return the usual events of a fetch, which records gave them (None: all), and how many are from the future."""
    data = np.frombuffer(records.data, np.uint8)
    sizes = records.value_size
    if unread:
        sizes = sizes.copy()
        sizes[list(unread)] = 0
    # No event without a brace, or shorter than any: a megabyte of braces would ask for a hundred. With room for
    # more than there are, new pages of memory cost as much as the scanner.
    places, metrics = _columns(min(records.braces(), len(records.data) // _EVENT_BYTES_MIN))
    is_mine = np.empty(len(records), np.uint8)
    found, left, ahead = scan(
        data, records.places[VALUE_START], sizes, records.timestamp, places, metrics, is_mine, FUTURE_MS_MAX
    )
    return _decoded(data, places, metrics, found), is_mine if left else None, ahead


def _columns(capacity: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.empty((6, capacity), np.int64), np.empty((capacity, len(METRICS)))


def _decoded(data: NDArray[np.uint8], places: NDArray[np.int64], metrics: NDArray[np.float64], n: int) -> Decoded:
    return Decoded(
        data, places[ID_START, :n], places[ID_END, :n], places[TS, :n], metrics[:n],
        places[RECORD, :n], places[ELEMENT, :n], places[SEEN, :n],
    )  # fmt: skip


def _swept(records: Records, at: Sequence[int], rejected: list[Rejected]) -> Decoded:
    """Return the events of the Arrow sweeps `at`, and reject what is none: each as it would be without the others."""
    sweeps: dict[int, pa.Table] = {}
    for i in at:
        found = arrow_rows.read(records.value(i) or b"")
        if isinstance(found, tuple):
            reason, detail = found
            rejected.append(Rejected(records[i], 0, reason, detail, records.value(i)))
        else:
            sweeps[i] = found
    if not sweeps:
        return _decoded(np.empty(0, np.uint8), *_columns(0), 0)
    sizes = [sweep.num_rows for sweep in sweeps.values()]
    record, element = np.repeat(list(sweeps), sizes), np.concatenate(list(map(np.arange, sizes)))
    rows = arrow_rows.rows_of(list(sweeps.values()))
    is_event = rows.good()
    found = Decoded(
        rows.id_bytes, rows.id_start, rows.id_end, rows.ts, rows.metrics, record, element, records.timestamp[record]
    )
    if is_event.all():
        return found
    _reject_rows(records, rows, record, element, is_event, rejected)
    return found.at(np.flatnonzero(is_event))


def _reject_rows(
    records: Records, rows: arrow_rows.Rows, record: NDArray[np.int64], element: NDArray[np.int64],
    is_event: NDArray[np.bool_], rejected: list[Rejected],
) -> None:  # fmt: skip
    """Reject the rows that are no event, and take the rest of a sweep that is rejected whole out of `is_event`."""
    for i, group in groupby(np.flatnonzero(~is_event).tolist(), lambda row: int(record[row])):
        bad = list(group)
        if len(bad) > REJECTED_MAX:
            reason, detail = rows.refusal(bad[0])
            detail = f"row {element[bad[0]]} of {(record == i).sum()}: {detail}"
            rejected.append(_whole(records[i], (reason, detail)))
            is_event[record == i] = False
        else:
            taken = records[i]
            rejected += [Rejected(taken, int(element[row]), *rows.refusal(row), rows.row_json(row)) for row in bad]


def _taken_apart(
    records: Records, left: Iterable[int], unread: Mapping[int, Refusal | None], rejected: list[Rejected]
) -> tuple[Decoded, dict[tuple[int, int], Refusal]]:
    """Return the events of the records that are left, one Python object an event, and reject what is none.

    Of the events, those with a flaw that types can't say are named by record and element: their turn comes later.
    """
    events: list[tuple[int, int, MetricEvent]] = []
    empty: list[Record] = []
    for i in left:
        record, refusal, n = records[i], unread.get(i), 1
        if refusal:
            rejected.append(Rejected(record, 0, *refusal, record.value))
        else:
            found = _events_of(record, rejected)
            sweep, n = (found, len(found)) if isinstance(found, list) else ([found], 1)
            events += [(i, j, event) for j, event in enumerate(sweep) if event is not None]
        if n == 0:
            empty.append(record)
    rejected += [Rejected(r, 0, "empty_sweep", "an array without an event", r.value) for r in empty]
    return _columns_of(records.timestamp, events), _flawed(events)


def _events_of(record: Record, rejected: list[Rejected]) -> MetricEvent | list[Any]:
    """Return what is good in one record, with None in the place of each rejected event of a sweep."""
    try:
        return decode_events(record.value)
    except (ValueError, RecursionError):
        elements = elements_of(record.value) or [record.value]
    refused: list[Rejected] = []
    found: list[Any] = []
    for i, element in enumerate(elements):
        found.append(_event_or_none(record, i, element, refused))
        if len(refused) > REJECTED_MAX:  # the rest is left unread
            reason, detail = refused[0].reason, f"element {refused[0].element} of {len(elements)}: {refused[0].detail}"
            rejected.append(_whole(record, (reason, detail)))
            return [None]
    rejected += refused
    return found


def _event_or_none(record: Record, element: int, value: bytes, rejected: list[Rejected]) -> MetricEvent | None:
    event = parse(value)
    if isinstance(event, MetricEvent):
        return event
    rejected.append(Rejected(record, element, *event, value))
    return None


def _columns_of(timestamp: NDArray[np.int64], events: Sequence[tuple[int, int, MetricEvent]]) -> Decoded:
    ids = [event.stream_id.encode() for *_, event in events]
    ends = np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))
    return Decoded(
        id_bytes=np.frombuffer(b"".join(ids), np.uint8),
        id_start=ends - np.fromiter(map(len, ids), np.int64, len(ids)),
        id_end=ends,
        ts=np.array([event.ts for *_, event in events], np.int64),
        metrics=metrics_of([event for *_, event in events]),
        record=np.array([i for i, *_ in events], np.int64),
        element=np.array([j for _, j, _ in events], np.int64),
        seen=timestamp[[i for i, *_ in events]],
    )


def _flawed(events: Sequence[tuple[int, int, MetricEvent]]) -> dict[tuple[int, int], Refusal]:
    found = ((i, j, flaw(event)) for i, j, event in events)
    return {(i, j): refusal for i, j, refusal in found if refusal}


def _merged(parts: Sequence[Decoded]) -> Decoded:
    """Return the events of all parts in log order."""
    parts = [part for part in parts if part.ts.size] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    sizes = np.array([part.id_bytes.size for part in parts])
    shift = np.repeat(sizes.cumsum() - sizes, [part.ts.size for part in parts])
    joined = Decoded(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    joined = joined._replace(id_start=joined.id_start + shift, id_end=joined.id_end + shift)
    return joined.at(np.argsort(joined.record, kind="stable"))


def _admitted(
    records: Sequence[Record], decoded: Decoded, flawed: Mapping[tuple[int, int], Refusal], rejected: list[Rejected]
) -> Decoded:
    """Reject what a type can't say: no metric at all, an id that isn't printable, an event time ahead of the broker."""
    ahead_ms = decoded.ts - decoded.seen
    is_bad = ahead_ms > FUTURE_MS_MAX
    if flawed:
        is_bad |= [place in flawed for place in zip(decoded.record.tolist(), decoded.element.tolist(), strict=True)]
    if not is_bad.any():
        return decoded
    at = np.flatnonzero(is_bad)
    bad = zip(decoded.record[at].tolist(), decoded.element[at].tolist(), ahead_ms[at].tolist(), strict=True)
    refusals = (
        flawed.get((i, j)) or ("from_the_future", f"{ms} ms ahead of the broker, at most {FUTURE_MS_MAX}")
        for i, j, ms in bad
    )
    reject(records, decoded, at, refusals, rejected)
    return decoded.at(np.flatnonzero(~is_bad))
