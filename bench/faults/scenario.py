"""One kind of fault in a world of its own: a topic prefix, a feed, real workers, and a watch on what is committed."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bench.faults.feed import PARTITIONS, Feed
from bench.faults.models import bundles
from bench.faults.oracle import committed, read
from infra.broker.process import EmbeddedBroker
from infra.topics import apply_topics
from online.models.publish import publish
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, await_broker

WATCH_S = 0.1
MOVES_WITHIN_S = 60.0
"""From a fault to the next commit of each partition; longer is as good as stuck."""


TOOK_OVER = ": reading from "
"""What the runner logs with each partition that it takes over."""


class FaultDidNotFire(LinkcastError):
    """What was to break did not break: the run proves nothing."""


class Stuck(LinkcastError):
    """The workers did not go on."""


async def _until(is_so: Callable[[], object], otherwise: Callable[[], Exception]) -> None:
    """Wait until it is so; raise what `otherwise` makes if it still isn't after `MOVES_WITHIN_S`."""
    deadline = time.monotonic() + MOVES_WITHIN_S
    while not is_so():
        if time.monotonic() > deadline:
            raise otherwise()
        await asyncio.sleep(WATCH_S)


class Worker:
    """A `linkcast worker` as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self.log = process, log

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self, number: int, seconds: float = 60.0) -> None:
        """Wait for its end by this exit status, -9 for a SIGKILL; raise `FaultDidNotFire` for anything else."""
        try:
            status: int | None = await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            status = None
        if status != number:
            ended = "still runs" if status is None else f"ended with {status}"
            raise FaultDidNotFire(f"a worker should have ended with {number} and {ended}; {self.last_words()}")

    async def says(self, text: str, *, more_than: int = 0) -> None:
        """Wait until its log has `text` more often than that; raise `FaultDidNotFire` if it never has."""
        await _until(
            lambda: self._said(text) > more_than,
            lambda: FaultDidNotFire(f"a worker did not say {text!r}; {self.last_words()}"),
        )

    def takeovers(self) -> int:
        """Return how often it has taken a partition over."""
        return self._said(TOOK_OVER)

    async def takes_over(self, *, more_than: int) -> None:
        """Wait until it has taken over partitions more often than that."""
        await self.says(TOOK_OVER, more_than=more_than)

    async def scores_with(self, model: str) -> None:
        """Wait until it has taken up that version."""
        await self.says(f"model {model} scores from now on")

    def last_words(self) -> str:
        """Return the end of its log."""
        return f"its log ends with:\n{self.log.read_text(errors='replace')[-2_000:]}"

    def _said(self, text: str) -> int:
        return self.log.read_text(errors="replace").count(text)


@dataclass
class Fault:
    """One fault that fired, and how long it took until each partition's committed offset had moved again."""

    at: float  # s, monotonic
    base: dict[int, int] | None = None  # offsets found committed right after it, by partition
    recovered_s: float | None = None  # None where another fault came first


@dataclass
class Scenario:
    """The world of one kind of fault."""

    broker: EmbeddedBroker
    kafka: KafkaSettings
    prefix: str
    home: Path
    rng: random.Random
    exactly_once: bool = False
    feed: Feed = field(init=False)
    bundles: Iterator[Path] = field(init=False)
    faults: list[Fault] = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    sharing: int = 0  # members among whom the group's partitions are shared out; 0 during a rebalance
    from_the_future: int = 0  # events that were sent so
    bootstrap: str | None = None  # of the workers, where it is not the feed's

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.bundles = bundles(self.home, self.rng.getrandbits(32))
        self.feed = Feed(self.kafka, f"{self.prefix}metrics", random.Random(self.rng.random()))

    @property
    def group(self) -> str:
        """The workers' consumer group."""
        return f"{self.prefix}worker"

    async def start(self, *arguments: str, **environment: str) -> Worker:
        """Start a worker with these arguments and additions to its environment."""
        log = self.home / f"worker-{len(self.workers)}.log"
        code = "from infra.command import main; main()"
        cluster = ("--bootstrap", self.bootstrap or self.kafka.bootstrap, "--prefix", self.prefix)
        cluster += ("--exactly-once",) * self.exactly_once
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, "worker", *cluster, *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
                env=os.environ | {"LINKCAST_HOME": str(self.home)} | environment,
            )  # fmt: skip
        self.workers.append(Worker(process, log))
        return self.workers[-1]

    async def publish_model(self) -> str:
        """Publish a model that was never there before; return its version."""
        bundle = await asyncio.to_thread(next, self.bundles)
        await publish(self.kafka, prefix=self.prefix, bundle=bundle, published_at=time.time_ns() // 1_000_000)
        return bundle.name

    def struck(self) -> None:
        """Note a fault that has fired just now."""
        self.faults.append(Fault(time.monotonic()))

    async def moved(self) -> None:
        """Wait until each partition's committed offset has moved since the last fault, or at all."""
        await _until(
            lambda: self.faults[-1].recovered_s if self.faults else _all_moved(self.offsets, {}),
            lambda: Stuck(
                f"not all partitions were committed within {MOVES_WITHIN_S:g} s of a fault, now {self.offsets}; of "
                f"the worker started last {self.workers[-1].last_words()}"
            ),
        )

    async def shared_among(self, n: int) -> None:
        """Wait until the group's partitions are shared out among so many members.

        Their logs don't tell: who is quick to rejoin logs what it took over before and after.
        """
        await _until(
            lambda: self.sharing == n,
            lambda: Stuck(
                f"the group was not shared out among {n} members within {MOVES_WITHIN_S:g} s, but among "
                f"{self.sharing} (0: it rebalances); of the worker started last {self.workers[-1].last_words()}"
            ),
        )

    async def kill(self, worker: Worker) -> None:
        """SIGKILL a worker and note it."""
        worker.send(signal.SIGKILL)
        await self.killed(worker)

    async def killed(self, worker: Worker) -> None:
        """Wait for the end of a worker by SIGKILL, its own at a fail point for one, and note it."""
        await worker.ended(-signal.SIGKILL)
        self.struck()

    async def watch(self) -> None:
        """Keep `offsets`, `sharing` and the faults' recovery times up to date, through any outage."""
        while True:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await await_broker(self.kafka)
                await self._watch()
            await asyncio.sleep(WATCH_S)

    async def _watch(self) -> None:
        admin = AIOKafkaAdminClient(**self.kafka.client_arguments(), request_timeout_ms=5_000)
        await admin.start()
        try:
            while True:
                asked_at = time.monotonic()
                offsets = await admin.list_consumer_group_offsets(self.group)
                self.offsets = {tp.partition: at.offset for tp, at in offsets.items()}
                for fault in self.faults[-1:]:
                    if fault.base is None:
                        fault.base = self.offsets if asked_at > fault.at else None
                    elif fault.recovered_s is None and _all_moved(self.offsets, fault.base):
                        fault.recovered_s = time.monotonic() - fault.at
                self.sharing = _sharing(*await admin.describe_consumer_groups([self.group]))
                await asyncio.sleep(WATCH_S)
        finally:
            await admin.close()

    async def drain(self, end_feed: Callable[[], Awaitable[None]]) -> None:
        """Let one clean worker take all over and, with the feed at its end, finish and hand its state over."""
        await self.end_workers()
        worker = await self.start("--instance", "a")
        await worker.takes_over(more_than=PARTITIONS - 1)
        # What it commits beyond the worker before it has put out: all that lies before is rebuilt then.
        before = await committed(self.kafka, self.group, f"{self.prefix}metrics")
        await _until(
            lambda: _all_moved(self.offsets, before),
            lambda: Stuck(f"committed {self.offsets} as before the last worker began; {worker.last_words()}"),
        )
        await end_feed()
        ends = {p: records[-1].offset + 1 for p, records in (await read(self.kafka, f"{self.prefix}metrics")).items()}
        await _until(
            lambda: self.offsets == ends,
            lambda: Stuck(f"committed {self.offsets} of {ends} at the end; {worker.last_words()}"),
        )
        worker.send(signal.SIGTERM)
        await worker.ended(0)

    async def end_workers(self) -> None:
        """Kill what still runs, without calling it a fault."""
        for worker in self.workers:
            if worker.process.returncode is None:
                worker.send(signal.SIGKILL)
                await worker.process.wait()


def _all_moved(offsets: dict[int, int], base: dict[int, int]) -> bool:
    return len(offsets) == PARTITIONS and all(offset > base.get(p, 0) for p, offset in offsets.items())


def _sharing(answer: Any) -> int:
    [(_error, _group, state, _type, _protocol, members, *_)] = answer.groups
    return len(members) if state == "Stable" else 0


@contextlib.asynccontextmanager
async def fed(scenario: Scenario) -> AsyncIterator[Scenario]:
    """Make the topics, feed and watch while the block runs, and until all is drained; no worker is left behind."""
    await apply_topics(scenario.kafka, scenario.prefix, partitions=PARTITIONS, replication=1)
    stop = asyncio.Event()
    feeding, watching = asyncio.create_task(scenario.feed.run(stop)), asyncio.create_task(scenario.watch())

    async def end_feed() -> None:
        stop.set()
        await feeding

    try:
        yield scenario
        await scenario.drain(end_feed)
    finally:
        await scenario.end_workers()
        for task in (feeding, watching):
            task.cancel()
        await asyncio.gather(feeding, watching, return_exceptions=True)
