"""How long until a worker predicts again: after a clean stop, after kill -9, and while a rebalance moves partitions.

The clock runs from the start of the process to the first new prediction, interpreter, imports and kernel included.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer, TopicPartition
from numpy.typing import NDArray

from bench.cluster import (
    PARTITIONS,
    PREFIX,
    Cluster,
    MeasurementFailed,
    cluster,
    predicted,
    said,
    until_taken,
)
from bench.events import PORTS_A_NODE, KeyedRecord, fill, records
from bench.latency import WARM_S
from bench.open_loop import Flow, Flowed, flowing
from infra.demo.processes import Child
from infra.progress import step
from streams.kafka import KafkaSettings, read_to_end

SPACING_MS = 15 * 60_000 + 15_000
"""Event time between two events of a stream: each opens new panes, so that few events give a snapshot its columns."""
STALL_S_MAX = 120.0


def bench(
    *, streams: int = 100_000, events_a_stream: int = 24, rebalance_streams: int = 10_000, seconds: float = 30.0,
    warm_s: float = WARM_S, model: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Measure restarts with `streams` streams of `events_a_stream` events each, and a rebalance under way.

    96 events a stream fill every pane there is: the widest snapshot. `rebalance_streams` 0 leaves the rebalance out.
    """
    with cluster(model) as stage:
        figures = _restarts(stage, streams, events_a_stream)
    if rebalance_streams:
        with cluster(model) as stage:
            figures |= _rebalance(stage, rebalance_streams, seconds, warm_s)
    return figures | {"streams": streams, "events_a_stream": events_a_stream, "rebalance_streams": rebalance_streams}


def _restarts(stage: Cluster, streams: int, events_a_stream: int) -> dict[str, object]:
    """Fill a worker, stop it and start it, kill it and start it; each starts with one new event a stream to take."""
    each = records((events_a_stream + 2) * streams, streams=streams, sweep=PORTS_A_NODE, period_ms=SPACING_MS)
    records_a_turn = -(-streams // PORTS_A_NODE)
    _publish(stage, islice(each, events_a_stream * records_a_turn))
    with _worker(stage, streams, "filled") as worker:
        asyncio.run(_until(stage, worker, events_a_stream * streams))
        stop_s = _stopped_in(worker)
    size = asyncio.run(_snapshot_bytes(stage.kafka))
    _publish(stage, islice(each, records_a_turn))
    with _worker(stage, streams, "stopped", is_killed=True) as worker:
        seconds = asyncio.run(_until(stage, worker, (events_a_stream + 1) * streams))
        worker.process.kill()  # all is committed; the snapshot is from before
    _publish(stage, each)
    with _worker(stage, streams, "killed") as worker:
        killed_seconds = asyncio.run(_until(stage, worker, (events_a_stream + 2) * streams))
    return {
        "seconds": seconds, "killed_seconds": killed_seconds, "stop_s": stop_s,
        "snapshot_bytes": size, "snapshot_bytes_per_stream": round(size / streams),
    }  # fmt: skip


def _publish(stage: Cluster, each: Iterator[KeyedRecord]) -> None:
    with step("filling topic metrics"):
        asyncio.run(fill(stage.kafka, each))


def _worker(stage: Cluster, streams: int, name: str, *, is_killed: bool = False) -> AbstractContextManager[Child]:
    # A static member: after a kill it takes its partitions back at once, and the session's 10 s are no part of this.
    options = ("--streams-max", str(streams), "--instance", "bench")
    return stage.worker(*options, name=name, is_killed=is_killed)


async def _until(stage: Cluster, worker: Child, events: int) -> float:
    """Wait until all `events` are predicted and committed; return how many seconds after its start the first was."""
    started = psutil.Process(worker.process.pid).create_time()
    arguments = stage.kafka.client_arguments() | {"enable_auto_commit": False}
    async with AIOKafkaConsumer(**arguments, group_id=f"{PREFIX}worker") as consumer:
        before = await predicted(consumer)
        first_s = await _grown(consumer, worker, before + 1) - started
        with step("the worker takes them"):
            await _grown(consumer, worker, events)
            await _committed(consumer, worker)
    return round(first_s, 2)


async def _grown(consumer: AIOKafkaConsumer, worker: Child, at_least: int) -> float:
    """Return when (s since the epoch) so many predictions were there."""
    done, grown_at = -1, time.monotonic()
    while True:
        before, done = done, await predicted(consumer)
        if done >= at_least:
            return time.time()
        grown_at = time.monotonic() if done > before else grown_at
        if worker.process.poll() is not None or time.monotonic() - grown_at > STALL_S_MAX:
            raise MeasurementFailed(f"{done} of {at_least} predictions and no more: {said(worker)}")
        await asyncio.sleep(0.01)


async def _committed(consumer: AIOKafkaConsumer, worker: Child) -> None:
    """Return once the group's offsets are at the ends of topic `metrics`."""
    metrics = [TopicPartition(f"{PREFIX}metrics", p) for p in range(PARTITIONS)]
    deadline = time.monotonic() + STALL_S_MAX
    while any([(await consumer.committed(tp) or 0) < end for tp, end in (await consumer.end_offsets(metrics)).items()]):
        if worker.process.poll() is not None or time.monotonic() > deadline:
            raise MeasurementFailed(f"all predicted and not committed: {said(worker)}")
        await asyncio.sleep(0.05)


def _stopped_in(worker: Child) -> float:
    """Stop a worker and return the seconds it took, its last snapshot included."""
    start = time.perf_counter()
    worker.process.terminate()
    worker.process.wait(STALL_S_MAX)
    return round(time.perf_counter() - start, 2)


async def _snapshot_bytes(kafka: KafkaSettings) -> int:
    """Return the size of what a restart reads once compaction has passed: the newest record of each key."""
    sizes: dict[tuple[int, bytes], int] = {}
    arguments = kafka.client_arguments() | {"enable_auto_commit": False, "isolation_level": "read_committed"}
    async with AIOKafkaConsumer(**arguments, auto_offset_reset="earliest") as consumer:
        for p in range(PARTITIONS):
            async for found in read_to_end(consumer, TopicPartition(f"{PREFIX}state", p)):
                sizes |= {(p, record.key): len(record.value) for record in found}
    return sum(sizes.values())


def _rebalance(stage: Cluster, streams: int, seconds: float, warm_s: float) -> dict[str, object]:
    """Let a second worker join while events flow, and return the longest gap between predictions of a partition."""
    rate = max(200, streams // 10)  # a port reports every 10 s
    flow = Flow(rate, warm_s + seconds, streams)
    with stage.worker(name="first", pinned=False) as first:
        until_taken(first)
        with flowing(stage.kafka, flow) as running:
            with step(f"warming up for {warm_s:g} s"):
                running.until(warm_s)
            with step("a second worker joins"):
                running.until(warm_s + seconds / 4)
                joining_ns = time.monotonic_ns()
                with stage.worker(name="second", pinned=False) as second:
                    flowed = running.finish(is_once=False).at(slice(int(rate * warm_s), None))
                    until_taken(first, second)
    before = flowed.answered < joining_ns
    return {
        "rebalance_pause_s": _gap_s(flowed, ~before), "steady_gap_s": _gap_s(flowed, before),
        "rebalance_repeats": flowed.repeats,
    }  # fmt: skip


def _gap_s(flowed: Flowed, counted: NDArray[np.bool_]) -> float:
    """Return the longest time without a prediction on one of the partitions."""
    gaps = [np.diff(np.sort(flowed.answered[counted & (flowed.partition == p)])) for p in range(PARTITIONS)]
    return round(max(float(gap.max(initial=0)) for gap in gaps) / 1e9, 3)
