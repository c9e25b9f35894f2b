"""`linkcast replay` onto a real broker."""

import asyncio
import json
import signal
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import msgspec
import pytest

from streams.contract import MetricEvent, node_of
from streams.ingest.producer import MetricsProducer
from streams.ingest.recordings import read
from streams.ingest.replay import Replay, sweeps

T = 1_760_000_000_000
EVENTS = [
    MetricEvent(stream_id=f"leaf-{node}/{port}", ts=T + tick * 10_000, utilization=float(tick), extra={"stall": 0.5})
    for tick in range(20)
    for node in range(3)
    for port in range(4)
]


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in EVENTS))
    return str(path)


async def started(kafka, prefix, *arguments: str, stdin=None):
    command = ["-c", "from infra.command import main; main()", "replay", *arguments]
    cluster = ["--bootstrap", kafka.bootstrap, "--prefix", prefix]
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, *cluster, stdin=stdin, stdout=PIPE, stderr=PIPE
    )


async def run(kafka, prefix, *arguments: str):
    """Run `linkcast replay` and return its exit status, its summary and its stderr."""
    process = await started(kafka, prefix, *arguments)
    stdout, stderr = await process.communicate()
    return process.returncode, json.loads(stdout) if stdout else None, stderr.decode()


def published(records) -> list[MetricEvent]:
    return [event for record in records for event in msgspec.json.decode(record.value, type=list[MetricEvent])]


async def test_each_event_is_published_once_in_the_order_of_the_file_per_node(kafka, topics, recording, consume_all):
    status, summary, _ = await run(kafka, topics, recording)

    records = await consume_all(f"{topics}metrics")
    assert status == 0
    assert summary.keys() == {"events_sent", "rejected", "seconds", "events_per_s"}
    assert (summary["events_sent"], summary["rejected"]) == (len(EVENTS), 0)
    assert len(records) == 60  # sweeps of 4 neighbours
    for node in ("leaf-0", "leaf-1", "leaf-2"):
        of_node = published(record for record in records if record.key == node.encode())
        assert of_node == [event for event in EVENTS if node_of(event.stream_id) == node]


async def test_limit_is_exact(kafka, topics, recording, consume_all):
    _, summary, _ = await run(kafka, topics, recording, "--limit", "10")

    assert summary["events_sent"] == 10
    assert published(await consume_all(f"{topics}metrics")) != []
    assert len(published(await consume_all(f"{topics}metrics"))) == 10


@pytest.fixture
def torn(recording):
    with Path(recording).open("ab") as file:
        file.write(b"nonsense\n" * 13)
    return recording


async def test_bad_lines_are_told_and_fail_the_run_unless_skipped(kafka, topics, torn):
    status, summary, said = await run(kafka, topics, torn)

    assert status == 1
    assert (summary["events_sent"], summary["rejected"]) == (len(EVENTS), 13)
    assert said.count("not_json") == 10
    assert f"{torn}:{len(EVENTS) + 1}: not_json" in said
    assert "and 3 more" in said
    assert (await run(kafka, topics, torn, "--skip-bad"))[0] == 0


async def test_event_times_ahead_of_the_clock_are_warned_of_once(kafka, topics, tmp_path):
    path = tmp_path / "future.jsonl"
    ahead = time.time_ns() // 1_000_000 + 3_600_000
    path.write_bytes(msgspec.json.encode(MetricEvent(stream_id="a/1", ts=ahead, utilization=1.0)) + b"\n")

    status, _, said = await run(kafka, topics, str(path), str(path))

    assert status == 0
    assert said.count("ahead of now") == 1


async def test_a_replay_keeps_event_times_pace(kafka, topics, recording):
    # 190 s of event time between the first and the last sweep: at 200 times the speed never less than 0.95 s.
    start = time.monotonic()
    async with MetricsProducer(kafka, prefix=topics) as producer:
        await Replay(speed=200).publish([recording], producer)

    assert time.monotonic() - start >= 0.95
    assert producer.acknowledged == len(EVENTS)


def test_a_paced_sweep_is_of_one_event_time_and_a_fast_one_of_neighbours(tmp_path):
    path = tmp_path / "one_node.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in EVENTS if e.stream_id.startswith("leaf-0")))
    [chunk] = read([str(path)])

    assert [len(events) for _, events in sweeps(chunk, at_once=False)] == [4] * 20
    assert [len(events) for _, events in sweeps(chunk, at_once=True)] == [80]


async def test_interrupting_sends_what_is_under_way_and_says_how_much(kafka, topics, recording, consume_all):
    process = await started(kafka, topics, recording, "--speed", "1")
    try:
        while len(published(await consume_all(f"{topics}metrics"))) < 12:
            assert process.returncode is None, await process.stderr.read()
        process.send_signal(signal.SIGINT)
        stdout, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 130
    assert json.loads(stdout)["events_sent"] == len(published(await consume_all(f"{topics}metrics"))) == 12


async def test_interrupting_does_not_wait_for_a_pipe_that_is_silent(kafka, topics, consume_all):
    process = await started(kafka, topics, "-", stdin=PIPE)
    try:
        process.stdin.write(b"nonsense\n" + msgspec.json.encode(EVENTS[0]) + b"\n")
        await process.stdin.drain()
        while not await consume_all(f"{topics}metrics"):
            assert process.returncode is None, await process.stderr.read()
        process.send_signal(signal.SIGINT)
        stdout = await process.stdout.read()
        said = await process.stderr.read()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 130
    assert json.loads(stdout)["events_sent"] == 1
    assert "Traceback" not in said.decode()
    assert "Fatal" not in said.decode()


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan"])
async def test_a_speed_that_is_none_is_refused(kafka, recording, speed):
    status, _, said = await run(kafka, "x.", recording, "--speed", speed)

    assert status == 2
    assert "is no speed" in said


async def test_a_file_that_is_not_there_is_one_line(kafka, topics, tmp_path):
    status, _, said = await run(kafka, topics, str(tmp_path / "none.jsonl"))

    assert status == 1
    assert "No such file" in said


async def test_a_folder_is_no_recording(kafka, topics, tmp_path):
    status, _, said = await run(kafka, topics, str(tmp_path))

    assert status == 2
    assert "is a directory" in said
