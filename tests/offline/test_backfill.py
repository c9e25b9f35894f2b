"""Backfilled files: several recordings are one history; bad lines are counted, and few of them kept."""

import msgspec
import pyarrow.parquet as pq
import pytest

from offline import backfill
from offline.backfill import BackfillFailed, backfill_files
from streams.contract import FEATURES, MetricEvent

T = 1_760_000_000_000


def lines(events: list[MetricEvent]) -> bytes:
    return msgspec.json.Encoder().encode_lines(events)


def test_two_files_are_one_history(tmp_path):
    events = [MetricEvent(stream_id=f"a/{i % 2}", ts=T + i * 60_000, utilization=i % 90) for i in range(200)]
    for name, part in (("whole", events), ("first", events[:77]), ("second", events[77:])):
        (tmp_path / f"{name}.jsonl").write_bytes(lines(part))

    backfill_files([str(tmp_path / "whole.jsonl")], tmp_path / "whole.parquet")
    backfill_files([str(tmp_path / "first.jsonl"), str(tmp_path / "second.jsonl")], tmp_path / "parts.parquet")

    whole, parts = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert whole.num_rows == 200
    for name in FEATURES:  # as bytes: NaN differs from itself
        assert whole[name].to_numpy().tobytes() == parts[name].to_numpy().tobytes()
    assert whole.drop_columns(FEATURES).equals(parts.drop_columns(FEATURES))


def test_bad_lines_are_counted_and_the_first_of_them_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(backfill, "BAD_KEPT", 3)
    good = lines([MetricEvent(stream_id="a/1", ts=T, utilization=1.0)])
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(b"{\n{\n" + good)

    summary = backfill_files([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], tmp_path / "out.parquet")

    assert summary.became == {"rows": 1, "late": 0, "repeats": 1, "too_late": 0, "rejected": 4}
    assert [(bad.path[-7:], bad.line) for bad in summary.bad] == [("a.jsonl", 1), ("a.jsonl", 2), ("b.jsonl", 1)]


def test_progress_tells_the_events_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        lines([MetricEvent(stream_id="a/1", ts=T + i, utilization=1.0) for i in range(9)])
    )
    told: list[int] = []

    backfill_files([str(tmp_path / "a.jsonl")], tmp_path / "out.parquet", progress=told.append)

    assert told == [9]


def test_an_output_that_is_a_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(BackfillFailed, match="a folder"):
        backfill_files([str(tmp_path / "absent.jsonl")], tmp_path)
