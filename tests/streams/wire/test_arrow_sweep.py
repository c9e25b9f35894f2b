"""An Arrow sweep is the same events as a JSON one; untrusted bytes cost what their size allows, no more."""

import json
from types import SimpleNamespace

import msgspec
import numba
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.faults.arrow_bombs import bombs, compressed_v4, shared_columns
from bench.faults.arrow_sweeps import fuzz
from streams.contract import EVENT_TIME_MS_MIN, METRICS
from streams.wire import arrow_rows
from streams.wire.arrow_messages import FIELDS_MAX, MESSAGES_MAX, ROWS_MAX, first_look
from streams.wire.arrow_sweep import CONTENT_TYPE, SCHEMA, encode
from streams.wire.decode import FUTURE_MS_MAX, REJECTED_MAX, decode, event_bytes
from streams.wire.events import parse
from tests.streams.strategies import METRIC_VALUES, T0, reading
from tests.streams.wire.test_scan import said_of_events

BOMBS = bombs()


def fetch(*contents: bytes, headers=(CONTENT_TYPE,)) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(offset=3 * i, timestamp=T0, key=b"leaf-1", value=value, headers=headers)
        for i, value in enumerate(contents)
    ]


def stream_of(table: pa.Table, *, rows_a_batch: int = 1_000, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return sink.getvalue().to_pybytes()


def columns(**changed) -> dict:
    return {
        "stream_id": ["leaf-1/1", "leaf-1/2"],
        "ts": pa.array([T0, T0], pa.int64()),
        "utilization": [1.0, 2.0],
    } | changed


EVENTS = st.builds(
    reading,
    st.integers(EVENT_TIME_MS_MIN, T0 + FUTURE_MS_MAX + 1),
    METRIC_VALUES,
    stream_id=st.sampled_from(["leaf-1/1", "a", "ü/2", "x" * 200]),
)
SWEEPS = st.lists(EVENTS, min_size=1, max_size=5)


@settings(deadline=None)
@given(st.lists(st.tuples(SWEEPS, st.booleans()), max_size=4))
def test_an_arrow_sweep_becomes_what_its_json_becomes(sweeps):
    as_json = [msgspec.json.encode(sweep) for sweep, _ in sweeps]
    mixed = [
        fetch(encode(sweep))[0] if is_arrow else fetch(value, headers=())[0]
        for (sweep, is_arrow), value in zip(sweeps, as_json, strict=True)
    ]
    decoded, rejected = decode(mixed)
    expected, expected_rejected = decode(fetch(*as_json, headers=()))

    assert said_of_events(decoded) == said_of_events(expected)
    # Their bytes are JSON of the row: the same event, if not the same bytes.
    assert [(r.element, r.reason, r.detail, msgspec.json.decode(r.value)) for r in rejected] == [
        (r.element, r.reason, r.detail, {"v": 1} | json.loads(r.value)) for r in expected_rejected
    ]


COLUMNS = st.fixed_dictionaries(
    {
        "stream_id": st.lists(st.sampled_from(["a/1", "ü", "", "x" * 201, "\t", None]), min_size=3, max_size=3),
        "ts": st.lists(
            st.sampled_from([EVENT_TIME_MS_MIN - 1, T0, -1, T0 + FUTURE_MS_MAX + 1, 1 << 60, None]),
            min_size=3,
            max_size=3,
        ),
        **{
            name: st.lists(
                st.none() | st.floats(width=32) | st.floats(0, 1, width=32) | st.just(0.0), min_size=3, max_size=3
            )
            for name in METRICS
        },
    }
)


@settings(deadline=None)
@given(COLUMNS, st.sets(st.sampled_from(METRICS)), st.booleans(), st.integers(1, 3))
def test_each_row_is_judged_as_its_json_would_be(fields, narrow, as_dictionary, rows_a_batch):
    arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in fields.items()}
    arrays |= {name: pa.array(fields[name], pa.float32()) for name in narrow}
    arrays["stream_id"] = arrays["stream_id"].dictionary_encode() if as_dictionary else arrays["stream_id"]
    (record,) = fetch(stream_of(pa.table(arrays), rows_a_batch=rows_a_batch))

    decoded, rejected = decode([record])

    if as_dictionary and decoded.ts.size == 0 and rejected[0].value == record.value:
        assert rejected[0].detail.startswith("ids of more than")
        return
    assert sorted([*decoded.element.tolist(), *(r.element for r in rejected)]) == [0, 1, 2]
    for row, stream_id, ts, metrics in zip(
        decoded.element, decoded.stream_ids(), decoded.ts, decoded.metrics, strict=True
    ):
        event = parse(event_bytes(record, row))
        assert (event.stream_id, event.ts) == (stream_id, ts)
        np.testing.assert_array_equal(
            metrics, [getattr(event, m) if getattr(event, m) is not None else np.nan for m in METRICS]
        )
    for dead in rejected:
        if dead.reason != "from_the_future":
            assert dead.reason == parse(dead.value)[0] or "null says missing" in dead.detail


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not_arrow"),
        (b'{"stream_id":"a/1","ts":1,"utilization":1}', "not_arrow"),
        (encode([reading(T0, {"utilization": 1.0})])[:-20], "not_arrow"),
        (encode([reading(T0, {"utilization": 1.0})]) + b"\0", "not_arrow"),
        (stream_of(pa.table(columns()), compression="lz4"), "not_arrow"),
        (stream_of(pa.table(columns()), compression="zstd"), "not_arrow"),
        (stream_of(pa.table(columns(ts=[1.0, 2.0]))), "wrong_type"),
        (stream_of(pa.table(columns(stream_id=[1, 2]))), "wrong_type"),
        (stream_of(pa.table(columns(utilization=[1, 2]))), "wrong_type"),
        (stream_of(pa.table({"ts": [T0], "utilization": [1.0]})), "wrong_type"),
        (stream_of(pa.table(columns()).slice(0, 0)), "empty_sweep"),
        (
            stream_of(pa.table({"stream_id": pa.DictionaryArray.from_arrays(np.zeros(ROWS_MAX, np.int8), ["x" * 9_999]),
                                "ts": pa.array(np.zeros(ROWS_MAX, np.int64))}), rows_a_batch=1 << 20),
            "out_of_range",
        ),
    ],
)  # fmt: skip
def test_what_is_no_arrow_sweep_is_one_dead_letter_whole(value, reason):
    decoded, (dead,) = decode(fetch(value))

    assert decoded.ts.size == 0
    assert (dead.element, dead.reason, dead.value) == (0, reason, value)


def test_more_rows_than_the_bound_are_refused_before_they_are_read():
    nothing = pa.table({"stream_id": pa.DictionaryArray.from_arrays(np.zeros(ROWS_MAX + 1, np.int8), ["a"]),
                        "ts": pa.array(np.zeros(ROWS_MAX + 1, np.int64))})  # fmt: skip

    assert arrow_rows.read(stream_of(nothing, rows_a_batch=1 << 20))[0] == "too_large"
    assert arrow_rows.read(stream_of(nothing, rows_a_batch=1_000))[0] == "too_large"


def test_other_columns_are_ignored_but_for_the_version():
    odd = pa.table(
        columns(v=[1, 2], note=["x", None], extra=[[1], []], view=pa.array(["x" * 20, ""], pa.string_view()))
    )

    decoded, (dead,) = decode(fetch(stream_of(odd)))

    assert decoded.stream_ids() == ["leaf-1/1"]
    assert (dead.element, dead.reason, json.loads(dead.value)["v"]) == (1, "unknown_version", 2)


USUAL = encode([reading(T0 + i, {"utilization": 1.0 * i, "latency_p99": None}, stream_id=f"l/{i}") for i in range(3)])


def test_nothing_is_compiled_anew_for_arrow():
    from_arrow, _ = decode(fetch(USUAL))
    from_json, _ = decode(fetch(msgspec.json.encode(reading(T0, {"utilization": 1.0})), headers=()))

    for ours, theirs in zip(from_arrow[1:], from_json[1:], strict=True):  # `StreamIds` sees to the bytes of ids
        assert numba.typeof(ours) == numba.typeof(theirs)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_arrow_sees_it(bomb, monkeypatch):
    monkeypatch.setattr(pa.ipc, "open_stream", lambda value: pytest.fail("Arrow was asked"))
    monkeypatch.setattr(pa.ipc, "read_schema", lambda value: pytest.fail("Arrow was asked"))

    assert arrow_rows.read(BOMBS[bomb])[0] in ("not_arrow", "too_large")


def test_arrow_itself_takes_the_bombs_that_are_refused():
    with pa.ipc.open_stream(compressed_v4(1 << 20)) as reader:
        assert reader.read_all().nbytes > 1 << 20
    with pa.ipc.open_stream(shared_columns(9, 9, 9)) as reader:
        assert len(reader.schema.field("x").type) == 9


@pytest.mark.parametrize("width", [15, 16])
def test_columns_count_as_often_as_they_are_named(width):
    # 3 columns of an event, 1 + width + width * width nested ones, and an entry of metadata
    fits = 3 + 1 + width + width * width + 1 <= FIELDS_MAX
    assert (first_look(shared_columns(width, width)) is None) == fits


def test_metadata_v4_is_read_as_c_sharp_wrote_it():
    value = stream_of(pa.table(columns()), metadata_version=pa.ipc.MetadataVersion.V4)

    assert decode(fetch(value))[0].stream_ids() == ["leaf-1/1", "leaf-1/2"]


def test_a_sweep_is_bounded_in_its_messages():
    with_rows = pa.table(columns()).slice(0, 1)
    batches = pa.concat_tables([with_rows] * MESSAGES_MAX)
    # The schema is a message, too.
    assert arrow_rows.read(stream_of(batches.slice(1), rows_a_batch=1)).num_rows == MESSAGES_MAX - 1
    assert arrow_rows.read(stream_of(batches, rows_a_batch=1))[0] == "too_large"


def test_what_a_refusal_says_is_bounded_too():
    wide = pa.struct([(f"{i}" * 100, pa.int64()) for i in range(200)])

    _, detail = arrow_rows.read(stream_of(pa.table(columns(utilization=pa.nulls(2, wide)))))

    assert len(detail) <= 200


def test_a_sweep_of_rows_that_are_none_is_one_dead_letter():
    rows = REJECTED_MAX + 2
    ids = pa.array(["leaf-1/1"] * rows)
    bad = pa.table(
        {"stream_id": ids, "ts": pa.array([T0] + [-1] * (rows - 1), pa.int64()), "utilization": [1.0] * rows}
    )
    few = bad.slice(0, 3)

    decoded, rejected = decode(fetch(stream_of(bad, rows_a_batch=rows), stream_of(few)))

    assert decoded.record.tolist() == [1]
    assert [(r.record.offset, r.element, r.reason) for r in rejected] == [
        (0, 0, "out_of_range"), (3, 1, "out_of_range"), (3, 2, "out_of_range"),
    ]  # fmt: skip
    assert rejected[0].value == stream_of(bad, rows_a_batch=rows)


def test_a_sweep_is_the_same_alone_and_behind_any_other():
    # A batch of a metadata version that nobody has written yet: the schema before it is as usual.
    odd = bytearray(USUAL)
    table = USUAL.index(b"\xff" * 4, 4) + 8
    table += int.from_bytes(odd[table : table + 4], "little")
    vtable = table - int.from_bytes(odd[table : table + 4], "little", signed=True)
    odd[table + int.from_bytes(odd[vtable + 4 : vtable + 6], "little")] = 99
    plain = stream_of(pa.table(columns()))

    _, (alone,) = decode(fetch(bytes(odd)))
    for before in (USUAL, plain, b"", BOMBS["shared columns"]):
        decoded, rejected = decode(fetch(before, bytes(odd), USUAL))

        assert (rejected[-1].reason, rejected[-1].detail) == (alone.reason, alone.detail)
        assert decoded.stream_ids()[-3:] == ["l/0", "l/1", "l/2"]


def test_mutated_sweeps_end_no_process_and_are_the_same_in_any_fetch():
    found = fuzz(seed=20_261_130, seconds=120, rounds_max=60)

    assert found.broken == []
    assert found.rounds == 60
    assert found.sweeps_read > 60  # or Arrow refused all there was
