"""The main job on one machine: real Kafka, a fresh model, a fabric in fast motion, and the account of it all."""

import asyncio
import contextlib
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.live import Live

from infra.broker.process import running_broker
from infra.demo.feed import feed_bad_records, feed_fabric, feed_samples
from infra.demo.processes import Child, linkcast
from infra.demo.tally import Tally, watch
from infra.demo.view import View
from infra.topics import apply_topics
from offline.simulator.fabric import Fabric, Setting
from online.publish import publish
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings
from streams.producer import MetricsProducer

PREFIX = "linkcast."
PARTITIONS = 4
TRAIN_PORTS, TRAIN_HOURS = 400, 48.0
PORTS, HOURS = 200, 36.0
SETTLE_S_MAX = 90.0
TRAIN_S_MAX = 600.0


class Unaccounted(LinkcastError):
    """An event that was sent left no trace, or two."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the demo did; `predictions + dead_letters + repeats + late = events_sent` holds, or there is no summary."""

    events_sent: int
    predictions: int
    dead_letters: int
    repeats: int
    late: int  # older than their stream's newest event: they entered its windows and gave no prediction
    incidents_true: int
    incidents_called_before: int
    median_lead_s: float | None
    false_alarms: int
    first_prediction_s: float
    events_per_s: float
    model: str


class _Stage(NamedTuple):
    """What the parts of the demo share."""

    folder: Path
    view: View
    tally: Tally
    started: float


def run_demo(*, seconds: float, seed: int, started: float) -> Summary:
    """Run the demo with its view on stderr; `started` (monotonic) is when the user asked for it.

    Raises `Unaccounted`, and whatever a part raises. However it ends, its processes and its folder are gone.
    """
    console = Console(stderr=True)
    tally = Tally()
    view = View(tally, lambda: time.monotonic() - started)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linkcast-demo-")))
        stage = _Stage(folder, view, tally, started)
        if console.is_terminal:
            stack.enter_context(Live(view, console=console, refresh_per_second=4, transient=True))
        trainer = stack.enter_context(_trainer(folder, seed))
        with _step(stage, console, "Apache Kafka (KRaft, one node)"):
            bootstrap = stack.enter_context(running_broker(folder / "broker"))
        return asyncio.run(_run(stage, console, trainer, KafkaSettings(bootstrap=bootstrap), seconds, seed))


def _trainer(folder: Path, seed: int) -> contextlib.AbstractContextManager[Child]:
    arguments = ["train", "--no-publish", "--rates", "train", "--seed", str(seed), "--ports", str(TRAIN_PORTS)]
    return linkcast(*arguments, "--hours", str(TRAIN_HOURS), home=folder, log=folder / "train.log")


async def _run(
    stage: _Stage, console: Console, trainer: Child, kafka: KafkaSettings, seconds: float, seed: int
) -> Summary:
    with _step(stage, console, "topics"):
        await apply_topics(kafka, PREFIX, partitions=PARTITIONS, replication=1)
    # Another seed than the model's: the fabric it is examined on is not the one it learnt from.
    end_ms = int(time.time() * 1000) - 600_000
    start_ms = end_ms - int(HOURS * 3_600_000)
    fabric = Fabric(Setting(ports=PORTS, hours=HOURS, seed=seed + 1_000, profile="train", start_ms=start_ms))
    stage.view.incidents = fabric.incidents
    with _step(stage, console, f"model from {TRAIN_HOURS:g} h of another fabric of {TRAIN_PORTS} ports"):
        await _until_ended(trainer)
        (bundle,) = (stage.folder / "models").iterdir()
        await publish(kafka, prefix=PREFIX, bundle=bundle, published_at=int(time.time() * 1000))
    worker_log = stage.folder / "worker.log"
    worker = linkcast("worker", "--bootstrap", kafka.bootstrap, "--prefix", PREFIX, home=stage.folder, log=worker_log)
    with worker as child:
        watching = asyncio.create_task(watch(kafka, PREFIX, stage.tally))
        feeding = asyncio.create_task(_feed(stage, kafka, fabric, seconds))
        with _step(stage, console, f"{HOURS:g} h of {PORTS} ports in {seconds:g} s"):
            try:
                while not feeding.done():
                    await asyncio.wait([feeding, watching], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                    child.check()
                    if watching.done():
                        watching.result()
                await feeding
                late, repeats = await _settled(stage.tally, child)
            finally:
                for task in (feeding, watching):
                    task.cancel()
                await asyncio.gather(feeding, watching, return_exceptions=True)
    return _summary(stage, fabric, late, repeats)


async def _until_ended(trainer: Child) -> None:
    await asyncio.to_thread(trainer.process.wait, TRAIN_S_MAX)
    trainer.check()


async def _feed(stage: _Stage, kafka: KafkaSettings, fabric: Fabric, seconds: float) -> None:
    tally = stage.tally

    def told(events: int, at_ms: int) -> None:
        tally.sent += events
        tally.sent_until_ms = max(tally.sent_until_ms, at_ms)

    async with MetricsProducer(kafka, prefix=PREFIX) as producer:
        tally.sent += await feed_samples(producer)
        tally.sent += await feed_bad_records(producer)
        await feed_fabric(producer, fabric, seconds=seconds, told=told)


async def _settled(tally: Tally, worker: Child) -> tuple[int, int]:
    """Wait until every event is accounted for; return how many came late, and how many were repeats."""
    deadline = time.monotonic() + SETTLE_S_MAX
    while True:
        became = await asyncio.to_thread(_became, worker)
        late, repeats = became.get("late", 0), became.get("repeat", 0)
        accounted = tally.predictions + tally.dead.total() + late + repeats
        if accounted == tally.sent:
            return late, repeats
        if time.monotonic() > deadline or accounted > tally.sent:
            raise Unaccounted(
                f"{tally.sent} events were sent, {accounted} are accounted for: {tally.predictions} predictions, "
                f"{tally.dead.total()} dead letters, {late} late, {repeats} repeats. The worker's log: {worker.log}"
            )
        worker.check()
        await asyncio.sleep(0.5)


def _became(worker: Child) -> dict[str, int]:
    """Return the worker's own count of what events became."""
    url = next(word for word in worker.log.read_text().split() if word.endswith("/healthz"))
    with urllib.request.urlopen(url.replace("healthz", "metrics"), timeout=10) as response:  # noqa: S310  # loopback
        lines = response.read().decode().splitlines()
    return {
        line.split('"')[1]: round(float(line.split()[-1])) for line in lines if line.startswith("linkcast_events_total")
    }


def _summary(stage: _Stage, fabric: Fabric, late: int, repeats: int) -> Summary:
    tally = stage.tally
    assert tally.first_prediction_at is not None  # every event is accounted for, and most are no dead letters
    found = tally.report(fabric.incidents)
    leads = sorted(found.called_before.values())
    return Summary(
        events_sent=tally.sent,
        predictions=tally.predictions,
        dead_letters=tally.dead.total(),
        repeats=repeats,
        late=late,
        incidents_true=found.incidents,
        incidents_called_before=len(leads),
        median_lead_s=round(leads[len(leads) // 2] / 1000, 1) if leads else None,
        false_alarms=len(found.false_alarms),
        first_prediction_s=round(tally.first_prediction_at - stage.started, 1),
        events_per_s=round(tally.sent / (tally.last_prediction_at - tally.first_prediction_at), 1),
        model=tally.models.most_common(1)[0][0],
    )


@contextlib.contextmanager
def _step(stage: _Stage, console: Console, name: str) -> Iterator[None]:
    stage.view.steps.append((name, ""))
    if not console.is_terminal:
        console.print(f"{name} …", highlight=False)
    start = time.monotonic()
    yield
    took = f"{time.monotonic() - start:.1f} s"
    stage.view.steps[-1] = name, took
    if not console.is_terminal:
        console.print(f"  done in {took}", highlight=False)
