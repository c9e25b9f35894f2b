"""The demo whole: everything accounted for, its figures in a file, and nothing left behind however it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from infra.broker.process import BrokerFailed, EmbeddedBroker
from infra.demo.run import check_broker

SMALL = "Sizes(train_ports=12, train_hours=6.0, ports=20, hours=8.0)"
KEYS = {
    "events_sent", "predictions", "dead_letters", "repeats", "late", "incidents_true", "incidents_called_before",
    "median_lead_s", "false_alarms", "first_prediction_s", "events_per_s", "model",
}  # fmt: skip


@pytest.fixture
def demo(tmp_path):
    """Start `linkcast demo` of a small fabric in a process of its own, whose temporary files all lie in `tmp_path`."""
    started = []

    def start(*arguments):
        code = (
            "import infra.demo.run as run; from infra.command import main; "
            f"run.run_demo.__kwdefaults__['sizes'] = run.{SMALL}; main()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, "demo", "--seconds", "5", *arguments],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for process in of_the_demo(tmp_path):
        process.kill()


def of_the_demo(tmp_path):
    """Return every process that inherited the demo's folder for temporary files, whoever is its parent now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            if process.environ().get("TMPDIR") == str(tmp_path):
                found.append(process)
    return found


def read_until(process, line):
    """Read the demo's words up to the line that begins with `line`."""
    for said in process.stderr:
        if said.startswith(line):
            return
    raise AssertionError(f"the demo ended with {process.wait()} before it said {line!r}")


@pytest.mark.timeout(1_800)
def test_every_event_of_the_demo_is_accounted_for_twice_in_a_row(demo, tmp_path):
    for name in ("first.json", "second.json"):
        process = demo("--json", str(tmp_path / name))
        words, said = process.communicate()

        assert process.returncode == 0, said
        summary = json.loads((tmp_path / name).read_bytes())
        assert summary.keys() == KEYS
        became = [summary[key] for key in ("predictions", "dead_letters", "repeats", "late")]
        assert sum(became) == summary["events_sent"] > 10_000
        assert min(became[:2]) > 0
        assert f"{summary['events_sent']:,} events sent" in words
        assert of_the_demo(tmp_path) == []
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Apache Kafka", signal.SIGINT),
        ("model of", signal.SIGTERM),
        ("8 h of", signal.SIGINT),
        ("8 h of", signal.SIGHUP),
    ],
    ids=["while Kafka starts", "while the model trains", "while it feeds", "by a closed terminal"],
)
def test_an_interrupted_demo_leaves_nothing_behind(demo, tmp_path, moment, number):
    process = demo()
    read_until(process, moment)
    assert len(of_the_demo(tmp_path)) > 1  # else there would be nothing to leave behind
    for _ in range(2):  # whoever is impatient presses Ctrl-C twice
        process.send_signal(number)
    process.communicate()

    assert process.returncode == 128 + number
    assert of_the_demo(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_ended_is_told_with_its_cause_and_not_waited_for(tmp_path):
    (tmp_path / "broker.log").write_text("ERROR Error while writing meta.properties\nNo space left on device\n")

    with pytest.raises(BrokerFailed, match=f"Kafka ended in {tmp_path}: the disk is full.*TMPDIR names another"):
        check_broker(EmbeddedBroker(tmp_path))
