"""What is no event leaves as one dead letter with its reason and its own bytes; what is one is never lost beside it."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.contract import EVENT_TIME_MS_MIN, METRICS, MetricEvent
from streams.features.partition import dead_letter
from streams.wire.decode import FUTURE_MS_MAX, REJECTED_MAX, VALUE_BYTES_MAX, decode, event_bytes
from tests.streams.strategies import METRIC_VALUES, T0, reading

GOOD = b'{"stream_id":"leaf-1/1","ts":%d,"utilization":50}' % T0


def record(value: bytes | None, *, offset: int = 0, key: bytes | None = b"leaf-1", headers=()) -> SimpleNamespace:
    return SimpleNamespace(offset=offset, timestamp=T0, key=key, value=value, headers=headers)


def with_fields(**fields: object) -> bytes:
    return msgspec.json.encode({"stream_id": "leaf-1/1", "ts": T0, "utilization": 50.0} | fields)


BAD_EVENTS = {
    "not JSON": (b"hello", "not_json"),
    "half an event": (GOOD[:-5], "not_json"),
    "two events side by side": (GOOD + GOOD, "not_json"),
    "no bytes at all": (b"", "not_json"),
    "NaN": (GOOD.replace(b"50", b"NaN"), "not_json"),
    "deep nesting": (b'{"extra":' * 20_000, "too_deep"),
    "a number": (b"7", "wrong_type"),
    "text for a number": (with_fields(utilization="50"), "wrong_type"),
    "no stream": (b'{"ts":1,"utilization":1}', "wrong_type"),
    "a fraction of a millisecond": (with_fields(ts=T0 + 0.5), "wrong_type"),
    "negative": (with_fields(latency_p99=-1), "out_of_range"),
    "beyond any float": (GOOD.replace(b"50", b"1e999"), "not_json"),
    "seconds for milliseconds": (with_fields(ts=T0 // 1_000), "out_of_range"),
    "nanoseconds for milliseconds": (with_fields(ts=T0 * 1_000_000), "out_of_range"),
    "id that is not printable": (with_fields(stream_id="leaf\n/1"), "out_of_range"),
    "id of 201 bytes in 101 letters": (with_fields(stream_id="x" + "ü" * 100), "out_of_range"),
    "unknown version": (with_fields(v=2), "unknown_version"),
    "no metric": (with_fields(utilization=None), "no_metric"),
    "a millisecond too far ahead": (with_fields(ts=T0 + FUTURE_MS_MAX + 1), "from_the_future"),
}
BAD_RECORDS = {
    "empty sweep": (b"[]", b"leaf-1", "empty_sweep"),
    "too large": (GOOD + b" " * VALUE_BYTES_MAX, b"leaf-1", "too_large"),
    "key that is not UTF-8": (GOOD, b"\xff", "bad_key"),
    "tombstone": (None, b"leaf-1", "tombstone"),
    "tombstone without a key": (None, None, "tombstone"),
}


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [(value, b"leaf-1", reason) for value, reason in BAD_EVENTS.values()] + list(BAD_RECORDS.values()),
    ids=[*BAD_EVENTS, *BAD_RECORDS],
)
def test_a_bad_record_is_one_dead_letter_and_its_neighbours_go_on(value, key, reason) -> None:
    fetch = [record(GOOD, offset=40), record(value, offset=43, key=key), record(GOOD, offset=44)]

    decoded, rejected = decode(fetch)

    (dead,) = rejected
    assert (dead.record.offset, dead.element, dead.reason, dead.value) == (43, 0, reason, value)
    assert dead.detail
    assert decoded.record.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        bad
        for name, bad in BAD_EVENTS.items()
        if name in ("NaN", "beyond any float") or bad[1] not in ("not_json", "too_deep")
    ],
)
def test_one_bad_event_of_a_sweep_is_rejected_alone_with_its_own_bytes(value, reason) -> None:
    """The others that are no JSON take the whole sweep with them: nobody can say where they end."""
    decoded, rejected = decode([record(b"[" + b", ".join([GOOD, value, GOOD]) + b"]", offset=7)])

    assert [(r.element, r.reason, r.value) for r in rejected] == [(1, reason, value)]
    assert decoded.element.tolist() == [0, 2]


def test_the_broker_s_time_is_the_only_clock() -> None:
    ahead = with_fields(ts=T0 + FUTURE_MS_MAX)

    assert decode([record(ahead)])[0].ts.tolist() == [T0 + FUTURE_MS_MAX]


@pytest.mark.parametrize(
    "values",
    [
        (GOOD[:20], GOOD[20:]),
        (b"[" + GOOD, GOOD + b"]"),
        (GOOD + b"," + GOOD, GOOD),
        (GOOD.replace(b"}", b""), b'"v":1}'),
    ],
)
def test_values_that_are_valid_only_when_joined_never_pass(values) -> None:
    decoded, rejected = decode([record(value, offset=i) for i, value in enumerate(values)])

    bad = [i for i, value in enumerate(values) if value != GOOD]
    assert [r.record.offset for r in rejected] == bad
    assert {r.reason for r in rejected} == {"not_json"}
    assert decoded.record.tolist() == [i for i in range(len(values)) if i not in bad]


def test_a_dead_letter_names_its_record_and_a_tombstone_is_sent_as_no_bytes() -> None:
    (dead,) = decode([record(None, offset=9, key=None)])[1]

    message = dead_letter(dead, topic="linkcast.metrics", partition=3)

    assert (message.key, message.value) == (None, b"")
    assert message.headers == [
        ("reason", b"tombstone"),
        ("detail", b"a record without a value"),
        ("topic", b"linkcast.metrics"),
        ("partition", b"3"),
        ("offset", b"9"),
        ("index", b"0"),
    ]


HALF_A_MILLION_ONES = b"[" + b"1," * (VALUE_BYTES_MAX // 2 - 2) + b"1]"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (HALF_A_MILLION_ONES, "element 0 of 524287"),
        (HALF_A_MILLION_ONES[:-7] + b",NaN]", "element 0 of 524285"),
        ('["😀"'.encode() + b",1" * 200_000 + b",NaN]", "element 0 of 200002"),
        (b"[" + GOOD + b",1" * (REJECTED_MAX + 1) + b"]", "element 1 of 1002"),
    ],
    ids=["ones", "ones and a NaN", "ones, a NaN and an emoji", "an event among them"],
)
def test_a_record_with_more_than_a_thousand_elements_that_are_no_events_is_one_dead_letter(value, detail) -> None:
    decoded, (dead,) = decode([record(value)])

    assert decoded.ts.size == 0
    assert (dead.reason, dead.element, dead.value) == ("wrong_type", 0, value)
    assert f"the record as a whole, more than {REJECTED_MAX} refused: {detail}: " in dead.detail


def test_up_to_a_thousand_of_them_are_a_dead_letter_each_beside_the_events() -> None:
    decoded, rejected = decode([record(b"[" + GOOD + b",1" * REJECTED_MAX + b"]")])

    assert decoded.element.tolist() == [0]
    assert [r.element for r in rejected] == list(range(1, REJECTED_MAX + 1))


def test_a_sweep_of_more_than_a_thousand_events_from_the_future_is_one_dead_letter() -> None:
    ahead = with_fields(ts=T0 + FUTURE_MS_MAX + 1)
    sweep = b"[" + GOOD + b"," + b",".join([ahead] * (REJECTED_MAX + 1)) + b"]"

    decoded, (dead,) = decode([record(sweep)])

    assert decoded.element.tolist() == [0]
    assert (dead.reason, dead.value) == ("from_the_future", sweep)
    assert f"{REJECTED_MAX + 1} of its events, the first one: " in dead.detail


@pytest.mark.parametrize("timestamp", [None, -1])
def test_a_record_without_a_time_is_a_dead_letter_whatever_it_holds(timestamp) -> None:
    timeless, other = record(GOOD), record(GOOD, offset=1)
    timeless.timestamp = timestamp

    decoded, (dead,) = decode([timeless, other])

    assert decoded.record.tolist() == [1]
    assert (dead.record.offset, dead.reason, dead.value) == (0, "no_time", GOOD)


EVENTS = st.builds(reading, st.integers(EVENT_TIME_MS_MIN, T0), METRIC_VALUES)
BAD = st.sampled_from([value for value, reason in BAD_EVENTS.values() if reason not in ("not_json", "too_deep")])
SWEEPS = st.lists(EVENTS | BAD, min_size=1, max_size=4)
# What is no JSON, or JSON that is neither an event nor a sweep.
NOISE = st.binary(max_size=30).filter(lambda value: value.strip()[:1] not in (b"{", b"["))


@settings(deadline=None)
@given(st.lists(EVENTS | NOISE | SWEEPS | st.none(), max_size=12))
@example([])
@example([b"", b"[", b"{}"])
def test_every_good_event_comes_out_in_order_among_arbitrary_bytes(contents) -> None:
    fetch, good, bad = [], [], 0
    for i, content in enumerate(contents):
        fetch.append(record(written(content), offset=3 * i))
        elements = content if isinstance(content, list) else [content]
        for j, element in enumerate(elements):
            if isinstance(element, MetricEvent):
                good.append((i, j, element))
            else:
                bad += 1

    decoded, rejected = decode(fetch)

    assert [*zip(decoded.record.tolist(), decoded.element.tolist(), decoded.stream_ids(), strict=True)] == [
        (i, j, event.stream_id) for i, j, event in good
    ]
    assert decoded.ts.tolist() == [event.ts for *_, event in good]
    expected = np.array([[getattr(e, m) for m in METRICS] for *_, e in good], float).reshape(-1, len(METRICS))
    np.testing.assert_array_equal(decoded.metrics, expected)
    assert len(rejected) == bad
    assert all(dead.value == event_bytes(dead.record, dead.element) for dead in rejected)


def written(content: MetricEvent | bytes | list | None) -> bytes | None:
    if isinstance(content, list):
        return b"[" + b",".join(e if isinstance(e, bytes) else msgspec.json.encode(e) for e in content) + b"]"
    return content if isinstance(content, bytes | None) else msgspec.json.encode(content)
