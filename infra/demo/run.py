"""The main job on one machine: real Kafka, a fresh model, a fabric in fast motion, and the account of it all."""

import asyncio
import contextlib
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.progress_bar import ProgressBar

from infra.broker.failure import cause_in
from infra.broker.jars import class_path, maven_repository
from infra.broker.process import BrokerFailed, EmbeddedBroker, running_broker
from infra.demo.feed import feed_bad_records, feed_fabric, feed_samples
from infra.demo.processes import Child, linkcast
from infra.demo.tally import Tally, watch
from infra.demo.view import View, live
from infra.topics import apply_topics
from offline.simulator.fabric import Fabric, Setting
from online.models.publish import publish
from streams.contract import LinkcastError
from streams.ingest.producer import MetricsProducer
from streams.kafka import KafkaSettings

PREFIX = "linkcast."
PARTITIONS = 4
SETTLE_S_MAX = 90.0
TRAIN_S_MAX = 600.0
DELIVERY_S_MAX = 20.0
"""A broker of this machine that has been silent for this long has ended, or its disk is full."""


class Sizes(NamedTuple):
    """How much is simulated: of each fabric the model learns from, and of the one it is examined on."""

    train_ports: int = 100
    train_hours: float = 24.0
    ports: int = 200
    hours: float = 36.0


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


class _Steps(NamedTuple):
    """What will be done, in order."""

    broker: str
    topics: str
    model: str
    feed: str


class _Stage(NamedTuple):
    """What the parts of the demo share."""

    folder: Path
    view: View
    steps: _Steps
    sizes: Sizes
    seconds: float
    seed: int
    started: float


def run_demo(
    *,
    seconds: float,
    seed: int,
    started: float,
    shown: Callable[[View], AbstractContextManager[None]] = live,
    sizes: Sizes = Sizes(),  # noqa: B008  # it can't change
) -> Summary:
    """Run the demo while `shown` shows its view; `started` (monotonic) is when the user asked for it.

    Raises `Unaccounted`, and whatever a part raises. However it ends, its processes and its folder are gone.
    """
    steps = _Steps(
        broker="Apache Kafka (KRaft, one node)",
        topics="topics",
        model=f"model of other fabrics, {sizes.train_hours:g} h each",
        feed=f"{sizes.hours:g} h of {sizes.ports} ports in {seconds:g} s",
    )
    view = View(Tally(), steps=steps, started=started)
    fetching = ""

    def told(fetched: int, total: int) -> None:
        nonlocal fetching
        fetching = f"fetching its jars: {fetched / 1e6:.0f} of {total / 1e6:.0f} MB"

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linkcast-demo-")))
        stage = _Stage(folder, view, steps, sizes, seconds, seed, started)
        stack.enter_context(shown(view))
        trainer = stack.enter_context(_trainer(stage))
        with view.step(steps.broker, lambda: fetching):
            class_path(maven_repository(), progress=told)
            bootstrap = stack.enter_context(running_broker(folder / "broker"))
        return asyncio.run(_run(stage, trainer, KafkaSettings(bootstrap=bootstrap)))


def _trainer(stage: _Stage) -> AbstractContextManager[Child]:
    ports, hours = stage.sizes.train_ports, stage.sizes.train_hours
    sizes = ["--seed", str(stage.seed), "--ports", str(ports), "--hours", str(hours)]
    log = stage.folder / "train.log"
    return linkcast("train", "--no-publish", "--rates", "train", *sizes, home=stage.folder, log=log)


async def _run(stage: _Stage, trainer: Child, kafka: KafkaSettings) -> Summary:
    view, steps, sizes = stage.view, stage.steps, stage.sizes
    with view.step(steps.topics):
        await apply_topics(kafka, PREFIX, partitions=PARTITIONS, replication=1)
    # Another seed than the model's: the fabric it is examined on is not the one it learnt from.
    end_ms = int(time.time() * 1000) - 600_000
    start_ms = end_ms - int(sizes.hours * 3_600_000)
    setting = Setting(ports=sizes.ports, hours=sizes.hours, seed=stage.seed + 1_000, profile="train", start_ms=start_ms)
    fabric = Fabric(setting)
    view.incidents, view.ports = fabric.incidents, frozenset(fabric.stream_ids)
    with view.step(steps.model, trainer.last_line):
        await _until_ended(trainer)
        (bundle,) = (stage.folder / "models").iterdir()
        await publish(kafka, prefix=PREFIX, bundle=bundle, published_at=int(time.time() * 1000))
    log = stage.folder / "worker.log"
    worker = linkcast("worker", "--bootstrap", kafka.bootstrap, "--prefix", PREFIX, home=stage.folder, log=log)
    with worker as child, view.step(steps.feed, lambda: _progress(view.tally, setting)):
        late, repeats = await _feed_and_watch(stage, kafka, fabric, child)
    return _summary(stage, fabric, late, repeats)


def _progress(tally: Tally, setting: Setting) -> ProgressBar:
    fed = max(0, tally.sent_until_ms - setting.start_ms)
    return ProgressBar(total=setting.end_ms - setting.start_ms, completed=fed, complete_style="cyan")


async def _feed_and_watch(stage: _Stage, kafka: KafkaSettings, fabric: Fabric, worker: Child) -> tuple[int, int]:
    """Publish everything and see every event accounted for; return how many came late, and how many were repeats."""
    tally = stage.view.tally
    watching = asyncio.create_task(watch(kafka, PREFIX, tally))
    feeding = asyncio.create_task(_feed(stage, kafka, fabric))
    try:
        while not feeding.done():
            await asyncio.wait([feeding, watching], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            _check(stage, worker)
            if watching.done():
                watching.result()
        await feeding
        return await _settled(stage, worker)
    finally:
        for task in (feeding, watching):
            task.cancel()
        await asyncio.gather(feeding, watching, return_exceptions=True)


def _check(stage: _Stage, worker: Child) -> None:
    """Raise what ended the broker or the worker: everybody else would wait for them."""
    check_broker(EmbeddedBroker(stage.folder / "broker"))
    worker.check()


def check_broker(broker: EmbeddedBroker) -> None:
    """Raise `BrokerFailed` with what ended the broker, if it has."""
    if broker.find() is None:
        cause = cause_in(broker.log.read_text("utf-8", errors="replace")).replace(" by --data", "")
        raise BrokerFailed(f"Kafka ended in {broker.home}: {cause}. TMPDIR names another place for the demo's files")


async def _until_ended(trainer: Child) -> None:
    # Asked again and again, since a thread that waits would hold up Ctrl-C until the trainer ends.
    async with asyncio.timeout(TRAIN_S_MAX):
        while trainer.process.poll() is None:  # noqa: ASYNC110  # a process sets no event
            await asyncio.sleep(0.1)
    trainer.check()


async def _feed(stage: _Stage, kafka: KafkaSettings, fabric: Fabric) -> None:
    tally = stage.view.tally

    def told(events: int, at_ms: int) -> None:
        tally.sent += events
        tally.sent_until_ms = max(tally.sent_until_ms, at_ms)

    async with MetricsProducer(kafka, prefix=PREFIX, delivery_seconds=DELIVERY_S_MAX) as producer:
        tally.sent += await feed_samples(producer)
        tally.sent += await feed_bad_records(producer)
        await feed_fabric(producer, fabric, seconds=stage.seconds, told=told)


async def _settled(stage: _Stage, worker: Child) -> tuple[int, int]:
    """Wait until every event is accounted for; return how many came late, and how many were repeats."""
    tally = stage.view.tally
    most, deadline = 0, time.monotonic() + SETTLE_S_MAX
    while True:
        became = await asyncio.to_thread(_became, worker)
        late, repeats = became.get("late", 0), became.get("repeat", 0)
        accounted = tally.predictions + tally.dead.total() + late + repeats
        if accounted == tally.sent:
            return late, repeats
        if accounted > most:
            most, deadline = accounted, time.monotonic() + SETTLE_S_MAX
        if time.monotonic() > deadline or accounted > tally.sent:
            raise Unaccounted(
                f"{tally.sent} events were sent, {accounted} are accounted for: {tally.predictions} predictions, "
                f"{tally.dead.total()} dead letters, {late} late, {repeats} repeats. "
                f"The worker's last word: {worker.last_line()}"
            )
        _check(stage, worker)
        await asyncio.sleep(0.5)


def _became(worker: Child) -> dict[str, int]:
    """Return the worker's own count of what events became, nothing before it has said where to ask."""
    url = next((word for word in worker.log.read_text().split() if word.endswith("/healthz")), None)
    if url is None:
        return {}
    with urllib.request.urlopen(url.replace("healthz", "metrics"), timeout=10) as response:  # noqa: S310  # loopback
        lines = response.read().decode().splitlines()
    return {
        line.split('"')[1]: round(float(line.split()[-1])) for line in lines if line.startswith("linkcast_events_total")
    }


def _summary(stage: _Stage, fabric: Fabric, late: int, repeats: int) -> Summary:
    tally = stage.view.tally
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
