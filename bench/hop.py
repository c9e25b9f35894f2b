"""The full hop on a real broker: bytes of `metrics` to features, labels, two models and a prediction per event.

A topic filled beforehand, a worker process pinned to one core, everything else on the others. Events are the growth of
the predictions topic between two samples, CPU is the worker's between the same two, so start and compile are out.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from infra.broker.process import running_broker
from infra.topics import apply_topics
from online.publish import publish
from streams.contract import MetricEvent, node_of
from streams.kafka import KafkaSettings

PREFIX = "bench."
PARTITIONS = 2
PERIOD_MS = 10_000
START_MS = 1_700_000_000_000
PORTS_A_NODE = 32


def bench(*, events: int, streams: int = 1_024, sweep: int = 1, model: Path | None = None) -> dict[str, object]:
    """Measure one drained backlog of `events` events of `streams` streams, `sweep` events a record."""
    with tempfile.TemporaryDirectory() as folder, running_broker(Path(folder) / "broker") as bootstrap:
        kafka = KafkaSettings(bootstrap=bootstrap)
        asyncio.run(_fill(kafka, events, streams, sweep))
        home = Path(folder)
        if model:
            asyncio.run(publish(kafka, prefix=PREFIX, bundle=model, published_at=int(time.time() * 1000)))
        port_file = home / "worker.log"
        command = [
            str(Path(sys.executable).with_name("linkcast")),
            "worker",
            "--bootstrap",
            bootstrap,
            "--prefix",
            PREFIX,
        ]
        command += ["--trusted-keys", str(model.parent.parent / "keys")] if model else []
        with port_file.open("wb") as log:
            worker = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"LINKCAST_HOME": str(home)})
        try:
            core = max(os.sched_getaffinity(0))
            os.sched_setaffinity(worker.pid, {core})
            figures = asyncio.run(_measure(kafka, worker, events))
            figures["stages_us"] = _stages(port_file, events)
        finally:
            worker.terminate()
            worker.wait()
        if worker.returncode != 0:
            raise RuntimeError(f"the worker failed: {port_file.read_text()[-2000:]}")
        return figures | {
            "events": events,
            "streams": streams,
            "sweep": sweep,
            "model": model.name if model else "rules",
        }


async def _fill(kafka: KafkaSettings, events: int, streams: int, sweep: int) -> None:
    await apply_topics(kafka, PREFIX, partitions=PARTITIONS, replication=1)
    # The limit is the broker's 12 MiB a record; batches of 1 MiB fill it fastest.
    producer = AIOKafkaProducer(**kafka.client_arguments(), max_batch_size=1 << 20, max_request_size=2 << 20)
    async with producer:
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for key, value in _records(events, streams, sweep):
            p = key[-1] % PARTITIONS
            if batches[p].append(timestamp=None, key=key, value=value) is None:
                await producer.send_batch(batches[p], f"{PREFIX}metrics", partition=p)
                batches[p] = producer.create_batch()
                batches[p].append(timestamp=None, key=key, value=value)
        for p, batch in enumerate(batches):
            await producer.send_batch(batch, f"{PREFIX}metrics", partition=p)


def _records(events: int, streams: int, sweep: int) -> Iterator[tuple[bytes, bytes]]:
    encode = msgspec.json.Encoder().encode
    rng = np.random.default_rng(20_261_123)
    ids = [f"leaf-{i // PORTS_A_NODE:03d}/{i % PORTS_A_NODE}" for i in range(streams)]
    keys = [node_of(stream_id).encode() for stream_id in ids]
    for first in range(0, events, streams):
        n = min(streams, events - first)
        utilization = rng.choice([0.0, 1.0], n, p=[0.65, 0.35]) * rng.gamma(2.0, 12.0, n)
        utilization = np.minimum(utilization, 100.0).round(3)
        rows = zip(utilization.tolist(), rng.lognormal(1.0, 0.1, n).round(3).tolist(), strict=True)
        tick = [
            MetricEvent(
                stream_id=ids[i], ts=START_MS + first // streams * PERIOD_MS, latency_p99=latency, utilization=busy,
                error_rate=0.0, bandwidth_gbps=round(busy * 2.0, 3), qp_errors=0.0,
            )
            for i, (busy, latency) in enumerate(rows)
        ]  # fmt: skip
        if sweep == 1:
            yield from zip(keys, map(encode, tick), strict=False)
        else:
            yield from ((keys[i], encode(tick[i : i + sweep])) for i in range(0, n, sweep))


async def _measure(kafka: KafkaSettings, worker: "subprocess.Popen[bytes]", events: int) -> dict[str, object]:
    """Wait until the worker has done an eighth, then until all; return what lay between."""
    partitions = [TopicPartition(f"{PREFIX}predictions", p) for p in range(PARTITIONS)]

    async with AIOKafkaConsumer(**kafka.client_arguments()) as consumer:

        async def sample(at_least: int) -> tuple[int, float, float]:
            while True:
                if worker.poll() is not None:
                    raise RuntimeError("the worker ended before its work")
                done = sum((await consumer.end_offsets(partitions)).values())
                if done >= at_least:
                    return done, time.perf_counter(), _cpu_s(worker.pid)
                await asyncio.sleep(0.02)

        done_a, wall_a, cpu_a = await sample(events // 8)
        done_b, wall_b, cpu_b = await sample(events)
    return {
        "events_per_s": round((done_b - done_a) / (wall_b - wall_a)),
        "cpu_us_per_event": round((cpu_b - cpu_a) / (done_b - done_a) * 1e6, 2),
        "measured_s": round(wall_b - wall_a, 2),
        "rss_mb": round(_rss_bytes(worker.pid) / 1e6),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _stages(log: Path, events: int) -> dict[str, float]:
    """Return µs per event of each stage of the hop, by the worker's own clock (waiting in `send` included)."""
    url = next(line.split()[-1] for line in log.read_text().splitlines() if line.startswith("health: "))
    text = urllib.request.urlopen(url.replace("healthz", "metrics"), timeout=10).read().decode()
    lines = (line.split() for line in text.splitlines() if line.startswith("linkcast_stage_seconds_total"))
    return {name.split('"')[1]: round(float(seconds) / events * 1e6, 2) for name, seconds in lines}


if __name__ == "__main__":
    print(json.dumps(bench(events=300_000)))
