"""The worker as a service: partitions, the models topic and health, from start to a clean stop."""

import asyncio
import contextlib
import gc
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from online.models import keys
from online.models.champion import Champion
from online.models.topic import Models
from online.worker import health, partition
from online.worker.partition import ScoredPartition
from streams import compiled, measures
from streams.features import fingerprints, prefetch
from streams.features.labels import RuleTable
from streams.features.stream_table import StreamTable
from streams.group.runner import Membership, Runner
from streams.kafka import KafkaSettings

log = logging.getLogger(__name__)


class WorkerSettings(NamedTuple):
    """How a worker works. All members of one group must share `time_zone`, `rules` and `outputs_sha256`."""

    prefix: str
    group: str
    time_zone: str
    rules: RuleTable
    streams_max: int
    trusted_keys: Path  # a public key, or a folder of them
    health_host: str
    health_port: int
    instance: str | None = None  # static membership
    exactly_once: bool = False
    accept_gap: bool = False

    def member(self) -> Membership:
        """Return what the worker is in its group."""
        rules = repr([part.tolist() if isinstance(part, np.ndarray) else part for part in self.rules])
        computes = hashlib.sha256(f"{outputs_sha256()} {self.time_zone} {rules}".encode()).hexdigest()
        return Membership(self.group, computes, self.instance, self.exactly_once, self.accept_gap)


def outputs_sha256() -> str:
    """Return the fingerprint of all code that an output's bytes rest on, whichever member of a group puts it out.

    That is a partition's owner and what it imports, from the scanners to the predictions' writer. No output rests on
    how kernels are compiled and fetch memory, on what a worker says of itself, or on who may sign a bundle.
    """
    return fingerprints.fingerprint(partition, without=(compiled, fingerprints, keys, measures, prefetch))


async def run_worker(
    kafka: KafkaSettings, settings: WorkerSettings, stop: asyncio.Event, *, ready: Callable[[int], None]
) -> None:
    """Score the partitions that the group gives us until `stop`; `ready` is told the health port at the start."""
    champion = Champion()
    measures.MODEL.labels(champion.scorer.version).set(1)  # the rules; `Models` takes it away with the first model
    topic = f"{settings.prefix}metrics"

    def open_partition(number: int) -> ScoredPartition:
        table = StreamTable(
            time_zone=settings.time_zone, rules=settings.rules, streams_max=settings.streams_max
        )  # fmt: skip
        return ScoredPartition(number, topic=topic, table=table, champion=champion)

    runner = Runner(
        kafka,
        prefix=settings.prefix,
        member=settings.member(),
        open_partition=open_partition,
    )
    models = Models(kafka, prefix=settings.prefix, trusted_keys=settings.trusted_keys, champion=champion)
    with health.serve(
        settings.health_host,
        settings.health_port,
        idle_s=runner.idle_s,
        model=lambda: champion.scorer.version,
    ) as port:
        ready(port)
        async with _under_way(models.follow()) as following:
            # The first batch is scored by the newest model, not by whatever was quickest to load.
            await _first(models.caught_up.wait(), stop.wait(), following)
            log.info("scoring with %s", champion.scorer.version)
            # What is here now stays, Numba's and XGBoost's modules above all: no collection has to walk it again.
            gc.collect()
            gc.freeze()
            async with _under_way(runner.run(stop)) as running:
                await _first(running, following)
                await running


@contextlib.asynccontextmanager
async def _under_way(work: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Do `work` beside the block, and no longer than that."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _first(*awaitables: object) -> None:
    """Return when the first is done, and raise what it raised."""
    tasks = [asyncio.ensure_future(a) for a in awaitables]  # type: ignore[call-overload]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
