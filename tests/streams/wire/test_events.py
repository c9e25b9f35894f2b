"""What an event is: the quick way and the slow way agree, and each refusal has its reason."""

import json

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.contract import METRICS, MetricEvent
from streams.wire.events import decode_events, elements_of, flaw, metrics_of, parse

ODD = (
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | st.text(max_size=3) | st.lists(st.none(), max_size=1)
)
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | ODD,
        "stream_id": st.sampled_from(["leaf/1", "ü" * 101, "x" * 201, "\t", ""]) | ODD,
        "ts": st.sampled_from([0, 946_684_799_999, 946_684_800_000, 4_102_444_800_000, 4_102_444_800_001]) | ODD,
        "extra": st.dictionaries(st.text(max_size=2), ODD, max_size=2) | ODD,
        "unknown": ODD,
        **{name: st.floats(0, 1) | ODD for name in METRICS},
    },
)
VALUES = st.binary(max_size=40) | NEARLY.map(lambda fields: json.dumps(fields).encode())


@given(value=VALUES)
@example(value=b'{"stream_id":"leaf/1","ts":946684800000,"utilization":1,"v":1.0}')
def test_the_slow_way_takes_what_the_quick_way_takes(value):
    try:
        quick = decode_events(value)
    except ValueError:
        quick = None
    slow = parse(value)

    if isinstance(quick, MetricEvent):
        assert slow == (flaw(quick) or quick)
    else:
        assert not isinstance(slow, MetricEvent)


@given(values=st.lists(NEARLY.map(msgspec.json.encode), max_size=4))
def test_a_sweep_comes_apart_into_the_bytes_of_its_events(values):
    assert elements_of(b"[" + b", ".join(values) + b"]") == values


@pytest.mark.parametrize("value", [b"", b"{}", b"1", b"[", b"[1", b"\xff", b"[" * 5_000])
def test_what_is_no_array_has_no_elements(value):
    assert elements_of(value) is None


def test_metrics_are_in_the_order_of_the_contract_and_missing_is_nan():
    event = msgspec.convert(
        {"stream_id": "a/1", "ts": 946_684_800_000} | {m: i / 20 for i, m in enumerate(METRICS)}, MetricEvent
    )
    bare = MetricEvent(stream_id="a/1", ts=946_684_800_000)

    assert metrics_of([event])[0].tolist() == [i / 20 for i in range(len(METRICS))]
    assert np.isnan(metrics_of([bare])).all()
    assert metrics_of([]).shape == (0, len(METRICS))
