"""The worker's process: one line for what is wrong at the start, and patience with a broker that isn't there yet."""

import asyncio
import os
import signal
import socket
import sys

import psutil
import pytest
from click.testing import CliRunner

from infra import supervisor
from infra.broker.process import EmbeddedBroker
from infra.command import main
from infra.topics import apply_topics
from streams.kafka import KafkaSettings

pytestmark = pytest.mark.kafka


@pytest.fixture
def worker(tmp_path):
    """Run a worker that ends at its health port, which is taken, if nothing before is wrong."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        start = ["worker", "--bootstrap", "127.0.0.1:1", "--home", str(tmp_path), "--health-port", port]
        yield lambda *arguments: CliRunner().invoke(main, [*start, *arguments])


def test_a_health_port_that_is_taken_is_one_line_and_a_failure(worker, tmp_path) -> None:
    result = worker("--trusted-keys", str(tmp_path))

    assert result.exit_code == 1
    assert "Error: 127.0.0.1:" in result.stderr
    assert "--health-port" in result.stderr
    assert "Traceback" not in result.output


def test_keys_that_are_none_end_the_start(worker, tmp_path) -> None:
    absent = worker("--trusted-keys", str(tmp_path / "absent.pub"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a.pub").write_text("garbage")
    garbage = worker()  # the home's own

    assert absent.exit_code == 2
    assert "absent.pub' does not exist" in absent.stderr
    assert garbage.exit_code == 1
    assert "a.pub: no readable public key" in garbage.stderr


def test_a_time_zone_that_is_none_is_told_before_any_group_is_joined(worker) -> None:
    result = worker("--time-zone", "Mars/Phobos")

    assert result.exit_code == 1
    assert "Error: time zone 'Mars/Phobos' is not in the IANA data base" in result.stderr


@pytest.fixture
def port():
    """A port that nobody else is given while it is bound; Kafka, which sets the same option, may listen on it."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_worker_waits_for_its_broker_says_so_and_goes_on_once_it_is_there(port, tmp_path) -> None:
    kafka = KafkaSettings(bootstrap=f"127.0.0.1:{port}")
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.command", "worker", "--bootstrap", kafka.bootstrap, "--prefix", "late.",
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "LINKCAST_HOME": str(tmp_path)},
    )  # fmt: skip
    broker = EmbeddedBroker(tmp_path / "broker")
    try:
        assert str(port) in await line_with(worker, "waiting for Kafka")
        await asyncio.to_thread(broker.up, port=port)
        await apply_topics(kafka, "late.", partitions=2, replication=1)
        await line_with(worker, "reading from 0")
        worker.send_signal(signal.SIGTERM)
        await worker.communicate()
        assert worker.returncode == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
        await asyncio.to_thread(broker.down)


async def line_with(worker: asyncio.subprocess.Process, text: str) -> str:
    """Read what the worker says up to a line with `text`."""
    async for line in worker.stderr:
        if text in line.decode():
            return line.decode()
    raise AssertionError(f"the worker ended before it said {text!r}")


async def test_processes_share_the_partitions_restart_what_is_killed_and_end_together(kafka, topics, tmp_path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.command", "worker", "--bootstrap", kafka.bootstrap, "--prefix", topics,
            "--processes", "2", "--instance", "a", stdout=output, stderr=output,
            env={**os.environ, "LINKCAST_HOME": str(tmp_path)},
        )  # fmt: skip
    try:
        await until_said(log, "health: ", times=2)  # both, since one alone may have taken both partitions
        await until_said(log, "reading from", times=2)
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        children[0].kill()
        await until_said(log, "ended with status -9: starting it again", times=1)
        await until_said(log, "health: ", times=3)
        children += psutil.Process(parent.pid).children()
        parent.send_signal(signal.SIGTERM)
        assert await parent.wait() == 0
    finally:
        if parent.returncode is None:
            parent.kill()
            await parent.wait()
    psutil.wait_procs(children)


async def test_a_failure_with_a_name_in_one_process_ends_all(tmp_path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.command", "worker", "--bootstrap", "127.0.0.1:1", "--processes", "2",
        "--health-port", "65535", stderr=asyncio.subprocess.PIPE, env={**os.environ, "LINKCAST_HOME": str(tmp_path)},
    )  # fmt: skip
    _, said = await process.communicate()

    assert process.returncode == 1
    assert b"65536 is not in the range" in said
    assert b"worker 1 ended with status 2" in said
    assert b"Traceback" not in said


async def test_a_process_that_breaks_by_a_traceback_is_started_again(tmp_path, monkeypatch, capfd) -> None:
    stub = tmp_path / "infra"  # a child looks for its command in the working directory first
    stub.mkdir()
    (stub / "__init__.py").touch()
    (stub / "command.py").write_text(
        "import pathlib, sys\n"
        "def main():\n"
        "    began = pathlib.Path('began')\n"
        "    if began.exists():\n"
        "        sys.exit(2)\n"
        "    began.touch()\n"
        "    raise MemoryError('for a moment')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(supervisor, "RESTART_S", 0.0)

    with pytest.raises(supervisor.WorkerGaveUp, match="worker 0 ended with status 2"):
        await supervisor.supervise([["worker"]], asyncio.Event())

    said = capfd.readouterr().err
    assert "MemoryError: for a moment" in said
    assert "worker 0 ended with status 70: starting it again" in said


async def until_said(log, text: str, *, times: int) -> None:
    while log.read_text().count(text) < times:  # noqa: ASYNC110  # another process sets no event of ours
        await asyncio.sleep(0.1)
