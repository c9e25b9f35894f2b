"""What workers wrote while they were killed is what a replay computes: each feature of a million events, each bit."""

import asyncio
import random
import signal
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.cluster import PARTITIONS, PREFIX, Cluster, MeasurementFailed, cluster, until_taken
from bench.events import SEED, fill, records
from infra.progress import step
from offline.verify import verify

DRAINED_S_MAX = 300.0


def bench(
    *, events: int = 1_200_000, streams: int = 10_000, kills: int = 5, model: Path | None = None
) -> dict[str, object]:
    """Let workers score the events, `kills` of them ended by kill -9 on the way, and compare `features` with a replay.

    `events` counts the rows compared, repeats included; `differing`, `missing` and `unexplained` are to be 0.
    """
    rng = random.Random(SEED)
    with cluster(model) as stage:
        with step(f"filling topic metrics with {events:,} events"):
            asyncio.run(fill(stage.kafka, records(events, streams=streams)))
        with step(f"workers score them, {kills} are killed"):
            for i in range(kills):
                with stage.worker("--instance", "a", name=f"killed-{i}", is_killed=True) as worker:
                    until_taken(worker)
                    time.sleep(rng.uniform(0.2, 1.5))
                    worker.process.send_signal(signal.SIGKILL)
            with stage.worker("--instance", "a", name="last") as worker:
                until_taken(worker)
                asyncio.run(_drained(stage))
        with step("replaying"):
            found = asyncio.run(verify(stage.kafka, prefix=PREFIX))
    return {
        "events": found.events, "repeats": found.events - events, "differing": found.differing,
        "missing": found.missing, "unexplained": found.unexplained, "kills": kills,
    }  # fmt: skip


async def _drained(stage: Cluster) -> None:
    """Wait until the group's offsets are the ends of topic `metrics`."""
    partitions = [TopicPartition(f"{PREFIX}metrics", p) for p in range(PARTITIONS)]
    deadline = time.monotonic() + DRAINED_S_MAX
    consumer = AIOKafkaConsumer(
        **stage.kafka.client_arguments(), group_id=f"{PREFIX}worker", enable_auto_commit=False
    )  # fmt: skip
    async with consumer:
        ends = await consumer.end_offsets(partitions)
        while {tp: await consumer.committed(tp) for tp in partitions} != ends:
            if time.monotonic() > deadline:
                raise MeasurementFailed(f"the last worker did not commit {ends} within {DRAINED_S_MAX:g} s")
            await asyncio.sleep(0.2)
