"""The full hop on a real broker: bytes of `metrics` to features, labels, two models and a prediction per event.

A topic filled beforehand, a worker process pinned to one core, everything else on the others. Events are the growth of
the predictions topic between two samples, CPU is the worker's between the same two, so start and compile are out.
"""

import asyncio
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import xgboost as xgb
from aiokafka import AIOKafkaConsumer

from bench.cluster import Cluster, MeasurementFailed, check_predictions, cluster, cpu_s, predicted, said, until_taken
from bench.events import fill, records
from bench.void import steal_s, stolen_pct
from infra.demo.processes import Child
from infra.progress import step

STALL_S_MAX = 120.0
_MODELS = ("classifier", "risk")


def bench(
    *,
    events: int,
    streams: int = 1_024,
    sweep: int = 1,
    as_arrow: bool = False,
    workers: int = 1,
    model: Path | None = None,
) -> dict[str, object]:
    """Measure one drained backlog of `events` events of `streams` streams, `sweep` events a record.

    One worker is pinned to a core; of more, each runs where it likes. `model` is as `cluster` takes it. Each event has
    to have one prediction by that model, else `MeasurementFailed`.
    """
    with cluster(model) as stage:
        with step(f"filling topic metrics with {events:,} events"):
            asyncio.run(fill(stage.kafka, records(events, streams=streams, sweep=sweep, as_arrow=as_arrow)))
        figures = _drain(stage, events, streams, workers)
        bundle = stage.bundle
        trees = {name: xgb.Booster(model_file=bundle / f"{name}.ubj").num_boosted_rounds() for name in _MODELS}
        asyncio.run(check_predictions(stage.kafka, bundle.name, events))
    return figures | {
        "events": events, "streams": streams, "sweep": sweep, "arrow": as_arrow, "model": bundle.name, "trees": trees,
    }  # fmt: skip


def _drain(stage: Cluster, events: int, streams: int, workers: int) -> dict[str, object]:
    """Let new workers drain the `events` events of the topic, and return what that took."""
    options = ("--streams-max", str(streams))
    with ExitStack() as running:
        group = [
            running.enter_context(stage.worker(*options, name=f"worker-{i}", pinned=workers == 1))
            for i in range(workers)
        ]
        with step("the workers score them" if workers > 1 else "the worker scores them"):
            figures = asyncio.run(_measure(stage, group, events))
            until_taken(*group)  # only now: a small backlog may be drained before the last has joined
        return figures | {"workers": len(group), "stages_us": _stages(group, events)}


async def _measure(stage: Cluster, workers: list[Child], events: int) -> dict[str, object]:
    """Wait until the workers have done an eighth, then until all; return what lay between."""
    processes = [psutil.Process(worker.process.pid) for worker in workers]
    async with AIOKafkaConsumer(**stage.kafka.client_arguments()) as consumer:

        async def sample(at_least: int) -> tuple[int, float, float, float]:
            done, grown_at = 0, time.perf_counter()
            while done < at_least:
                await asyncio.sleep(0.02)
                before, done = done, await predicted(consumer)
                now = time.perf_counter()
                grown_at = now if done > before else grown_at
                if any(worker.process.poll() is not None for worker in workers) or now - grown_at > STALL_S_MAX:
                    raise MeasurementFailed(f"{done} of {events} predictions and no more: {said(*workers)}")
            return done, now, sum(map(cpu_s, processes)), steal_s()

        done_a, wall_a, cpu_a, stolen_a = await sample(events // 8)
        done_b, wall_b, cpu_b, stolen_b = await sample(events)
    return {
        "events_per_s": round((done_b - done_a) / (wall_b - wall_a)),
        "cpu_us_per_event": round((cpu_b - cpu_a) / (done_b - done_a) * 1e6, 2),
        "measured_s": round(wall_b - wall_a, 2),
        "stolen_pct": stolen_pct(stolen_b - stolen_a, wall_b - wall_a),
        "rss_mb": round(sum(process.memory_info().rss for process in processes) / 1e6),
    }


def _stages(workers: list[Child], events: int) -> dict[str, float]:
    """Return µs per event of each stage of the hop, by the workers' own clocks of CPU time."""
    seconds: dict[str, float] = {}
    for worker in workers:
        url = next(line.split()[-1] for line in worker.log.read_text().splitlines() if line.startswith("health: "))
        text = urllib.request.urlopen(url.replace("healthz", "metrics"), timeout=10).read().decode()
        for line in text.splitlines():
            if line.startswith("linkcast_stage_cpu_seconds_total"):
                name = line.split('"')[1]
                seconds[name] = seconds.get(name, 0.0) + float(line.split()[-1])
    return {name: round(spent / events * 1e6, 2) for name, spent in seconds.items()}
