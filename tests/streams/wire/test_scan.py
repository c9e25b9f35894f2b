"""The scanner and msgspec over the same bytes: the same events bit for bit, the same dead letters in the same order."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.contract import EVENT_TIME_MS_MIN, METRICS
from streams.wire import decode as decoding
from streams.wire.decode import FUTURE_MS_MAX, Decoded, decode
from tests.streams.oracle import decoded_by_msgspec, said_of
from tests.streams.strategies import T0

EVENT = b'{"stream_id":"a/1","ts":%d,"utilization":1}' % T0

DIGITS = st.integers(0, 10**19).map(str)
NUMBERS = st.one_of(
    st.floats(0, 100).map(repr),
    st.floats(0, 1).map(repr),
    st.floats(0, 1e13).map(repr),
    st.floats(0, 1e13).map("{:.3f}".format),
    st.integers(0, 101).map(str),
    DIGITS,
    st.tuples(DIGITS, DIGITS).map(".".join),
    st.builds("{}{}{}{}".format, DIGITS, st.sampled_from("eE"), st.sampled_from(["", "+", "-"]), st.integers(0, 40)),
    st.builds("{}.{}e-{}".format, st.integers(0, 9), DIGITS, st.integers(0, 400)),
    st.sampled_from(["0", "-0", "-0.0", "00", "01", "1.", ".5", "1e", "1e+", "1.e5", "+1", "1e5", "0e9", "1_0", "0x1"]),
    st.sampled_from(["1e400", "1e-400", "1e22", "1e23", "1e12", "1000000000000.0001", "100.00000000000001", "NaN"]),
    st.sampled_from(["9007199254740992", "9007199254740993", "5e-324", "2.2250738585072011e-308", "Infinity"]),
)
SPACE = st.sampled_from(["", "", "", "", " ", "\n", "\t\r ", "\f", "\u00a0", "\0"])
ODD = st.sampled_from(["null", "nul", "nullx", "true", '"1"', "[]", "{}", '{"a":1}', "", "1 2"])
IDS = st.sampled_from(
    ["leaf-1/1", "leaf-1/2", "a", "x" * 200, "x" * 201, "", "ü/1", "\\u0041/1", '\\"', "a\tb", "a\x7f"]
)
TIMES = st.one_of(
    st.sampled_from([T0, EVENT_TIME_MS_MIN, T0 + FUTURE_MS_MAX, T0 + FUTURE_MS_MAX + 1]).map(str),
    st.sampled_from(["0", "946684799999", "4102444800000", "4102444800001", "99999999999999"]),
    st.sampled_from(["00", "01", "1.0", "1e3", "-1", '"5"', "5x", "1_0"]),
)
KEYS = st.sampled_from([*METRICS, *METRICS, "v", "ts", "stream_id", "extra", "unknown", "TS", "utilizatio", "\\u0076"])


@st.composite
def texts(draw: st.DrawFn) -> str:
    """The JSON of an event, or nearly."""
    fields = draw(
        st.lists(
            st.tuples(st.sampled_from(METRICS), NUMBERS | st.just("null")),
            max_size=len(METRICS),
            unique_by=lambda f: f[0],
        )
    )
    fields += [("stream_id", f'"{draw(IDS)}"'), ("ts", draw(TIMES))]
    fields += draw(st.just([("v", "1")]) | st.lists(st.tuples(KEYS, NUMBERS | ODD | TIMES), max_size=1))
    fields = draw(st.permutations(fields))
    space = draw(st.lists(SPACE, min_size=3, max_size=3)) if draw(st.booleans()) else ["", "", ""]
    inside = f"{space[0]},{space[1]}".join(f'"{key}"{space[2]}:{space[1]}{value}' for key, value in fields)
    return f"{space[2]}{{{inside}{space[0]}}}{space[1]}"


@st.composite
def values(draw: st.DrawFn) -> bytes:
    """The value of a record: an event, a sweep or something near it, now and then with a few bytes changed."""
    sweep = draw(st.lists(texts(), max_size=3))
    value = (sweep[0] if sweep and draw(st.booleans()) else "[" + ",".join(sweep) + "]").encode()
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(value)))
        value = value[:at] + bytes([draw(st.integers(0, 255))]) + value[at + draw(st.integers(0, 1)) :]
    return value


def fetch(contents: list[bytes]) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(offset=7 * i, timestamp=T0 + i, key=b"leaf-1", value=value, headers=())
        for i, value in enumerate(contents)
    ]


def said_of_events(decoded: Decoded) -> list[tuple]:
    bits = np.ascontiguousarray(decoded.metrics).view(np.uint64).tolist()
    columns = (decoded.record, decoded.element, decoded.ts, decoded.seen)
    places = zip(*(column.tolist() for column in columns), decoded.stream_ids(), bits, strict=True)
    return [(i, j, stream_id, ts, seen, *metrics) for i, j, ts, seen, stream_id, metrics in places]


@settings(deadline=None, max_examples=400)
@given(st.lists(values(), max_size=4))
@example([EVENT, b"[" + EVENT + b","])
@example([EVENT.replace(b":1700", b":01700"), EVENT[:-1] + b',"v":1.0}'])
@example([EVENT[:-1] + b',"error_rate":1,"utilization":null}', EVENT + b" 7"])
@example([b"[" + EVENT + b",]", EVENT[:-1] + b",}"])
def test_scanner_and_fallback_give_what_msgspec_gives(contents):
    decoded, rejected = decode(fetch(contents))

    assert (said_of_events(decoded), said_of(rejected)) == decoded_by_msgspec(fetch(contents))


@settings(deadline=None, max_examples=1_000)
@given(NUMBERS)
def test_a_number_has_the_bits_that_msgspec_gives_it(number):
    contents = [EVENT.replace(b'"utilization":1', b'"bandwidth_gbps":' + number.encode())]

    decoded, rejected = decode(fetch(contents))

    assert (said_of_events(decoded), said_of(rejected)) == decoded_by_msgspec(fetch(contents))


USUAL = [
    b'{"v":1,"stream_id":"leaf-012/17","ts":1699999999999,"utilization":42.0,"error_rate":1e-06,"latency_p99":null}',
    b'{ "stream_id": "l/1" ,\r\n\t"ts": 946684800000, "qp_errors": 3 }\n',
    b'{"stream_id":"l","ts":946684800001,"bandwidth_gbps":1000000000000,"mr_failures":0.125,"latency_p99":12.5E1}',
    b'{"ts":946684800001,"stream_id":"l","symbol_errors":6,"recoveries":0.5,"link_downed":0,"remote_errors":1e3}',
    b'{"ts":946684800001,"stream_id":"l","discards":null,"stall":0.25}',
    b' [ {"ts":946684800005,"stream_id":"l","utilization":0} , {"ts":946684800006,"stream_id":"l","qp_errors":1.0} ] ',
    b'{"stream_id":"l/3","ts":946684800007,"utilization":33.333333333333336,"error_rate":0.1234567890123456}',
]


@pytest.mark.parametrize("value", USUAL)
def test_the_usual_forms_need_no_object_per_event(value, monkeypatch):
    monkeypatch.setattr(decoding, "decode_events", lambda value: pytest.fail(f"left by the scanner: {value!r}"))

    decoded, rejected = decode(fetch([value]))

    expected = msgspec.json.decode(value)
    assert decoded.ts.tolist() == [e["ts"] for e in (expected if isinstance(expected, list) else [expected])]
    assert rejected == []
