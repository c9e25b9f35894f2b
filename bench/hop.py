"""The full hop on a real broker: bytes of `metrics` to features, labels, two models and a prediction per event.

A topic filled beforehand, a worker process pinned to one core, everything else on the others. Events are the growth of
the predictions topic between two samples, CPU is the worker's between the same two, so start and compile are out.
"""

import asyncio
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import psutil  # type: ignore[import-untyped]
import xgboost as xgb
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from infra.broker.process import running_broker
from infra.demo.processes import Child, linkcast
from infra.progress import step
from infra.topics import apply_topics
from online.publish import publish
from streams.contract import LinkcastError, MetricEvent, node_of
from streams.kafka import KafkaSettings

PREFIX = "bench."
PARTITIONS = 2
PERIOD_MS = 10_000
START_MS = 1_700_000_000_000
PORTS_A_NODE = 32
STALL_S_MAX = 120.0
_MODELS = ("classifier", "risk")
_SMALL = ("--ports", "60", "--hours", "24", "--rates", "train")


class HopFailed(LinkcastError):
    """The worker ended, stalled, or did something else than score each event by the model."""


def bench(*, events: int, streams: int = 1_024, sweep: int = 1, model: Path | None = None) -> dict[str, object]:
    """Measure one drained backlog of `events` events of `streams` streams, `sweep` events a record.

    `model` is a bundle as `linkcast train` leaves it, HOME/models/VERSION with its key in HOME/keys; None trains a
    small one first. Each event has to have one prediction by that model, else `HopFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="linkcast-bench-") as folder:
        home = Path(folder)
        bundle = model.resolve() if model else _small_bundle(home)
        with _one_core_free() as core, running_broker(home / "broker") as bootstrap:
            kafka = KafkaSettings(bootstrap=bootstrap)
            with step(f"filling topic metrics with {events:,} events"):
                asyncio.run(_fill(kafka, events, streams, sweep))
            asyncio.run(publish(kafka, prefix=PREFIX, bundle=bundle, published_at=START_MS))
            cluster = ("--bootstrap", bootstrap, "--prefix", PREFIX)
            keys = ("--trusted-keys", str(bundle.parent.parent / "keys"))
            with linkcast("worker", *cluster, *keys, home=home, log=home / "worker.log") as worker:
                os.sched_setaffinity(worker.process.pid, {core})
                with step("the worker scores them"):
                    figures = asyncio.run(_measure(kafka, worker, events))
                figures["stages_us"] = _stages(worker.log, events)
            if worker.process.returncode != 0:
                raise HopFailed(f"the worker ended with {worker.process.returncode}: {worker.log.read_text()[-2_000:]}")
            asyncio.run(_check(kafka, bundle.name, events))
    trees = {name: xgb.Booster(model_file=bundle / f"{name}.ubj").num_boosted_rounds() for name in _MODELS}
    return figures | {"events": events, "streams": streams, "sweep": sweep, "model": bundle.name, "trees": trees}


def _small_bundle(home: Path) -> Path:
    with (
        step("training a small model"),
        linkcast(
            "train", "--no-publish", "--ports", "100", "--hours", "24", home=home, log=home / "train.log"
        ) as train,
    ):
        train.process.wait()
        train.check()
    (bundle,) = (home / "models").iterdir()
    return bundle


@contextmanager
def _one_core_free() -> Iterator[int]:
    """Keep this process, and what it starts, off one core and give its number; all may use an only core."""
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, cores - {core} or cores)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)


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
            for node in (tick[i : i + PORTS_A_NODE] for i in range(0, n, PORTS_A_NODE)):
                key = node_of(node[0].stream_id).encode()
                yield from ((key, encode(node[i : i + sweep])) for i in range(0, len(node), sweep))


async def _measure(kafka: KafkaSettings, worker: Child, events: int) -> dict[str, object]:
    """Wait until the worker has done an eighth, then until all; return what lay between."""
    process = psutil.Process(worker.process.pid)
    async with AIOKafkaConsumer(**kafka.client_arguments()) as consumer:

        async def sample(at_least: int) -> tuple[int, float, float]:
            done, grown_at = 0, time.perf_counter()
            while done < at_least:
                await asyncio.sleep(0.02)
                before, done = done, sum((await consumer.end_offsets(_predictions())).values())
                now, cpu = time.perf_counter(), process.cpu_times()
                grown_at = now if done > before else grown_at
                if worker.process.poll() is not None or now - grown_at > STALL_S_MAX:
                    raise HopFailed(f"{done} of {events} predictions and no more: {worker.log.read_text()[-2_000:]}")
            return done, now, cpu.user + cpu.system

        done_a, wall_a, cpu_a = await sample(events // 8)
        done_b, wall_b, cpu_b = await sample(events)
    return {
        "events_per_s": round((done_b - done_a) / (wall_b - wall_a)),
        "cpu_us_per_event": round((cpu_b - cpu_a) / (done_b - done_a) * 1e6, 2),
        "measured_s": round(wall_b - wall_a, 2),
        "rss_mb": round(process.memory_info().rss / 1e6),
    }


def _predictions() -> list[TopicPartition]:
    return [TopicPartition(f"{PREFIX}predictions", p) for p in range(PARTITIONS)]


async def _check(kafka: KafkaSettings, model: str, events: int) -> None:
    """Read all predictions; raise `HopFailed` unless there is one an event, by the model."""
    said_by_model = b'"model":"%s"' % model.encode()
    async with AIOKafkaConsumer(**kafka.client_arguments(), enable_auto_commit=False) as consumer:
        consumer.assign(_predictions())
        await consumer.seek_to_beginning()
        n = sum((await consumer.end_offsets(_predictions())).values())
        n_read = n_by_model = 0
        while n_read < n:
            for batch in (await consumer.getmany(timeout_ms=1_000)).values():
                n_read += len(batch)
                n_by_model += sum(said_by_model in record.value for record in batch)
    if not n_by_model == n == events:
        raise HopFailed(f"{events} events gave {n} predictions, {n_by_model} of them by {model}: is its key trusted?")


def _stages(log: Path, events: int) -> dict[str, float]:
    """Return µs per event of each stage of the hop, by the worker's own clock (waiting in `send` included)."""
    url = next(line.split()[-1] for line in log.read_text().splitlines() if line.startswith("health: "))
    text = urllib.request.urlopen(url.replace("healthz", "metrics"), timeout=10).read().decode()
    lines = (line.split() for line in text.splitlines() if line.startswith("linkcast_stage_cpu_seconds_total"))
    return {name.split('"')[1]: round(float(seconds) / events * 1e6, 2) for name, seconds in lines}
