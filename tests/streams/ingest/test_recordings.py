"""Recordings: every kind of file gives the same columns, and what is bad is named by its line."""

import gzip
import io
import json
import sys
from decimal import Decimal

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from streams.contract import EVENT_TIME_MS_MIN, METRICS, MetricEvent
from streams.ingest import recordings
from streams.ingest.recordings import lines as text
from streams.wire.events import METRIC_MAX, parse

T = 1_760_000_000_000
GOOD = b'{"stream_id":"leaf-1/1","ts":1760000000000,"utilization":5.0}'

NUMBERS = st.none() | st.floats(0, 1)
EVENTS = st.builds(
    MetricEvent,
    stream_id=st.from_regex(r"leaf-[0-3]/[0-3]", fullmatch=True),
    ts=st.integers(EVENT_TIME_MS_MIN, T),
    utilization=st.floats(0, 100),
    **{name: NUMBERS for name in METRICS if name != "utilization"},
    extra=st.none() | st.dictionaries(st.sampled_from(["stall", "ber"]), st.floats(0, 1), min_size=1),
)


def read_all(path) -> tuple[list[MetricEvent], list[recordings.BadLine]]:
    chunks = list(recordings.read([str(path)]))
    return [event for chunk in chunks for event in chunk.events()], [bad for chunk in chunks for bad in chunk.bad]


def reasons(bad) -> list[tuple[int, int | None, str]]:
    return [(line.line, line.element, line.reason) for line in bad]


@settings(max_examples=30, deadline=None)
@given(events=st.lists(EVENTS, max_size=30), sweep=st.integers(1, 5))
def test_events_survive_json_lines_alone_and_in_sweeps(tmp_path_factory, events, sweep):
    folder = tmp_path_factory.mktemp("json")
    (folder / "alone.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in events))
    sweeps = [events[i : i + sweep] for i in range(0, len(events), sweep)]
    (folder / "sweeps.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, sweeps)))

    assert read_all(folder / "alone.jsonl") == (events, [])
    assert read_all(folder / "sweeps.jsonl") == (events, [])


@settings(max_examples=30, deadline=None)
@given(events=st.lists(EVENTS, min_size=1, max_size=30))
def test_csv_and_parquet_give_the_columns_of_json_lines(tmp_path_factory, events):
    folder = tmp_path_factory.mktemp("tables")
    names = ["stream_id", "ts", *METRICS]
    rows = [[getattr(event, name) for name in names] for event in events]
    text = [",".join("" if cell is None else str(cell) for cell in row) for row in [names, *rows]]
    (folder / "a.csv").write_text("\n".join(text) + "\n")
    parquet.write_table(pa.table({name: [getattr(e, name) for e in events] for name in names}), folder / "a.parquet")
    (folder / "a.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in events))

    [json_lines], [csv], [table] = (
        list(recordings.read([str(folder / f"a.{k}")])) for k in ("jsonl", "csv", "parquet")
    )

    for chunk in (csv, table):
        assert chunk.bad == []
        assert chunk.names == json_lines.names
        np.testing.assert_array_equal(chunk.streams, json_lines.streams)
        np.testing.assert_array_equal(chunk.ts, json_lines.ts)
        np.testing.assert_array_equal(chunk.metrics, json_lines.metrics)


@settings(max_examples=30, deadline=None)
@given(
    lines=st.lists(
        st.sampled_from(
            [
                GOOD,
                b"[" + GOOD + b"," + GOOD + b"]",
                b"",
                b"{",
                b"[]",
                b"[[]]",
                b'{"v":2}',
                b'{"stream_id":"a/1","ts":1}',
            ]
        )
        | st.binary(max_size=20).filter(lambda line: b"\n" not in line)
    )
)
def test_one_bad_line_changes_nothing_for_the_others(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("bad") / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    line_by_line = []
    for line in lines:
        alone = path.with_name("line.jsonl")
        alone.write_bytes(line)
        line_by_line += read_all(alone)[0]

    events, bad = read_all(path)

    assert events == line_by_line
    assert all(lines[b.line - 1].strip() for b in bad)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"nonsense", (2, None, "not_json")),
        (b'{"stream_id":"a\xff/1","ts":1,"utilization":1}', (2, None, "not_json")),
        (b'{"stream_id":"a/1","ts":1,"x":' + b"[" * 5_000, (2, None, "too_deep")),
        (b'{"stream_id":"a/1","utilization":1}', (2, None, "wrong_type")),
        (b'{"stream_id":"a/1","ts":1,"utilization":"1"}', (2, None, "wrong_type")),
        (b'{"v":2,"stream_id":"a/1","ts":1,"utilization":1}', (2, None, "unknown_version")),
        (b'{"stream_id":"a/1","ts":1,"utilization":100.1}', (2, None, "out_of_range")),
        (b'{"stream_id":"a\\t/1","ts":1,"utilization":1}', (2, None, "out_of_range")),
        (b'{"stream_id":"a/1","ts":946684800000,"utilization":null}', (2, None, "no_metric")),
        (b"[]", (2, None, "empty_sweep")),
        (b"[" + GOOD + b',{"ts":1}]', (2, 1, "wrong_type")),
        (b"[" + GOOD, (2, None, "not_json")),
    ],
)
def test_a_bad_line_is_reported_with_its_place_and_reason(tmp_path, line, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([GOOD, line, GOOD]) + b"\n\n")

    events, bad = read_all(path)

    assert reasons(bad) == [expected]
    assert len(events) == 2 + (expected[1] is not None)
    assert str(bad[0]).startswith(f"{path}:2")


def test_csv_cells_are_numbers_and_empty_is_missing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(
        "\ufeffrack,ts,stream_id,utilization,qp_errors\r\n"
        '7,1760000000000,"leaf-1/1",5,\r\n'
        "7,1760000000000,leaf-1/1,101,\n"
        "7,soon,leaf-1/1,5,\n"
        "7,1760000000000,leaf-1/1\n"
        '7,1760000000000,"leaf-1/1,5,\n'
        "7,1760000000000,leaf-1/1,,\n"
        "7,1760000000000,leaf-1/2,,inf\n"
        "7,1760000000000,leaf-1/2,,2\n",
        encoding="utf-8",
    )

    events, bad = read_all(path)

    assert events == [
        MetricEvent(stream_id="leaf-1/1", ts=T, utilization=5.0),
        MetricEvent(stream_id="leaf-1/2", ts=T, qp_errors=2.0),
    ]
    assert [(line, reason) for line, _, reason in reasons(bad)] == [
        (3, "out_of_range"),
        (4, "wrong_type"),
        (5, "wrong_type"),
        (6, "wrong_type"),
        (7, "no_metric"),
        (8, "wrong_type"),
    ]


def test_parquet_takes_timestamps_and_names_bad_rows(tmp_path):
    path = tmp_path / "a.parquet"
    ms = [T, None, T, T, T, T]
    table = pa.table(
        {
            "ts": pa.array(ms, pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC")),
            "stream_id": pa.array(["a/1", "a/1", None, "a/1", "a/2", "\t"]).dictionary_encode(),
            "utilization": pa.array([float("nan"), 1, 1, float("inf"), 1, 1], pa.float32()),
            "qp_errors": pa.array([1, None, None, None, None, None], pa.int64()),
            "colour": ["red"] * 6,
        }
    )
    parquet.write_table(table, path)

    events, bad = read_all(path)

    assert events == [
        MetricEvent(stream_id="a/1", ts=T, qp_errors=1.0),
        MetricEvent(stream_id="a/2", ts=T, utilization=1.0),
    ]
    assert [(line, reason) for line, _, reason in reasons(bad)] == [
        (2, "wrong_type"),
        (3, "wrong_type"),
        (4, "out_of_range"),
        (6, "out_of_range"),
    ]


def test_a_time_in_seconds_is_refused_in_every_kind_of_file(tmp_path):
    table = pa.table({"stream_id": ["a/1", "a/1"], "ts": [T // 1000, T], "utilization": [1.0, 1.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in table.to_pylist()))

    for name in ("a.parquet", "a.csv", "a.jsonl"):
        (event,), (bad,) = read_all(tmp_path / name)

        assert event.ts == T
        assert (bad.reason, bad.detail.partition(": ")[2]) == ("out_of_range", "send milliseconds, not seconds")


BIG, UNTEXT = 2**64 - 1, pa.array([b"a/1", b"a\xff", b"a/3"]).view(pa.string())


@pytest.mark.parametrize(
    ("column", "cells", "reason"),
    [
        ("qp_errors", pa.array([0, BIG, 0], pa.uint64()), "out_of_range"),
        ("qp_errors", pa.array([0, 2**53 + 1, None]), "out_of_range"),
        ("utilization", pa.array(["40", "N/A", None]), "wrong_type"),
        ("utilization", pa.array(["40", "", "41.5"]).dictionary_encode(), "wrong_type"),
        ("utilization", pa.array([b"40", b"\xff", b"41"]).view(pa.string()), "wrong_type"),
        ("ts", pa.array([T, T + 0.5, T]), "wrong_type"),
        ("ts", pa.array([T, float("inf"), T]), "wrong_type"),
        ("ts", pa.array([T, BIG, T], pa.uint64()), "out_of_range"),
        ("ts", pa.array([Decimal(T), Decimal("1.5"), Decimal(T)]), "wrong_type"),
        ("stream_id", UNTEXT, "wrong_type"),
        ("stream_id", UNTEXT.view(pa.binary()), "wrong_type"),
        ("v", pa.array(["1", "one", None]), "unknown_version"),
    ],
)
def test_one_bad_cell_of_parquet_costs_its_row_alone_and_is_named(tmp_path, column, cells, reason):
    path = tmp_path / "a.parquet"
    columns = {"v": [1] * 3, "stream_id": ["a/1"] * 3, "ts": [T] * 3, "latency_p99": [2.0] * 3}
    parquet.write_table(pa.table(columns | {column: cells}), path)

    events, bad = read_all(path)

    assert reasons(bad) == [(2, None, reason)]
    assert len(events) == 2
    assert {"v": "version"}.get(column, column) in bad[0].detail


def test_a_bad_cell_amid_a_chunk_is_named_by_its_row(tmp_path):
    path = tmp_path / "a.parquet"
    qp_errors = pa.array([1] * 1_000 + [BIG] + [1] * 3_000, pa.uint64())
    parquet.write_table(pa.table({"stream_id": ["a/1"] * 4_001, "ts": [T] * 4_001, "qp_errors": qp_errors}), path)

    events, bad = read_all(path)

    assert reasons(bad) == [(1_001, None, "out_of_range")]
    assert len(events) == 4_000


def test_a_column_of_another_kind_is_refused_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"stream_id": ["a/1"], "ts": [T], "utilization": [[1.0]]}), path)

    with pytest.raises(recordings.RecordingUnreadable, match=r"a\.parquet: column utilization: .*list"):
        read_all(path)


def write_parquet(path, names, row):
    parquet.write_table(pa.table([[cell] for cell in row], names=names), path)


def write_csv(path, names, row):
    path.write_text("\n".join(",".join(map(str, line)) for line in (names, row)))


@pytest.mark.parametrize(("suffix", "write"), [("parquet", write_parquet), ("csv", write_csv)])
@pytest.mark.parametrize("twice", ["ts", "stream_id", "utilization"])
def test_a_column_of_an_event_that_is_there_twice_is_refused_by_name(tmp_path, suffix, write, twice):
    row = {"stream_id": "a/1", "ts": T, "utilization": 1.0}
    path = tmp_path / f"a.{suffix}"
    write(path, [*row, twice], [*row.values(), row[twice]])

    with pytest.raises(recordings.RecordingUnreadable, match=rf"a\.{suffix}: .* name {twice} twice"):
        read_all(path)


@pytest.mark.parametrize(("suffix", "write"), [("parquet", write_parquet), ("csv", write_csv)])
def test_a_column_that_is_not_read_may_be_there_twice(tmp_path, suffix, write):
    path = tmp_path / f"a.{suffix}"
    write(path, ["rack", "stream_id", "ts", "utilization", "rack"], [7, "a/1", T, 1.0, 8])

    assert read_all(path) == ([MetricEvent(stream_id="a/1", ts=T, utilization=1.0)], [])


def test_the_bounds_of_parquet_are_those_of_the_contract():
    for name, bound in zip(METRICS, METRIC_MAX.tolist(), strict=True):
        event = {"stream_id": "a/1", "ts": EVENT_TIME_MS_MIN}
        assert isinstance(parse(json.dumps(event | {name: bound}).encode()), MetricEvent)
        for beyond in (np.nextafter(bound, np.inf), -1e-300):
            assert parse(json.dumps(event | {name: beyond}).encode())[0] == "out_of_range"


def test_blocks_cut_lines_anywhere(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(GOOD.replace(b"leaf-1/1", b"leaf-%d/1" % i) + b"\n" for i in range(50)) + b"{")
    whole = read_all(path)

    monkeypatch.setattr(text, "BLOCK_BYTES", 100)

    assert read_all(path) == whole
    assert reasons(whole[1]) == [(51, None, "not_json")]


def test_several_recordings_share_their_names(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(GOOD.replace(b"leaf-1/1", b"leaf-2/1") + b"\n" + GOOD + b"\n")

    a, b = recordings.read([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])

    assert a.names is b.names
    assert b.names == ["leaf-1/1", "leaf-2/1"]
    assert b.streams.tolist() == [1, 0]


def zst(text: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(text)


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zst)])
def test_a_byte_order_mark_hides_no_event(tmp_path, suffix, pack):
    mark = b"\xef\xbb\xbf"
    rows = b"stream_id,ts,utilization\nleaf-1/1,1760000000000,5\n"
    (tmp_path / f"a.jsonl{suffix}").write_bytes(pack(mark + GOOD + b"\n" + mark + GOOD + b"\n[" + GOOD + b"]\n"))
    (tmp_path / f"a.csv{suffix}").write_bytes(pack(mark + rows + mark + rows.splitlines()[1]))

    events = [MetricEvent(stream_id="leaf-1/1", ts=T, utilization=5.0)]
    assert read_all(tmp_path / f"a.jsonl{suffix}") == (events * 3, [])
    assert read_all(tmp_path / f"a.csv{suffix}") == (events * 2, [])


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_packed_recordings_read_like_plain_ones_frame_after_frame(tmp_path, suffix, pack):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(GOOD + b"\n") + pack(GOOD + b"\n"))

    assert len(read_all(path)[0]) == 2


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zst)])
@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: b"xxxx" + packed[4:]])
def test_a_damaged_packed_recording_is_an_error_and_no_silent_end(tmp_path, suffix, pack, damage):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(damage(pack((GOOD + b"\n") * 1_000)))

    with pytest.raises(recordings.RecordingUnreadable, match=r"a\.jsonl"):
        read_all(path)


def test_standard_input_is_json_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(GOOD))))

    assert len(read_all("-")[0]) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "name it"),
        ("a.csv", b"time,util\n", "stream_id, ts and a metric"),
        ("a.parquet", b"PAR1", "a.parquet"),
        ("a.jsonl", b"x" * (text.LINE_BYTES_MAX + text.BLOCK_BYTES), "one event a line"),
        (".", None, "directory|name it"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_its_path(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(recordings.RecordingUnreadable, match=says):
        read_all(tmp_path / name)


def test_a_file_that_is_not_there_and_one_without_columns_are_refused(tmp_path):
    parquet.write_table(pa.table({"ts": [1]}), tmp_path / "b.parquet")

    with pytest.raises(recordings.RecordingUnreadable, match="No such file"):
        read_all(tmp_path / "a.jsonl")
    with pytest.raises(recordings.RecordingUnreadable, match="have to name stream_id, ts and a metric"):
        read_all(tmp_path / "b.parquet")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_file_has_no_events(tmp_path, suffix):
    (tmp_path / f"a.{suffix}").touch()

    assert read_all(tmp_path / f"a.{suffix}") == ([], [])
