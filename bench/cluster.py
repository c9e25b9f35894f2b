"""Where a worker is measured: a broker of its own in a temporary folder, a model on it, a core kept for the worker."""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.broker.process import running_broker
from infra.demo.processes import Child, linkcast
from infra.progress import step
from infra.topics import apply_topics
from online.models.publish import publish
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings

PREFIX = "bench."
PARTITIONS = 2
START_MS = 1_700_000_000_000
TAKEN_S_MAX = 90.0
"""How long a worker may take to have its partitions: a first start compiles the kernel."""


class MeasurementFailed(LinkcastError):
    """A worker ended, stalled, or did something else than score each event by the model."""


class Cluster(NamedTuple):
    """One broker, the bundle published on it, and the core that nothing else of ours runs on."""

    kafka: KafkaSettings
    home: Path
    bundle: Path
    core: int

    @contextmanager
    def worker(
        self, *options: str, name: str = "worker", pinned: bool = True, is_killed: bool = False
    ) -> Iterator[Child]:
        """Run `linkcast worker` until the block ends, on the free core; `MeasurementFailed` unless it ends well.

        With `is_killed` the block ends it by kill -9.
        """
        cluster = ("--bootstrap", self.kafka.bootstrap, "--prefix", PREFIX)
        keys = ("--trusted-keys", str(self.bundle.parent.parent / "keys"))
        log = self.home / f"{name}.log"
        with linkcast("worker", *cluster, *keys, *options, home=self.home, log=log) as worker:
            if pinned:
                os.sched_setaffinity(worker.process.pid, {self.core})
            yield worker
        if worker.process.returncode != (-signal.SIGKILL if is_killed else 0):
            raise MeasurementFailed(f"{name} ended with {worker.process.returncode}: {said(worker)}")


@contextmanager
def cluster(model: Path | None) -> Iterator[Cluster]:
    """Bring up a broker with the declared topics and a published model; it goes with its folder.

    `model` is a bundle as `linkcast train` leaves it, HOME/models/VERSION with its key in HOME/keys; None trains a
    small one first.
    """
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linkcast-bench-")))
        bundle = model.resolve() if model else small_bundle(home)
        core = stack.enter_context(one_core_free())
        kafka = KafkaSettings(bootstrap=stack.enter_context(running_broker(home / "broker")))
        asyncio.run(apply_topics(kafka, PREFIX, partitions=PARTITIONS, replication=1))
        asyncio.run(publish(kafka, prefix=PREFIX, bundle=bundle, published_at=START_MS))
        yield Cluster(kafka, home, bundle, core)


def small_bundle(home: Path) -> Path:
    """Train a small model in a folder and return its bundle."""
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
def one_core_free() -> Iterator[int]:
    """Keep this process, and what it starts, off one core and give its number; all may use an only core."""
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, cores - {core} or cores)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, cores)


def until_taken(*workers: Child) -> None:
    """Return once each worker has a partition and together they have all, as their logs say."""
    deadline = time.monotonic() + TAKEN_S_MAX
    while not all(taken := [child.log.read_text().count("reading from") for child in workers]) or (
        sum(taken) < PARTITIONS
    ):
        ended = [child for child in workers if child.process.poll() is not None]
        if ended or time.monotonic() > deadline:
            raise MeasurementFailed(f"{taken} partitions taken of {PARTITIONS}: {said(*(ended or workers))}")
        time.sleep(0.02)


def cpu_s(process: psutil.Process) -> float:
    """Return the seconds of CPU that a process has used, in user and system mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def said(*workers: Child) -> str:
    """Return the ends of the workers' logs."""
    return "\n".join(child.log.read_text(errors="replace")[-2_000:] for child in workers)


def predictions() -> list[TopicPartition]:
    """Return the partitions of topic `predictions`."""
    return [TopicPartition(f"{PREFIX}predictions", p) for p in range(PARTITIONS)]


async def predicted(consumer: AIOKafkaConsumer) -> int:
    """Return how many predictions there are."""
    return sum((await consumer.end_offsets(predictions())).values())


async def check_predictions(kafka: KafkaSettings, model: str, events: int) -> None:
    """Read all predictions; raise `MeasurementFailed` unless there is one an event, by the model."""
    said_by_model = b'"model":"%s"' % model.encode()
    async with AIOKafkaConsumer(**kafka.client_arguments(), enable_auto_commit=False) as consumer:
        consumer.assign(predictions())
        await consumer.seek_to_beginning()
        n = await predicted(consumer)
        n_read = n_by_model = 0
        while n_read < n:
            for batch in (await consumer.getmany(timeout_ms=1_000)).values():
                n_read += len(batch)
                n_by_model += sum(said_by_model in record.value for record in batch)
    if not n_by_model == n == events:
        raise MeasurementFailed(
            f"{events} events gave {n} predictions, {n_by_model} of them by {model}: is its key trusted?"
        )
