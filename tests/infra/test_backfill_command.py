"""`linkcast backfill`: a whole file or one clear line."""

import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from infra.command import main
from offline.backfill import SCHEMA, backfill_events
from streams.contract import FEATURES, MetricEvent

HOUR_MS = 3_600_000


def event(ts: int, stream_id: str = "leaf-1/1") -> MetricEvent:
    return MetricEvent(stream_id=stream_id, ts=ts, utilization=50.0, bandwidth_gbps=100.0)


EVENTS = [event(1_760_000_000_000 + i * 10_000, f"leaf-1/{i % 3}") for i in range(300)]


@pytest.fixture
def recording(tmp_path) -> Path:
    return written(tmp_path / "events.jsonl", EVENTS)


def written(path: Path, events: list[MetricEvent]) -> Path:
    path.write_bytes(msgspec.json.Encoder().encode_lines(events))
    return path


def run(*arguments):
    return CliRunner().invoke(main, ["backfill", *map(str, arguments)])


def one_line_of(result) -> str:
    """The only line a failed run says, having left nothing on stdout and no exception but the exit."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_the_rows_are_those_of_the_kernel(recording, tmp_path):
    result = run(recording, "--out", tmp_path / "features.parquet")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"rows": 300, "late": 0, "repeats": 0, "too_late": 0, "rejected": 0}
    table = pq.read_table(tmp_path / "features.parquet")
    assert table.schema.equals(SCHEMA)
    expected = backfill_events(EVENTS).features
    for i, name in enumerate(FEATURES):
        assert table[name].to_numpy().tobytes() == expected[:, i].tobytes()


def test_hours_are_those_of_the_time_zone_across_a_change_of_its_clocks(tmp_path):
    # Berlin, 2026-10-25: 3:00 summer time becomes 2:00 at 01:00 UTC, so that hour 2 comes twice.
    start_ms = int(datetime(2026, 10, 24, 23, tzinfo=UTC).timestamp() * 1_000)
    recording = written(tmp_path / "night.jsonl", [event(start_ms + i * HOUR_MS) for i in range(5)])

    assert run(recording, "--out", tmp_path / "berlin.parquet", "--time-zone", "Europe/Berlin").exit_code == 0
    assert run(recording, "--out", tmp_path / "utc.parquet").exit_code == 0

    berlin, utc = (pq.read_table(tmp_path / f"{zone}.parquet") for zone in ("berlin", "utc"))
    assert berlin["hour"].to_pylist() == [1, 2, 2, 3, 4]
    assert utc["hour"].to_pylist() == [23, 0, 1, 2, 3]
    assert berlin["day_of_week"].to_pylist() == [6] * 5
    assert utc["day_of_week"].to_pylist() == [5, 6, 6, 6, 6]


def test_bad_lines_are_named_and_the_rest_goes_on(recording, tmp_path):
    recording.write_bytes(b"{\n" + recording.read_bytes())

    result = run(recording, "--out", tmp_path / "out.parquet")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["rejected"] == 1
    assert f"{recording}:1: not_json" in result.stderr


@pytest.mark.parametrize(
    ("lines", "says"),
    [(b"nonsense\n" * 3, "none of the 3 lines is an event"), (b"", "none of the 0 lines is an event")],
)
def test_where_no_line_is_an_event_the_older_output_stays(tmp_path, lines, says):
    (tmp_path / "bad.jsonl").write_bytes(lines)
    (tmp_path / "out.parquet").write_bytes(b"older")

    line = one_line_of(run(tmp_path / "bad.jsonl", "--out", tmp_path / "out.parquet"))

    assert says in line
    assert ("bad.jsonl:1: not_json" in line) == bool(lines)
    assert (tmp_path / "out.parquet").read_bytes() == b"older"
    assert {path.name for path in tmp_path.iterdir()} == {"bad.jsonl", "out.parquet"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("absent.jsonl", None, "No such file"),
        ("cut.jsonl.gz", b"\x1f\x8b\x08\x00", "ended before"),
        ("damaged.parquet", b"PAR1 and nothing else PAR1", "damaged.parquet"),
        ("photo.png", b"", "name it .jsonl"),
    ],
)
def test_an_input_that_is_none_is_one_line_and_no_output(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)

    line = one_line_of(run(tmp_path / name, "--out", tmp_path / "out.parquet"))

    assert says in line
    assert [path.name for path in tmp_path.iterdir() if path.name != name] == []


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("no/such/out.parquet", "No such file or directory"),
        ("events.jsonl/out.parquet", "Not a directory"),
        ("/dev/null", "a device"),
        (f"{'x' * 250}.parquet", "File name too long"),
    ],
)
def test_an_output_that_can_not_be_written_is_one_line(recording, tmp_path, out, says):
    line = one_line_of(run(recording, "--out", tmp_path / out))

    assert says in line
    assert list(tmp_path.iterdir()) == [recording]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(recording, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)

    assert "Permission denied" in one_line_of(run(recording, "--out", tmp_path / "locked" / "out.parquet"))


def test_a_disk_without_room_is_one_line_and_leaves_nothing_behind(recording, tmp_path):
    # A limit on the size of a file is the full disk that needs no root.
    command = "from infra.command import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", command, "backfill", recording, "--out", tmp_path / "out.parquet"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY)),
    )

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "out.parquet: File too large: name a place" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == [recording]


@pytest.mark.parametrize(("option", "says"), [(("--time-zone", "Mars/Base"), "Mars/Base")])
def test_a_time_zone_that_is_none_is_one_line(recording, tmp_path, option, says):
    assert says in one_line_of(run(recording, "--out", tmp_path / "out.parquet", *option))
