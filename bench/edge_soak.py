"""Nothing is lost behind the event source, and nothing but poison given up, whatever fails: function, process or we.

`linkcast lambda run` is killed by kill -9 on its way and started again. Its handler writes down what it does and fails
by plan: at poison always, at others once a process (by a report, an exception, a time-out). What a table with a
conditional put would hold is that list without its repeats.
"""

import asyncio
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.broker.process import running_broker
from infra.progress import step
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, read_to_end

SEED = 20_261_125
PARTITIONS = 4
TIME_OUT_S = 0.5
STALL_S_MAX = 120.0
FOLDER = "LINKCAST_EDGE_SOAK"
"""Variable with the folder of the plan, and of what the handler did."""

Id = tuple[int, int]
"""Partition and offset."""
Value = Callable[[int], bytes | None]
"""The bytes of a record by its number."""


class SoakFailed(LinkcastError):
    """A run ended, or stood still, before all was done."""


class Plan(NamedTuple):
    """Which records fail how."""

    poison: set[Id]
    reported: set[Id]
    raised: set[Id]
    slow: set[Id]


class Soak(NamedTuple):
    """One cluster, one topic on it, and the command that works it off."""

    kafka: KafkaSettings
    topic: str
    folder: Path
    command: tuple[str, ...]
    environment: Mapping[str, str]


def bench(
    *, records: int = 100_000, kills: int = 3, batch_size: int = 100, runtime: bool = False,
    kafka: KafkaSettings | None = None, handler: str = "bench.edge_soak:handler",
    environment: Mapping[str, str] | None = None, value_of: Value = lambda i: b'{"i":%d}' % i,
    time_out_s: float = TIME_OUT_S, concurrency: int = 1,
) -> dict[str, object]:  # fmt: skip
    """Let the adapter work off `records` while it fails by plan and is killed `kills` times.

    Another `handler` writes to `done` in the folder that LINKCAST_EDGE_SOAK names, as the one here does. `lost`,
    `given_up_wrongly` and `beyond_bound` are to be 0.
    """
    plan = draw(records)
    how = (
        "--handler", handler, "--batch-size", str(batch_size), "--timeout-s", str(time_out_s),
        "--concurrency", str(concurrency), "--runtime" if runtime else "--in-process",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        kafka = kafka or KafkaSettings(bootstrap=stack.enter_context(running_broker(Path(folder) / "broker")))
        soak = _soak(kafka, Path(folder), plan, how, environment or {})
        with step(f"publishing {records:,} records"):
            asyncio.run(_publish(soak, records, value_of))
        start = time.perf_counter()
        with step(f"the adapter takes them and is killed {kills} times"):
            for i in range(kills):
                _run_and_kill(soak, at=records * (i + 1) // (kills + 1), with_children=i % 2 == 0)
            figures = _run_dry(soak)
        seconds = time.perf_counter() - start
        found = _found(soak.folder, plan, records, batch_size, asyncio.run(_given_up(soak)))
    return found | {"kills": kills, "seconds": round(seconds, 1), "last_run": figures}


def draw(records: int) -> Plan:
    """Draw the faults of so many records, at least one of each kind."""
    counts = [max(1, records // share) for share in (5_000, 300, 1_000, 20_000)]
    drawn = iter(random.Random(SEED).sample(range(records), sum(counts)))
    return Plan(*({id_of(i) for i, _ in zip(drawn, range(n), strict=False)} for n in counts))


def id_of(i: int) -> Id:
    """Return where record `i` lies."""
    return i % PARTITIONS, i // PARTITIONS


def _soak(kafka: KafkaSettings, folder: Path, plan: Plan, how: tuple[str, ...], environment: Mapping[str, str]) -> Soak:
    (folder / "plan").write_text(json.dumps([sorted(ids) for ids in plan]))
    (folder / "done").touch()
    topic = f"edge-soak-{uuid.uuid4().hex[:8]}"
    command = (
        sys.executable, "-m", "infra.command", "lambda", "run", "--bootstrap", kafka.bootstrap, "--topic", topic,
        "--group", topic, "--retries", "3", "--on-failure", f"{topic}.dead", "--once", "--json", *how,
    )  # fmt: skip
    root = str(Path(__file__).parents[1])
    return Soak(kafka, topic, folder, command, os.environ | {"PYTHONPATH": root, FOLDER: str(folder)} | environment)


async def create_topics(kafka: KafkaSettings, partitions: Mapping[str, int]) -> None:
    """Make topics, each with so many partitions."""
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, n, 1) for topic, n in partitions.items()])
    finally:
        await admin.close()


async def _publish(soak: Soak, records: int, value_of: Value) -> None:
    await create_topics(soak.kafka, {soak.topic: PARTITIONS, f"{soak.topic}.dead": 1})
    async with AIOKafkaProducer(**soak.kafka.client_arguments(), linger_ms=5) as producer:
        for i in range(records):
            await producer.send(soak.topic, value_of(i), key=b"%d" % i, partition=i % PARTITIONS)


def _run_and_kill(soak: Soak, *, at: int, with_children: bool) -> None:
    """Run until the handler has written `at` lines, then kill -9; a child that is left finishes what it has begun."""
    with (soak.folder / "log").open("ab") as log:
        process = subprocess.Popen(soak.command, env=soak.environment, stdout=log, stderr=log)
    deadline, seen = time.monotonic() + STALL_S_MAX, 0
    while _lines(soak.folder) < at:
        if (lines := _lines(soak.folder)) > seen:
            deadline, seen = time.monotonic() + STALL_S_MAX, lines
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SoakFailed(f"{_lines(soak.folder)} of {at} records done, and no more: {_said(soak)}")
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True) if with_children else []
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def _run_dry(soak: Soak) -> dict[str, int]:
    with (soak.folder / "log").open("ab") as log:
        ran = subprocess.run(soak.command, env=soak.environment, stdout=subprocess.PIPE, stderr=log, check=False)
    if ran.returncode != 0:
        raise SoakFailed(f"the last run ended with {ran.returncode}: {_said(soak)}")
    figures: dict[str, int] = json.loads(ran.stdout)
    return figures


def _lines(folder: Path) -> int:
    return (folder / "done").stat().st_size // _LINE_BYTES


def _said(soak: Soak) -> str:
    return (soak.folder / "log").read_text("utf-8")[-2_000:]


async def _given_up(soak: Soak) -> list[Id]:
    """Return what the on-failure topic holds, by partition and offset at the source."""
    kept = [json.loads(headers["lambda-failure"]) for headers in await headers_in(soak.kafka, f"{soak.topic}.dead")]
    return [(said["partition"], said["offset"]) for said in kept]


async def headers_in(kafka: KafkaSettings, topic: str) -> list[dict[str, bytes]]:
    """Return the headers of all records of a topic of one partition."""
    arguments = kafka.client_arguments() | {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    async with AIOKafkaConsumer(**arguments) as consumer:
        fetched = [records async for records in read_to_end(consumer, TopicPartition(topic, 0))]
    return [dict(record.headers) for records in fetched for record in records]


def _found(folder: Path, plan: Plan, records: int, batch_size: int, given_up: list[Id]) -> dict[str, object]:
    everything = {id_of(i) for i in range(records)}
    did = Counter((int(p), int(o)) for p, o in (line.split()[:2] for line in _text(folder / "done")))
    attempts = _attempts(folder)
    bound = 1 + math.ceil(math.log2(batch_size))
    return {
        "records": records, "batch_size": batch_size, "poison": len(plan.poison),
        "lost": len(everything - did.keys() - set(given_up)),
        "given_up_wrongly": len(set(given_up) - plan.poison),
        "poison_done": len(plan.poison & did.keys()),
        "executions": did.total(), "repeats": did.total() - len(did),
        "given_up_twice": len(given_up) - len(set(given_up)),
        "attempts_to_isolate_max": max(attempts, default=0), "bound": bound,
        "beyond_bound": sum(count > bound for count in attempts),
    }  # fmt: skip


def _attempts(folder: Path) -> list[int]:
    """Return how many attempts each poison failed until it was alone, in each run where it came to that."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for line in _text(folder / "attempts"):
        process, partition, offset, size = line.split()
        sizes[f"{process} {partition} {offset}"].append(int(size))
    return [each.index(1) + 1 for each in sizes.values() if 1 in each]


def _text(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# Below: the handler, in the adapter's process.

_LINE_BYTES = 16
_met: set[Id] = set()


class Poison(Exception):
    """A record that no attempt succeeds with."""

    def __init__(self, id_: Id) -> None:
        super().__init__(f"poison at {id_}")
        self.id = id_


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Do each record in order; stop a partition at its first failure, and report it."""
    folder = Path(os.environ[FOLDER])
    plan = read_plan(folder)
    size = sum(map(len, event["records"].values()))
    done: list[Id] = []
    try:
        failures = [
            {"itemIdentifier": {"partition": key, "offset": offset}}
            for key, records in event["records"].items()
            if (offset := _failed(plan, [(record["partition"], record["offset"]) for record in records], done))
            is not None
        ]
    except Poison as met:
        append(folder / "attempts", [f"{os.getpid()} {met.id[0]} {met.id[1]} {size}"])
        raise
    finally:
        append(folder / "done", [done_line(id_) for id_ in done])
    return {"batchItemFailures": failures}


def _failed(plan: Plan, ids: list[Id], done: list[Id]) -> int | None:
    for id_ in ids:
        if id_ in plan.poison:
            raise Poison(id_)
        if id_ not in _met:
            _met.add(id_)
            if id_ in plan.reported:
                return id_[1]
            if id_ in plan.raised:
                raise ConnectionError(f"503 at {id_}")
            if id_ in plan.slow:
                time.sleep(2 * TIME_OUT_S)
        done.append(id_)
    return None


@cache
def read_plan(folder: Path) -> Plan:
    """Read the plan, once in the handler's process."""
    return Plan(*({(p, o) for p, o in ids} for ids in json.loads((folder / "plan").read_text())))


def done_line(id_: Id) -> str:
    """Return the line that says that a record is done."""
    return f"{id_[0]} {id_[1]}".ljust(_LINE_BYTES - 1)


def append(path: Path, lines: list[str]) -> None:
    """Append in one write, so that a kill leaves whole lines."""
    if lines:
        with path.open("ab", buffering=0) as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
