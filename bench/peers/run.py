"""One engine, once, on one broker: its CPU per event between two samples, and every value that it wrote.

Events are the growth of the output topic's end offsets between the two samples and CPU is the process tree's between
the same two, so start, imports and compilers are out. A run without a sound answer is no run: `EngineFailed`.
"""

import asyncio
import contextlib
import logging
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer

from bench.peers.engines import Engine, running
from bench.peers.feed import KeyedRecord, delete_topics, ends, make_topics, pace, read_into
from bench.peers.job import TICKS_CHECKED_MIN, Check, Job, Verdict
from bench.peers.machine import Usage, between, usage
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings

STALL_S_MAX = 120.0
_ASK_S = 0.05

log = logging.getLogger(__name__)


class EngineFailed(LinkcastError):
    """An engine ended, stalled, lost a worker or gave a wrong answer."""


class Stage(NamedTuple):
    """Where runs take place: a broker, a folder, the engine's core and the input of one job."""

    kafka: KafkaSettings
    broker: psutil.Process
    home: Path
    core: int
    job: Job
    prefix: str  # of the job's topics; the input is `PREFIXmetrics`


class Run(NamedTuple):
    """One run's figures."""

    events: int
    span_s: float
    cpu_us: float  # per event
    events_per_s: float
    broker_cpu_us: float  # per event
    rss_mb: float
    first_output_s: float  # since its start
    busy_other: float
    steal: float
    checked: int  # outputs, all right

    @property
    def noise(self) -> float:
        """Cores that something else had, the larger of the two kinds."""
        return max(self.busy_other, self.steal)


class Until(NamedTuple):
    """When a run is over: both hold, or the input has been worked off."""

    span_s: float
    ticks: int = TICKS_CHECKED_MIN  # events of each stream, so that the hour has expired


class Offer(NamedTuple):
    """What comes in while an engine runs, whether or not it keeps up."""

    records: list[KeyedRecord]
    rate: float  # per second


async def measured(
    stage: Stage, engine: Engine, app: str, *, until: Until, warm_up: int, offer: Offer | None = None
) -> Run:
    """Run an engine over the input from its beginning; what is offered comes once `warm_up` outputs are there."""
    async with fresh_topics(stage, app) as topic_out, AIOKafkaConsumer(**stage.kafka.client_arguments()) as consumer:
        with started(stage, engine, app, topic_out) as process:
            watch = Watch(stage, consumer, process, topic_out, app)
            first_output_s = await watch.until(lambda: sum(watch.ends) > 0)
            await watch.until(lambda: sum(watch.ends) >= warm_up)
            async with _offered(stage, offer):
                settled = warm_up + (int(2 * offer.rate) if offer else 0)
                await watch.until(lambda: sum(watch.ends) >= settled)
                events_a, a = sum(watch.ends), watch.sample()
                await watch.until(lambda: _is_over(stage.job, watch, a, until))
                events_b, b = sum(watch.ends), watch.sample()
        if process.returncode not in (0, -signal.SIGTERM):
            raise EngineFailed(f"{app}, told to stop, ended with {process.returncode}: {watch.last_words()}")
        verdict = await judged(stage, engine, topic_out)
    _insist(app, verdict, until.ticks)
    events, span = events_b - events_a, between(a, b)
    if span.lost_workers or not events:
        raise EngineFailed(
            f"{app}: {span.lost_workers} processes ended and {events} outputs came while it was measured"
        )
    return Run(
        events, span.wall_s, span.engine_s / events * 1e6, events / span.wall_s, span.broker_s / events * 1e6,
        span.rss_mb, first_output_s, span.busy_other, span.steal, verdict.outputs,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def _offered(stage: Stage, offer: Offer | None) -> AsyncIterator[None]:
    if offer is None:
        yield
        return
    feeder = asyncio.create_task(pace(stage.kafka, f"{stage.prefix}metrics", offer.records, offer.rate))
    try:
        yield
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


def _is_over(job: Job, watch: "Watch", a: Usage, until: Until) -> bool:
    if sum(watch.ends) >= job.events:
        return True
    checked = all(
        end >= until.ticks * job.partition.count(p) for p, end in enumerate(watch.ends)
    )  # fmt: skip
    return checked and time.monotonic() - a.at_s >= until.span_s


def _insist(app: str, verdict: Verdict, ticks: int) -> None:
    if verdict.lost or verdict.repeated or verdict.wrong or verdict.ticks < ticks:
        raise EngineFailed(
            f"{app}: of {verdict.outputs} outputs {verdict.wrong} are wrong and {verdict.repeated} repeated, "
            f"{verdict.lost} are missing, and one stream has {verdict.ticks} of at least {ticks}: no figure"
        )


async def judged(stage: Stage, engine: Engine, topic_out: str) -> Verdict:
    """Hold all that an engine wrote against the reference."""
    check = Check(stage.job, carried=engine.carries)
    await read_into(check, stage.kafka, topic_out)
    return check.verdict()


@contextlib.asynccontextmanager
async def fresh_topics(stage: Stage, app: str) -> AsyncIterator[str]:
    """Give an engine an empty output topic, and take away all topics that are its own."""
    topic_out = f"{stage.prefix}out-{app}"
    # linkcast's snapshots lie on one topic a prefix: a run must not go on from the one before.
    await make_topics(stage.kafka, topic_out, f"{stage.prefix}state")
    try:
        yield topic_out
    finally:
        await delete_topics(stage.kafka, (topic_out, app, f"changelog__{app}"))


def started(
    stage: Stage, engine: Engine, app: str, topic_out: str
) -> contextlib.AbstractContextManager["subprocess.Popen[bytes]"]:
    """Start an engine over the stage's input, on the stage's core."""
    return running(
        engine, bootstrap=stage.kafka.bootstrap, topic_in=f"{stage.prefix}metrics", topic_out=topic_out, app=app,
        home=stage.home, core=stage.core,
    )  # fmt: skip


class Watch:
    """The growth of an engine's output; raises `EngineFailed` where the engine ends or nothing grows any more."""

    def __init__(
        self, stage: Stage, consumer: AIOKafkaConsumer, process: "subprocess.Popen[bytes]", topic_out: str, app: str
    ) -> None:
        self._stage, self._consumer, self._process, self._topic = stage, consumer, process, topic_out
        self._app, self._log = app, stage.home / f"{app}.log"
        self.ends: list[int] = []

    async def until(self, reached: Callable[[], bool], *, stall_s_max: float = STALL_S_MAX) -> float:
        """Wait until `reached` holds, and return how long it took, in seconds."""
        start = grown_at = time.monotonic()
        while True:
            before, self.ends = self.ends, await ends(self._consumer, self._topic)
            if reached():
                return time.monotonic() - start
            grown_at = time.monotonic() if self.ends != before else grown_at
            if self._process.poll() is not None:
                raise EngineFailed(f"{self._app} ended with {self._process.returncode}: {self.last_words()}")
            if time.monotonic() - grown_at > stall_s_max:
                raise EngineFailed(f"{self._app}: {sum(self.ends)} outputs and no more: {self.last_words()}")
            await asyncio.sleep(_ASK_S)

    def sample(self) -> Usage:
        """Take a sample of the machine."""
        try:
            return usage(psutil.Process(self._process.pid), self._stage.broker)
        except psutil.NoSuchProcess as error:
            raise EngineFailed(f"{self._app} or the broker has ended: {self.last_words()}") from error

    def last_words(self) -> str:
        """Return the end of what the engine said."""
        return self._log.read_text("utf-8", errors="replace")[-1_500:].strip() or "it said nothing"
