"""The worker's process: one line for what is wrong at the start, and patience with a broker that isn't there yet."""

import asyncio
import os
import signal
import socket
import sys

import pytest
from click.testing import CliRunner

from infra.broker.process import EmbeddedBroker
from infra.command import main
from infra.topics import apply_topics
from streams.kafka import KafkaSettings

pytestmark = pytest.mark.kafka


def test_a_health_port_that_is_taken_is_one_line_and_a_failure(tmp_path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        result = CliRunner().invoke(
            main, ["worker", "--bootstrap", "127.0.0.1:1", "--health-port", str(port), "--trusted-keys", str(tmp_path)]
        )

    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.stderr
    assert "--health-port" in result.stderr
    assert "Traceback" not in result.output


async def test_a_worker_waits_for_its_broker_says_so_and_goes_on_once_it_is_there(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        await asyncio.wait_for(worker.communicate(), 30)
        assert worker.returncode == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
        await asyncio.to_thread(broker.down)


async def line_with(worker: asyncio.subprocess.Process, text: str) -> str:
    """Read what the worker says up to a line with `text`."""
    async with asyncio.timeout(60):
        async for line in worker.stderr:
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"the worker ended before it said {text!r}")
