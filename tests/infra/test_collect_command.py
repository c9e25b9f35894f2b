import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from infra.command import main
from streams.contract import MetricEvent
from streams.ingest.sources import collect

DATA = Path(collect.__file__).with_name("samples")
EVENTS = msgspec.json.Decoder(MetricEvent)


@pytest.fixture
def tree(tmp_path):
    counters = tmp_path / "ib" / "mlx5_0" / "ports" / "1" / "counters"
    counters.mkdir(parents=True)
    for name in ("port_xmit_data", "port_rcv_data"):
        (counters / name).write_text("7\n")
    (counters.parent / "rate").write_text("400 Gb/sec (4X NDR)\n")
    return tmp_path / "ib"


def run(*args):
    return CliRunner().invoke(main, ["collect", *map(str, args)])


def events_of(text):
    return [EVENTS.decode(line) for line in text.splitlines()]


def test_count_samples_make_count_events_a_port(tree, tmp_path):
    out = tmp_path / "events.jsonl"

    result = run("sysfs", "--root", tree, "--every", "20ms", "--count", 3, "--host", "gpu7", "--out", out)

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"samples": 3, "events": 3, "without_metric": 0}
    events = events_of(out.read_bytes())
    assert [(e.stream_id, e.bandwidth_gbps, e.utilization) for e in events] == [("gpu7/mlx5_0:1", 0, 0)] * 3
    assert events[0].ts < events[1].ts < events[2].ts


def test_nothing_read_is_one_line_and_a_failure(tmp_path):
    result = run("sysfs", "--root", tmp_path / "nowhere", "--out", "-")

    assert result.exit_code == 1
    assert "no port could be read" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("source", "pattern", "ports"),
    [("perfquery", "treydock/perfquery*.out", 4), ("prometheus", "*.prom", 3), ("ufm", "ufm-*.json", 6)],
)
def test_each_file_source_gives_an_event_a_port_of_its_fixture(source, pattern, ports):
    result = run(source, *sorted(DATA.glob(pattern)), "--out", "-")

    assert result.exit_code == 0, result.output
    assert len(events_of(result.stdout)) == ports


def test_events_without_a_metric_come_with_the_reason(tmp_path, caplog):
    (tmp_path / "old.out").write_text("# Port counters: Lid 8 port 2\nRcvErrors:....500\n")

    result = run("perfquery", tmp_path / "old.out", "--out", "-")

    assert "1 events had no metric" in result.stderr
    assert "no counter's name is known: 'RcvErrors'" in caplog.text  # which the command has on stderr


@pytest.mark.parametrize("every", ["0s", "10", "-1s", "1h", "nan", "2d"])
def test_a_period_that_is_none_is_refused(tree, every):
    assert run("sysfs", "--root", tree, "--every", every, "--out", "-").exit_code == 2


def test_a_file_that_can_not_be_written_is_one_line(tree, tmp_path):
    result = run("sysfs", "--root", tree, "--out", tmp_path / "no" / "such.jsonl")

    assert result.exit_code == 1
    assert "name another file with --out" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_after_the_sample_under_way(tree, tmp_path, number):
    os.mkfifo(tmp_path / "out")
    command = [sys.executable, "-c", "from infra.command import main; main()"]
    args = ["collect", "sysfs", "--root", str(tree), "--every", "20ms", "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, *args], stdout=subprocess.PIPE) as process:
        with (tmp_path / "out").open() as events:
            first = events.readline()
            process.send_signal(number)
            written = events_of(first + events.read())
        said, _ = process.communicate()

    assert process.returncode == 0
    assert json.loads(said) == {"samples": len(written), "events": len(written), "without_metric": 0}


@pytest.mark.kafka
async def test_events_reach_metrics_and_those_without_a_metric_stay_here(kafka, topics, consume_all, tmp_path):
    ufm = json.loads((DATA / "ufm-small_telemetry.json").read_bytes())
    del ufm["values"][0]["Infiniband_Normalized_MBOut_f_u_Percent"]
    (tmp_path / "telemetry.json").write_text(json.dumps(ufm))
    args = ["ufm", tmp_path / "telemetry.json", "--bootstrap", kafka.bootstrap, "--prefix", topics]

    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", "from infra.command import main; main()", "collect", *map(str, args)],
        capture_output=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"samples": 1, "events": 6, "without_metric": 1}
    records = await consume_all(topics + "metrics")
    sweeps = {r.key.decode(): msgspec.json.decode(r.value) for r in records}
    assert sorted(len(sweep) if isinstance(sweep, list) else 1 for sweep in sweeps.values()) == [1, 1, 3]
