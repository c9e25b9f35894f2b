"""The kinds of fault: each breaks a running scenario so many times, proves each time that it did, and notes it."""

import asyncio
import itertools
import random
import resource
import signal
from collections.abc import Callable

from aiokafka import AIOKafkaProducer

from bench.faults import feed
from bench.faults.oracle import read
from bench.faults.proxy import Proxy, proxied
from bench.faults.scenario import FaultDidNotFire, Scenario
from streams.features.snapshot import manifest_in
from streams.group.failpoints import STEPS
from streams.group.state_topic import key_of, of_group

Tampering = Callable[[bytes, random.Random], bytes | None]

AT_HANDOVER = ("snapshot_taken", "snapshot_half_sent", "snapshot_sent", "snapshot_written")
"""Steps that a stop comes to at once, and a running worker every 10 s."""
AT_NEW_MODEL = "schedule_written"
"""The step that only the first worker on a topic comes to, and one with a new model."""
EXACTLY_ONCE = "offsets_sent"
"""The step that only a worker with transactional outputs comes to."""
AT_TAKEOVER = ("fenced", "restored")
AT_REBUILD = "rebuilt"
"""A whole replay may be one batch."""
AT_FIRST_SNAPSHOT = "snapshot_half_sent"
"""Behind the first commit of a partition, and before anything of its snapshot can be read."""
BURST = 4_000
"""Records of a flood: one to a few seconds of work."""


async def kill_at_each_step(scenario: Scenario, n: int) -> None:
    """SIGKILL a worker where it comes to a step of the commit sequence, all steps in turn."""
    worker = await scenario.start("--instance", "a", LINKCAST_FAIL_AT=f"{AT_NEW_MODEL}:1")
    await scenario.killed(worker)
    worker = await scenario.start("--instance", "a", LINKCAST_FAIL_AT=f"{AT_FIRST_SNAPSHOT}:1")
    await scenario.killed(worker)  # one partition is committed and has no snapshot: what comes next rebuilds it
    steps = [
        step for step in reversed(STEPS) if step != AT_NEW_MODEL and (scenario.exactly_once or step != EXACTLY_ONCE)
    ]
    for step in itertools.islice(itertools.cycle(steps), n - 2):
        times = 1 if step == AT_REBUILD else scenario.rng.randint(1, 2 if step in AT_TAKEOVER + AT_HANDOVER else 4)
        worker = await scenario.start("--instance", "a", LINKCAST_FAIL_AT=f"{step}:{times}")
        if step in AT_HANDOVER:
            await worker.takes_over(more_than=feed.PARTITIONS - 1)
            await scenario.moved()
            worker.send(signal.SIGTERM)
        await scenario.killed(worker)


async def kill_at_random(scenario: Scenario, n: int) -> None:
    """SIGKILL a worker at any time of its life: one in four while it starts, the others at work."""
    for _ in range(n):
        worker = await scenario.start("--instance", "a")
        if scenario.rng.random() < 0.75:
            await worker.takes_over(more_than=0)
        await asyncio.sleep(scenario.rng.uniform(0, 5))
        await scenario.kill(worker)


async def zombie(scenario: Scenario, n: int) -> None:
    """SIGSTOP one of two workers until the other has its partitions and a new model, then SIGCONT."""
    workers = [await scenario.start("--instance", "a"), await scenario.start()]
    for worker in workers:
        await worker.takes_over(more_than=0)
    for i in range(n):
        stopped = workers[i % 2]
        await scenario.shared_among(2)
        before = stopped.takeovers()
        stopped.send(signal.SIGSTOP)
        scenario.struck()
        await scenario.shared_among(1)
        await scenario.moved()
        await workers[1 - i % 2].scores_with(await scenario.publish_model())
        await asyncio.sleep(scenario.rng.uniform(0, 2))
        stopped.send(signal.SIGCONT)
        await stopped.takes_over(more_than=before)


async def model_changed(scenario: Scenario, n: int) -> None:
    """Publish a new model and SIGKILL the worker: before the first output that rests on it, or once it has it."""
    for _ in range(n):
        if scenario.rng.random() < 0.5:
            await scenario.publish_model()
            worker = await scenario.start("--instance", "a", LINKCAST_FAIL_AT=f"{AT_NEW_MODEL}:1")
            await scenario.killed(worker)
        else:
            worker = await scenario.start("--instance", "a")
            await scenario.moved()
            await worker.scores_with(await scenario.publish_model())
            await asyncio.sleep(scenario.rng.uniform(0, 1))
            await scenario.kill(worker)


async def join_and_leave(scenario: Scenario, n: int) -> None:
    """Let each of two workers leave in turn and another join, every few seconds."""
    workers = [await scenario.start(), await scenario.start()]
    for worker in workers:
        await worker.takes_over(more_than=0)
    for i in range(n):
        workers[i % 2].send(signal.SIGTERM)
        await workers[i % 2].ended(0)
        scenario.struck()
        workers[i % 2] = await scenario.start()
        await workers[i % 2].takes_over(more_than=0)
        await asyncio.sleep(scenario.rng.uniform(0, 2))


async def broker_killed(scenario: Scenario, n: int) -> None:
    """SIGKILL the broker and start it again with its data."""
    await scenario.start("--instance", "a")
    await scenario.moved()
    for _ in range(n):
        await asyncio.sleep(scenario.rng.uniform(0, 3))
        running = scenario.broker.find()
        process = running and running.process()
        if not process:
            raise FaultDidNotFire("the broker that was to be killed did not run")
        process.kill()
        scenario.struck()
        await asyncio.sleep(scenario.rng.uniform(0, 3))
        await asyncio.to_thread(scenario.broker.up, port=running.port)  # the one that the workers know
        await scenario.moved()


async def connection_cut(scenario: Scenario, n: int) -> None:
    """Cut the worker's connections for 0.1 to 12 s, at times longer than its session."""
    # One kind beside the other has to listen elsewhere.
    address = "127.0.0.4" if scenario.exactly_once else "127.0.0.2"
    async with proxied(scenario.kafka.bootstrap, address) as proxy:
        await _start_behind(proxy, scenario)
        for _ in range(n):
            await asyncio.sleep(scenario.rng.uniform(0, 3))
            severed = proxy.severed
            proxy.cut()
            if proxy.severed == severed:
                raise FaultDidNotFire("no connection went through the proxy that was cut")
            scenario.struck()
            await asyncio.sleep(scenario.rng.choice([0.1, 1.0, 3.0, 12.0]))
            proxy.mend()
            await scenario.moved()


async def connection_delayed(scenario: Scenario, n: int) -> None:
    """Delay each frame to and from the worker, for a while."""
    async with proxied(scenario.kafka.bootstrap, "127.0.0.3") as proxy:
        await _start_behind(proxy, scenario)
        for _ in range(n):
            delayed = proxy.delayed
            proxy.delay_s = scenario.rng.choice([0.05, 0.5, 2.0])
            scenario.struck()
            await asyncio.sleep(scenario.rng.uniform(2, 6))
            proxy.delay_s = 0.0
            if proxy.delayed == delayed:
                raise FaultDidNotFire("no frame went through the proxy while it delayed them")
            await scenario.moved()


async def _start_behind(proxy: Proxy, scenario: Scenario) -> None:
    scenario.bootstrap = proxy.bootstrap
    await scenario.start("--instance", "a")
    await scenario.moved()
    scenario.bootstrap = None  # the last worker, which only drains, outlives the proxy


async def disk_full(scenario: Scenario, n: int) -> None:
    """Take every byte of local disk from a running worker, then make it take a partition over, which it logs.

    Its log is all that a running worker writes beside Kafka.
    """
    for _ in range(n):
        worker = await scenario.start("--instance", "a")
        await worker.takes_over(more_than=feed.PARTITIONS - 1)
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (0, 0))
        size = worker.log.stat().st_size
        other = await scenario.start("--instance", "b")
        await other.takes_over(more_than=0)
        scenario.struck()
        await scenario.moved()  # of both partitions, so the one without a disk has taken one over
        if worker.log.stat().st_size > size or worker.process.returncode is not None:
            raise FaultDidNotFire(f"a worker without disk wrote or ended: {worker.last_words()}")
        await scenario.end_workers()


async def chunk_tampered(scenario: Scenario, n: int, how: Tampering) -> None:
    """Replace a chunk of the newest snapshot by what `how` makes of it."""
    worker = await scenario.start("--instance", "a")
    for _ in range(n):
        await scenario.moved()
        worker.send(signal.SIGTERM)
        await worker.ended(0)
        await _tamper(scenario, how)
        scenario.struck()
        worker = await scenario.start("--instance", "a")
        await worker.says("its snapshot is refused: its chunk")
    await scenario.moved()


async def _tamper(scenario: Scenario, how: Tampering) -> None:
    topic, p = f"{scenario.prefix}state", scenario.rng.randrange(feed.PARTITIONS)
    newest = of_group(scenario.group, {record.key: record.value for record in (await read(scenario.kafka, topic))[p]})
    manifest = manifest_in(newest)
    if manifest is None:
        raise FaultDidNotFire(f"{topic}-{p} has no snapshot to tamper with")
    key = scenario.rng.choice(sorted(manifest.crc)).encode()
    async with AIOKafkaProducer(**scenario.kafka.client_arguments(), acks="all") as producer:
        await producer.send_and_wait(
            topic, how(newest[key], scenario.rng), key=key_of(scenario.group, key), partition=p
        )


def missing(chunk: bytes, rng: random.Random) -> None:
    """Leave nothing of a chunk."""


def truncated(chunk: bytes, rng: random.Random) -> bytes:
    """Leave the beginning of a chunk."""
    return chunk[: rng.randrange(len(chunk))]


def bit_flipped(chunk: bytes, rng: random.Random) -> bytes:
    """Turn one bit of a chunk, behind the header of its compression: that one has bits without a meaning."""
    bit = rng.randrange(64, 8 * len(chunk) - 8)
    return (int.from_bytes(chunk, "little") ^ 1 << bit).to_bytes(len(chunk), "little")


async def future_flood(scenario: Scenario, n: int) -> None:
    """Flood the topic with events from the future, and SIGKILL the worker in the midst of them."""
    for _ in range(n):
        scenario.from_the_future += BURST
        await _killed_amid(scenario, feed.flood(scenario.rng, BURST))


async def hot_node(scenario: Scenario, n: int) -> None:
    """Put nine in ten events on one node, and SIGKILL the worker in the midst of them."""
    for i in range(n):
        await _killed_amid(scenario, feed.hot(scenario.rng, BURST, hour=i))


async def _killed_amid(scenario: Scenario, burst: list[feed.KeyedRecord]) -> None:
    worker = await scenario.start("--instance", "a")
    await worker.takes_over(more_than=0)
    scenario.feed.add(burst)
    await asyncio.sleep(scenario.rng.uniform(0, 1.5))
    await scenario.kill(worker)
