"""The same window job in every engine, on one broker: CPU per event, with every value checked.

Rounds interleave the engines, so that what the machine does meanwhile meets all of them. A round in which something
else had the cores is void and run again; where that does not help, the figures say so.
"""

import asyncio
import contextlib
import logging
import os
import platform
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError

from bench.peers.engines import ENGINES, Engine, NotInstalled, check_names, install
from bench.peers.feed import NotFed, delete_topics, fill, make_topics
from bench.peers.figures import engine_figures, ratios, table, write_into
from bench.peers.job import TICKS_CHECKED_MIN, Job
from bench.peers.kills import killed
from bench.peers.run import EngineFailed, Offer, Run, Stage, Until, measured
from infra.broker.jars import VERSION as KAFKA_VERSION
from infra.broker.process import EmbeddedBroker, running_broker
from infra.progress import step
from streams.kafka import KafkaSettings

__all__ = ["ENGINES", "Plan", "bench", "table", "write_into"]

NOISE_MAX = 0.1
"""Cores that anything else may have during a run, and cores stolen by the host."""
TRIES_MAX = 3
SPAN_S = 10.0
STREAMS = 576
EVENTS = 5_000_000
"""8,680 of each stream, a day of event time; at 400,000 events/s it lasts for warm-up and span."""
KILL_EVENTS = STREAMS * 400

log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """What is measured, and how long."""

    rounds: int = 5
    events: int = EVENTS
    streams: int = STREAMS
    span_s: float = SPAN_S
    tries: int = TRIES_MAX
    kill: bool = False
    offered: int | None = None  # events/s, open loop; None: a backlog


def bench(names: Sequence[str] = ENGINES, plan: Plan | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Run each engine `plan.rounds` times; return medians, ranges, ratios to linkcast and what failed, and why.

    `quick` measures next to nothing and checks every value: bare and linkcast, once, 16 streams at 1,000 events/s.
    """
    check_names(list(names))
    plan = plan or Plan()
    if quick:
        names, plan = ("bare", "linkcast"), Plan(rounds=1, streams=16, span_s=1.0, tries=1, offered=1_000)
    engines, missing = _installed(names)
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="linkcast-peers-") as folder, _stage(Path(folder), plan) as stage:
        runs = asyncio.run(_rounds(stage, engines, plan, failed))
        kills = asyncio.run(_kills(stage, engines)) if plan.kill else {}
    details = {
        engine.name: {"version": engine.version} | engine_figures(runs[engine.name], noise_max=NOISE_MAX)
        for engine in engines
        if engine.name not in failed
    }
    details |= {name: {"failed": why} for name, why in failed.items()}
    details |= {name: {"not_installed": why} for name, why in missing.items()}
    return ratios(details) | {"engines": details} | ({"kills": kills} if plan.kill else {}) | _circumstances(plan)


def _installed(names: Sequence[str]) -> tuple[list[Engine], dict[str, str]]:
    engines, missing = [], {}
    for name in names:
        with step(f"making {name} ready"):
            try:
                engines.append(install(name))
            except NotInstalled as error:
                missing[name] = str(error)
                log.warning("not installed: %s", error)
    return engines, missing


@contextlib.contextmanager
def _stage(home: Path, plan: Plan) -> Iterator[Stage]:
    """Bring up a broker; it, this process and all but the engine keep off the engine's core."""
    cores = os.sched_getaffinity(0)
    core = max(cores)
    os.sched_setaffinity(0, cores - {core} or cores)
    try:
        with running_broker(home / "broker") as bootstrap:
            running = EmbeddedBroker(home / "broker").find()
            assert running
            job = Job(events=_events(plan), streams=plan.streams)
            kafka = KafkaSettings(bootstrap=bootstrap)
            yield Stage(kafka, psutil.Process(running.pid), home, core, job, "peers.")
    finally:
        os.sched_setaffinity(0, cores)


def _events(plan: Plan) -> int:
    """Return how many events a run has: the hour's worth first, then what is offered while it is measured."""
    if plan.offered is None:
        return plan.events
    return plan.streams * TICKS_CHECKED_MIN + int(plan.offered * (plan.span_s + 5.0))


async def _rounds(stage: Stage, engines: list[Engine], plan: Plan, failed: dict[str, str]) -> dict[str, list[Run]]:
    """Run every engine once a round, slow ones in the first few; one that fails is in no later one: `failed`."""
    runs: dict[str, list[Run]] = {engine.name: [] for engine in engines}
    if plan.offered is None:
        with step(f"filling the input with {stage.job.events:,} events"):
            await make_topics(stage.kafka, f"{stage.prefix}metrics")
            await fill(stage.kafka, f"{stage.prefix}metrics", stage.job.records())
    for number in range(1, plan.rounds + 1):
        for engine in engines:
            if engine.name not in failed and number <= (engine.rounds_max or number):
                with step(f"round {number} of {plan.rounds}: {engine.name}"):
                    try:
                        runs[engine.name].append(await _quietest(stage, engine, plan))
                    except (EngineFailed, NotFed, KafkaError) as error:
                        failed[engine.name] = str(error)
                        log.warning("%s", error)
    return runs


async def _quietest(stage: Stage, engine: Engine, plan: Plan) -> Run:
    """Run an engine until the machine was quiet meanwhile, at most `plan.tries` times; return the quietest run."""
    runs: list[Run] = []
    while len(runs) < plan.tries:
        runs.append(await _once(stage, engine, plan))
        log.info("%s: %s", engine.name, runs[-1])
        if runs[-1].noise <= NOISE_MAX:
            break
    return min(runs, key=lambda run: run.noise)


async def _once(stage: Stage, engine: Engine, plan: Plan) -> Run:
    app = f"{engine.name}-{secrets.token_hex(4)}"
    until = Until(plan.span_s)
    if plan.offered is None:
        return await measured(stage, engine, app, until=until, warm_up=min(engine.warm_up, stage.job.events // 4))
    # An input of its own: the hour's worth is there at the start, the rest comes at the rate offered.
    stage = stage._replace(prefix=f"{app}.")
    topic_in, ahead = f"{stage.prefix}metrics", stage.job.streams * TICKS_CHECKED_MIN
    await make_topics(stage.kafka, topic_in)
    await fill(stage.kafka, topic_in, stage.job.records(ticks=TICKS_CHECKED_MIN))
    offer = Offer(list(stage.job.records(TICKS_CHECKED_MIN)), plan.offered)
    try:
        return await measured(stage, engine, app, until=until, warm_up=ahead, offer=offer)
    finally:
        await delete_topics(stage.kafka, (stage.prefix,))


async def _kills(stage: Stage, engines: list[Engine]) -> dict[str, Any]:
    kills: dict[str, Any] = {}
    for engine in engines:
        with step(f"kill -9: {engine.name}"):
            app = f"{engine.name}-{secrets.token_hex(4)}"
            own = stage._replace(prefix=f"{app}.", job=Job(events=KILL_EVENTS, streams=STREAMS))
            await make_topics(own.kafka, f"{own.prefix}metrics")
            try:
                kills[engine.name] = await killed(own, engine, app)
            except (EngineFailed, NotFed, KafkaError) as error:
                kills[engine.name] = {"failed": str(error)}
            log.info("%s: %s", engine.name, kills[engine.name])
            await delete_topics(own.kafka, (own.prefix,))
    return kills


def _circumstances(plan: Plan) -> dict[str, Any]:
    return {
        "rounds": plan.rounds, "offered": plan.offered, "events": plan.events if plan.offered is None else None,
        "streams": plan.streams, "kafka": KAFKA_VERSION, "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(), "machine": f"{_cpu()}, {os.cpu_count()} cores",
    }  # fmt: skip


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
