"""Records of topic `metrics` to columns of events, and to dead letters with their reason.

The rule is one `map` over the values of a fetch: 0.35 µs an event, where one call on the joined values takes 0.55 and
can be fooled by values that are only valid together. Where that fails, records are taken one by one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streams.contract import DeadReason, MetricEvent
from streams.events import Refusal, decode_events, elements_of, flaw, is_stream_id, metrics_of, parse

VALUE_BYTES_MAX = 1 << 20
"""A larger record is a dead letter unread."""
FUTURE_MS_MAX = 120_000
"""How far an event time may be ahead of the broker's record time."""


class Record(Protocol):
    """What is read of a Kafka record; the value and the key may be None, the time is the broker's, in ms."""

    offset: int
    timestamp: int
    key: Any
    value: Any


class Rejected(NamedTuple):
    """An event that is none; `element` is its place in a sweep, and `value` its own bytes."""

    record: Record
    element: int
    reason: DeadReason
    detail: str
    value: bytes | None


class Decoded(NamedTuple):
    """The n events of a fetch that may enter the windows, in log order."""

    stream_id: list[str]
    ts: NDArray[np.int64]  # (n,) event time, ms
    metrics: NDArray[np.float64]  # (n, 6) in the order of `contract.METRICS`, NaN missing
    record: NDArray[np.intp]  # (n,) place of the event's record in the fetch
    element: NDArray[np.intp]  # (n,) place of the event in its record

    def only(self, keep: NDArray[np.bool_]) -> "Decoded":
        """Return the events where `keep`, shape (n,), holds."""
        at = np.flatnonzero(keep)
        stream_id = [self.stream_id[i] for i in at]
        return Decoded(stream_id, self.ts[at], self.metrics[at], self.record[at], self.element[at])


def decode(records: Sequence[Record]) -> tuple[Decoded, list[Rejected]]:
    """Split a fetch into events and dead letters: each event of each record is in exactly one of the two."""
    rejected: list[Rejected] = []
    if all(map(_is_plain, records)):
        try:
            return _columns(records, list(map(decode_events, [r.value for r in records])), rejected), rejected
        except (ValueError, RecursionError):
            pass  # one of them is bad: find it
    return _columns(records, [_events_of(record, rejected) for record in records], rejected), rejected


def event_bytes(record: Record, element: int) -> bytes | None:
    """Return the original bytes of one event of a record: an element of a sweep, or all of it."""
    value: bytes | None = record.value
    if value is None or len(value) > VALUE_BYTES_MAX:
        return value
    elements = elements_of(value)
    return value if elements is None else elements[element]


def _is_plain(record: Record) -> bool:
    return record.value is not None and len(record.value) <= VALUE_BYTES_MAX and _has_key(record)


def _has_key(record: Record) -> bool:
    """Whether the key is text; a producer that sends none is served, though its streams may then move."""
    try:
        return record.key is None or bool(record.key.decode() or True)
    except UnicodeDecodeError:
        return False


def _events_of(record: Record, rejected: list[Rejected]) -> MetricEvent | list[Any]:
    """Return what is good in one record, with None in the place of each rejected event of a sweep."""
    value = record.value
    refused: Refusal | None = None
    if value is None:
        refused = "tombstone", "a record without a value"
    elif len(value) > VALUE_BYTES_MAX:
        refused = "too_large", f"{len(value)} bytes, at most {VALUE_BYTES_MAX}"
    elif not _has_key(record):
        refused = "bad_key", f"key {record.key[:50]!r} is not UTF-8"
    if refused:
        rejected.append(Rejected(record, 0, *refused, value))
        return [None]
    try:
        return decode_events(value)
    except (ValueError, RecursionError):
        elements = elements_of(value) or [value]
    return [_event_or_none(record, i, element, rejected) for i, element in enumerate(elements)]


def _event_or_none(record: Record, element: int, value: bytes, rejected: list[Rejected]) -> MetricEvent | None:
    event = parse(value)
    if isinstance(event, MetricEvent):
        return event
    rejected.append(Rejected(record, element, *event, value))
    return None


def _columns(records: Sequence[Record], per_record: list[Any], rejected: list[Rejected]) -> Decoded:
    if all(type(event) is MetricEvent for event in per_record):
        events = per_record
        at = np.arange(len(events))
        element = np.zeros(len(events), np.intp)
    else:
        events, at, element = _flattened(records, per_record, rejected)
    ts = np.array([e.ts for e in events], np.int64)
    decoded = Decoded([e.stream_id for e in events], ts, metrics_of(events), at, element)
    return _admitted(records, events, decoded, rejected)


def _flattened(
    records: Sequence[Record], per_record: list[Any], rejected: list[Rejected]
) -> tuple[list[MetricEvent], NDArray[np.intp], NDArray[np.intp]]:
    events: list[MetricEvent] = []
    at: list[int] = []
    element: list[int] = []
    for i, found in enumerate(per_record):
        sweep = found if type(found) is list else [found]
        if not sweep:
            rejected.append(Rejected(records[i], 0, "empty_sweep", "an array without an event", records[i].value))
        for j, event in enumerate(sweep):
            if event is not None:
                events.append(event)
                at.append(i)
                element.append(j)
    return events, np.array(at, np.intp), np.array(element, np.intp)


def _admitted(
    records: Sequence[Record], events: Sequence[MetricEvent], decoded: Decoded, rejected: list[Rejected]
) -> Decoded:
    """Reject what a type can't say: no metric at all, an id that isn't printable, an event time ahead of the broker."""
    ahead_ms = decoded.ts - np.array([r.timestamp for r in records], np.int64)[decoded.record]
    is_bad = (ahead_ms > FUTURE_MS_MAX) | np.isnan(decoded.metrics).all(axis=1)
    if not _are_printable("".join(decoded.stream_id)):
        is_bad |= [not is_stream_id(stream_id) for stream_id in decoded.stream_id]
    if not is_bad.any():
        return decoded
    for i in np.flatnonzero(is_bad).tolist():
        record, element = records[decoded.record[i]], int(decoded.element[i])
        future: Refusal = "from_the_future", f"{ahead_ms[i]} ms ahead of the broker, at most {FUTURE_MS_MAX}"
        reason, detail = flaw(events[i]) or future
        rejected.append(Rejected(record, element, reason, detail, event_bytes(record, element)))
    return decoded.only(~is_bad)


def _are_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
