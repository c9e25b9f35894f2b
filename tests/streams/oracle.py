"""What a fetch of JSON becomes by msgspec alone, an object an event: the oracle of the scanners."""

from collections.abc import Sequence

import numpy as np

from streams.contract import MetricEvent
from streams.wire.decode import FUTURE_MS_MAX, VALUE_BYTES_MAX, Record, Rejected, event_bytes
from streams.wire.events import decode_events, elements_of, flaw, metrics_of, parse

Place = tuple[int, int]


def decoded_by_msgspec(records: Sequence[Record]) -> tuple[list[tuple], list[tuple]]:
    """Return events and dead letters in the words of `said_of_events` and `said_of`."""
    rejected: list[Rejected] = []
    events: list[tuple[Place, MetricEvent]] = []
    empty = []
    for i, record in enumerate(records):
        found = events_of(record, rejected)
        if found == []:
            empty.append(Rejected(record, 0, "empty_sweep", "an array without an event", record.value))
        events += [((i, j), event) for j, event in enumerate(found) if event is not None]
    rejected += empty
    good = []
    for (i, j), event in events:
        ahead_ms = event.ts - records[i].timestamp
        future = ("from_the_future", f"{ahead_ms} ms ahead of the broker, at most {FUTURE_MS_MAX}")
        refusal = flaw(event) or (future if ahead_ms > FUTURE_MS_MAX else None)
        if refusal:
            rejected.append(Rejected(records[i], j, *refusal, event_bytes(records[i], j)))
        else:
            metrics = metrics_of([event]).view(np.uint64)[0].tolist()
            good.append((i, j, event.stream_id, event.ts, records[i].timestamp, *metrics))
    return good, said_of(rejected)


def events_of(record: Record, rejected: list[Rejected]) -> list[MetricEvent | None]:
    if record.value is None:
        rejected.append(Rejected(record, 0, "tombstone", "a record without a value", None))
        return [None]
    if len(record.value) > VALUE_BYTES_MAX:
        detail = f"{len(record.value)} bytes, at most {VALUE_BYTES_MAX}"
        rejected.append(Rejected(record, 0, "too_large", detail, record.value))
        return [None]
    try:
        (record.key or b"").decode()
    except UnicodeDecodeError:
        detail = f"key {record.key[:50]!r} is not UTF-8"
        rejected.append(Rejected(record, 0, "bad_key", detail, record.value))
        return [None]
    try:
        found = decode_events(record.value)
        return found if isinstance(found, list) else [found]
    except (ValueError, RecursionError):
        elements = elements_of(record.value) or [record.value]
    events: list[MetricEvent | None] = []
    for j, element in enumerate(elements):
        event = parse(element)
        if isinstance(event, MetricEvent):
            events.append(event)
        else:
            events.append(None)
            rejected.append(Rejected(record, j, *event, element))
    return events


def said_of(rejected: Sequence[Rejected]) -> list[tuple]:
    return [(r.record.offset, r.element, r.reason, r.detail, r.value) for r in rejected]
