"""Real workers on a real broker are broken in every way we know, and lose nothing and get nothing wrong.

Each kind of fault has a topic prefix, a feed and workers of its own and breaks them so many times in a row; then all
is drained, and what is in Kafka is held against the same log through the pure processor: outputs after dropping repeats
by `src`, each repeat against its first, the last snapshot's state bit for bit, committed offsets against the log's end.
"""

import asyncio
import contextlib
import logging
import random
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.faults import kinds
from bench.faults.models import loader
from bench.faults.oracle import Verdict, judge
from bench.faults.scenario import Fault, FaultDidNotFire, Scenario, fed
from infra.broker.process import EmbeddedBroker, PortTaken
from online.worker.prediction_json import compile_encoder
from streams.features.stream_table import compile_kernel
from streams.kafka import KafkaSettings

PORTS = range(20_000, 30_000)
"""Below those that Linux and others give to whoever asks for any, as each worker does for its health."""

log = logging.getLogger(__name__)

Kind = Callable[[Scenario, int], Awaitable[None]]


class Plan(NamedTuple):
    """How to break, and how often."""

    kind: Kind
    tries: int
    exactly_once: bool = False  # what the workers run with, and then no reader of committed records sees a repeat
    own_broker: bool = False


KINDS: dict[str, Plan] = {
    "SIGKILL at each step": Plan(kinds.kill_at_each_step, 60),
    "exactly once: at each step": Plan(kinds.kill_at_each_step, 30, exactly_once=True),
    "broker SIGKILL": Plan(kinds.broker_killed, 8, own_broker=True),
    "exactly once: broker": Plan(kinds.broker_killed, 6, exactly_once=True, own_broker=True),
    "SIGKILL at random": Plan(kinds.kill_at_random, 20),
    "exactly once: at random": Plan(kinds.kill_at_random, 12, exactly_once=True),
    "SIGSTOP past the session": Plan(kinds.zombie, 10),
    "exactly once: SIGSTOP": Plan(kinds.zombie, 6, exactly_once=True),
    "SIGKILL at a new model": Plan(kinds.model_changed, 12),
    "exactly once: new model": Plan(kinds.model_changed, 8, exactly_once=True),
    "join and leave": Plan(kinds.join_and_leave, 12),
    "exactly once: join, leave": Plan(kinds.join_and_leave, 8, exactly_once=True),
    "connection cut": Plan(kinds.connection_cut, 12),
    "exactly once: connection": Plan(kinds.connection_cut, 6, exactly_once=True),
    "connection delayed": Plan(kinds.connection_delayed, 8),
    "disk full": Plan(kinds.disk_full, 4),
    "snapshot chunk missing": Plan(partial(kinds.chunk_tampered, how=kinds.missing), 6),
    "snapshot chunk truncated": Plan(partial(kinds.chunk_tampered, how=kinds.truncated), 6),
    "snapshot chunk bit-flipped": Plan(partial(kinds.chunk_tampered, how=kinds.bit_flipped), 6),
    "future-stamped flood": Plan(kinds.future_flood, 6),
    "hot node": Plan(kinds.hot_node, 6),
}
"""Those that take longest come first, since several kinds run side by side."""

Figures = dict[str, float]


def bench(*, seed: int, tries: Mapping[str, int] | None = None, at_once: int = 4) -> dict[str, object]:
    """Run so many faults of each kind, all as `KINDS` says where `tries` is None, `at_once` kinds at a time.

    Returns the figures of each kind by its name, and over all: tried, lost, wrong, repeats (before they are dropped),
    repeats_exactly_once (which must be none), recovery_p50_s, recovery_max_s. Raises `FaultDidNotFire` where a run
    would prove nothing, `Stuck` where the workers did not go on.
    """
    compile_kernel()  # here, and not in the first workers of all kinds at once
    compile_encoder()
    chosen = {name: plan.tries for name, plan in KINDS.items()} if tries is None else tries
    with tempfile.TemporaryDirectory(prefix="linkcast-faults-") as folder:
        by_kind = asyncio.run(_all(Path(folder), chosen, seed, at_once))
    figures = {name: _figures(*result) for name, result in by_kind.items()}
    return {
        "seed": seed,
        **{key: sum(int(f[key]) for f in figures.values()) for key in ("tried", "lost", "wrong", "repeats")},
        "repeats_exactly_once": sum(int(f["repeats"]) for name, f in figures.items() if KINDS[name].exactly_once),
        **_recovery([fault for _, faults in by_kind.values() for fault in faults]),
        **figures,
    }


Result = tuple[Verdict, list[Fault]]


async def _all(folder: Path, chosen: Mapping[str, int], seed: int, at_once: int) -> dict[str, Result]:
    turns = asyncio.Semaphore(at_once)
    results: dict[str, Result] = {}
    errors: list[Exception] = []

    async def run(i: int, name: str, n: int, broker: EmbeddedBroker) -> None:
        home = folder / f"kind-{i}"
        async with turns:
            try:
                results[name] = await _one(broker, home, name, n, random.Random(f"{seed} {name}"))
            except Exception as error:
                error.add_note(f"kind of fault: {name}, seed: {seed}, its workers' logs: {_kept(home)}")
                log.error("%s: %s", name, error)
                errors.append(error)  # the other kinds go on: each takes minutes
                return
            figures = _figures(*results[name])
            log.info("%s: %s", name, figures)
            if failed(figures | {"repeats_exactly_once": figures["repeats"] * KINDS[name].exactly_once}):
                log.error("%s: its workers' logs: %s", name, _kept(home))

    async with contextlib.AsyncExitStack() as brokers, asyncio.TaskGroup() as group:
        shared = await brokers.enter_async_context(_broker(folder / "broker"))
        for i, (name, n) in enumerate(chosen.items()):
            own = KINDS[name].own_broker
            broker = await brokers.enter_async_context(_broker(folder / f"mortal-{i}")) if own else shared
            group.create_task(run(i, name, n, broker))
    if errors:
        said = "\n".join("\n".join((str(error), *error.__notes__)) for error in errors)
        raise FaultDidNotFire(said) from ExceptionGroup("kinds of fault that proved nothing", errors)
    return {name: results[name] for name in chosen}


def _kept(home: Path) -> Path:
    """Keep what is in a folder that is about to go, and return where."""
    return Path(shutil.copytree(home, tempfile.mkdtemp(prefix="linkcast-faults-kept-"), dirs_exist_ok=True))


@contextlib.asynccontextmanager
async def _broker(home: Path) -> AsyncIterator[EmbeddedBroker]:
    broker = EmbeddedBroker(home)
    await asyncio.to_thread(_up, broker)
    try:
        yield broker
    finally:
        await asyncio.to_thread(broker.down)


def _up(broker: EmbeddedBroker) -> None:
    """Start a broker at a port that nobody is given by chance while it is dead: it has to come back there."""
    while True:
        with contextlib.suppress(PortTaken):
            broker.up(port=random.choice(PORTS))
            return


async def _one(broker: EmbeddedBroker, home: Path, name: str, n: int, rng: random.Random) -> Result:
    """Run one kind and judge it."""
    running = broker.find()
    assert running
    plan, kafka = KINDS[name], KafkaSettings(bootstrap=running.bootstrap)
    scenario = Scenario(broker, kafka, f"{home.name}.", home, rng, exactly_once=plan.exactly_once)
    async with fed(scenario):
        await plan.kind(scenario, n)
    verdict = await judge(scenario.kafka, scenario.prefix, scenario.group, rng, model=loader(home))
    if verdict.dead.get("from_the_future", 0) != scenario.from_the_future or len(scenario.faults) != n:
        raise FaultDidNotFire(
            f"{name}: {len(scenario.faults)} of {n} faults fired, and of {scenario.from_the_future} events from the "
            f"future these dead letters came: {verdict.dead}. Otherwise this run proved nothing."
        )
    return verdict, scenario.faults


def _figures(verdict: Verdict, faults: list[Fault]) -> Figures:
    figures = {"tried": len(faults), "lost": verdict.lost, "wrong": verdict.wrong, "repeats": verdict.repeats}
    return figures | _recovery(faults)


def _recovery(faults: list[Fault]) -> Figures:
    """Return the times from a fault to the next commit of each partition; a fault that another followed has none."""
    seconds = [fault.recovered_s for fault in faults if fault.recovered_s is not None]
    if not seconds:
        return {}
    return {"recovery_p50_s": round(statistics.median(seconds), 1), "recovery_max_s": round(max(seconds), 1)}


def failed(figures: Mapping[str, object]) -> bool:
    """Whether a fault did harm: anything lost or wrong, or repeated where it should come exactly once."""
    return any(figures[key] for key in ("lost", "wrong", "repeats_exactly_once"))


def table(figures: Mapping[str, object]) -> str:
    """Return what `bench` measured as a table, one kind of fault a row.

    >>> row = {"tried": 8, "lost": 0, "wrong": 0, "repeats": 1_024, "recovery_p50_s": 2.5, "recovery_max_s": 4.0}
    >>> print(table({"seed": 7, **row, "hot node": row}))
    fault                      tried    lost   wrong   repeats  recovery p50     max
    hot node                       8       0       0     1,024         2.5 s   4.0 s
    all, seed 7                    8       0       0     1,024         2.5 s   4.0 s
    """
    rows = {name: row for name, row in figures.items() if isinstance(row, dict)}
    rows[f"all, seed {figures['seed']}"] = dict(figures)
    lines = [f"{'fault':<26}{'tried':>6}{'lost':>8}{'wrong':>8}{'repeats':>10}{'recovery p50':>14}{'max':>8}"]
    for name, row in rows.items():
        seconds = [f"{row[key]:.1f} s" if key in row else "" for key in ("recovery_p50_s", "recovery_max_s")]
        lines.append(
            f"{name:<26}{row['tried']:>6}{row['lost']:>8}{row['wrong']:>8}{row['repeats']:>10,}"
            f"{seconds[0]:>14}{seconds[1]:>8}"
        )
    return "\n".join(lines)
