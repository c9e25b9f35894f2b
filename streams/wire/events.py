"""Bytes to metric events and events to columns: the one place that says what an event is, and why something is none.

Kafka's records, recordings and the producer rest on it. Where all is well, `decode_events` is all it takes; `parse` is
the slow way round that finds the reason.
"""

import json
from collections.abc import Callable, Sequence
from operator import attrgetter

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.contract import (
    EVENT_TIME_MS_MAX,
    EVENT_TIME_MS_MIN,
    METRICS,
    STREAM_ID_BYTES_MAX,
    VERSION,
    DeadReason,
    MetricEvent,
)

METRIC_MAX = np.array([1e12, 100.0, 1.0, *8 * (1e12,), 1.0])
"""The upper bounds of the metrics in `contract.MetricEvent`, in the order of `contract.METRICS`; the least is 0."""

Refusal = tuple[DeadReason, str]
"""Why something is no event: the reason, and the detail in words."""

FUTURE_MS_MAX = 120_000
"""How far an event time may be ahead of the broker's record time."""

decode_events: Callable[[bytes], MetricEvent | list[MetricEvent]] = msgspec.json.Decoder(
    MetricEvent | list[MetricEvent]
).decode
"""Return the event or the sweep in some JSON; types and ranges are checked, `flaw` is not."""
_elements = msgspec.json.Decoder(list[msgspec.Raw])
_lenient = json.JSONDecoder()


class _MetricTypes(msgspec.Struct):
    """An event's types without their ranges: what tells a wrong type from a value out of range."""

    stream_id: str
    ts: int
    latency_p99: float | None = None
    utilization: float | None = None
    error_rate: float | None = None
    bandwidth_gbps: float | None = None
    qp_errors: float | None = None
    mr_failures: float | None = None
    symbol_errors: float | None = None
    recoveries: float | None = None
    link_downed: float | None = None
    remote_errors: float | None = None
    discards: float | None = None
    stall: float | None = None
    extra: dict[str, float] | None = None


def parse(value: bytes) -> MetricEvent | Refusal:
    """Return the event that the JSON of one event holds, or why it is none.

    >>> parse(b'{"stream_id": "leaf/1", "ts": 1767261600000, "utilization": 101}')
    ('out_of_range', 'Expected `float` <= 100.0 - at `$.utilization`')
    >>> parse(b'{"stream_id": "leaf/1", "ts": 1767261600, "utilization": 50}')
    ('out_of_range', 'ts 1767261600 is before 2000: send milliseconds, not seconds')
    >>> parse(b'{"v": 2, "stream_id": "leaf/1", "ts": 1767261600000}')
    ('unknown_version', 'version 2, this worker reads 1')
    >>> parse(b'{"stream_id": "leaf/1", "ts": 1767261600000}')
    ('no_metric', 'none of the metrics is there')
    """
    try:
        fields = msgspec.json.decode(value)
    except RecursionError:
        return "too_deep", "nested deeper than any event"
    except ValueError as error:
        return "not_json", str(error)[:200]
    if isinstance(fields, dict) and (version := fields.get("v", VERSION)) != VERSION:
        return "unknown_version", f"version {str(version)[:20]}, this worker reads {VERSION}"
    try:
        event = msgspec.convert(fields, MetricEvent)
    except msgspec.ValidationError as error:
        reason = _type_or_range(fields)
        return reason, (_unit_of_time(fields["ts"]) if reason == "out_of_range" else None) or str(error)[:200]
    return flaw(event) or event


def _type_or_range(fields: object) -> DeadReason:
    try:
        msgspec.convert(fields, _MetricTypes)
    except msgspec.ValidationError:
        return "wrong_type"
    return "out_of_range"


def _unit_of_time(ts: int) -> str | None:
    """Say what is wrong with a time that isn't in ms, None where nothing is."""
    if ts < EVENT_TIME_MS_MIN:
        return f"ts {ts} is before 2000: send milliseconds, not seconds"
    if ts > EVENT_TIME_MS_MAX:
        return f"ts {str(ts)[:30]} is after 2100: send milliseconds, not microseconds or nanoseconds"
    return None


def flaw(event: MetricEvent) -> Refusal | None:
    """Return what the types of an event can't say against it: an id that isn't printable, or no metric at all."""
    if not is_stream_id(event.stream_id):
        return "out_of_range", f"stream_id {event.stream_id[:50]!r} is not 1 to 200 bytes of printable text"
    if not has_metric(event):
        return "no_metric", "none of the metrics is there"
    return None


def is_stream_id(stream_id: str) -> bool:
    r"""Whether an id is 1 to 200 bytes of printable text.

    >>> is_stream_id("leaf-012/17"), is_stream_id("ü" * 101), is_stream_id("tab\t")
    (True, False, False)
    """
    return 0 < len(stream_id.encode()) <= STREAM_ID_BYTES_MAX and stream_id.isprintable()


def has_metric(event: MetricEvent) -> bool:
    """Whether an event has one of the metrics, without which it would be a dead letter."""
    return any(getattr(event, metric) is not None for metric in METRICS)


def elements_of(value: bytes) -> list[bytes] | None:
    """Return the JSON of each event of a sweep, or None for what is no array.

    >>> elements_of(b'[{"ts": 1}, 2]'), elements_of(b"[]"), elements_of(b'{"ts": 1}')
    ([b'{"ts": 1}', b'2'], [], None)
    """
    try:
        return list(map(bytes, _elements.decode(value)))
    except RecursionError:
        return None
    except ValueError:
        return _elements_beside_nan(value)


def _elements_beside_nan(value: bytes) -> list[bytes] | None:
    """Split a sweep that only a NaN or an Infinity keeps from being JSON, as Python writes them: the rest is good.

    >>> _elements_beside_nan(b'[{"ts": 1}, {"ts": NaN}]'), _elements_beside_nan(b'[{"ts": 1}')
    ([b'{"ts": 1}', b'{"ts": NaN}'], None)
    """
    elements: list[bytes] = []
    try:
        text = value.decode().strip()
        if text[0] != "[":
            return None
        at = _past_space(text, 1)
        while True:
            _, end = _lenient.raw_decode(text, at)
            elements.append(text[at:end].encode())
            at = _past_space(text, end)
            if text[at] == "]":
                return elements if at + 1 == len(text) else None
            if text[at] != ",":
                return None
            at = _past_space(text, at + 1)
    except (ValueError, IndexError, RecursionError):
        return None


def _past_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def metrics_of(events: Sequence[MetricEvent]) -> NDArray[np.float64]:
    """Return the metrics of n events, shape (n, 12) in the order of `contract.METRICS`, NaN where missing."""
    metrics = np.empty((len(events), len(METRICS)))
    for i, name in enumerate(METRICS):
        metrics[:, i] = list(map(attrgetter(name), events))
    return metrics
