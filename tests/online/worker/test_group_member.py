"""A member whose ground goes: fenced within a transaction, a send that failed, stopped until the group has moved on."""

import asyncio
import random
import signal
from functools import cached_property
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.faults import kinds
from bench.faults.scenario import FaultDidNotFire
from online.models.publish import publish
from streams.group import membership
from streams.group.outlet import AtLeastOnce, ExactlyOnce
from streams.group.runner import Membership, Runner
from streams.kafka import KafkaSettings, consuming
from streams.wire.packed import Message
from tests.online.worker.test_worker import fabric, oracle, predicted, public_key_file, said, world
from tests.online.worker.test_worker_changes import model_is, model_of_each

__all__ = ["world"]


@pytest.mark.kafka
async def test_a_worker_that_is_fenced_within_a_transaction_goes_on_from_what_was_committed(
    world, monkeypatch, caplog
) -> None:
    caplog.set_level("INFO", logger="streams.group.task")
    events, send, fenced = fabric(1), ExactlyOnce.send, False

    async def send_and_hear_of_the_fence(outlet, topic, messages) -> None:
        await send(outlet, topic, messages)
        if fenced and not await said(caplog, "Kafka failed"):
            await asyncio.wait([outlet._producer._sender.sender_task])

    monkeypatch.setattr(ExactlyOnce, "send", send_and_hear_of_the_fence)
    async with world.worker(exactly_once=True):
        await world.until(lambda: said(caplog, "reading from", times=2))
        for partition in (0, 1):
            await fence_outputs_of(world, partition)
        fenced = True
        await world.put_events(events)
        await world.until_predicted(len(events))

    count, found = await predicted(world)
    assert count == len(events)
    assert found == await oracle(world)


async def fence_outputs_of(world, partition: int) -> None:
    tp = TopicPartition(f"{world.prefix}metrics", partition)
    other = ExactlyOnce(world.kafka, prefix=world.prefix, group=f"{world.prefix}worker", tp=tp)
    await other.open()
    await other.close()


async def test_a_worker_without_a_broker_is_well_and_one_whose_loop_stands_is_not(caplog) -> None:
    member = Membership("g", computes="c")
    runner = Runner(KafkaSettings(bootstrap="127.0.0.1:1"), prefix="x.", member=member, open_partition=lambda _: None)
    stop = asyncio.Event()
    running = asyncio.create_task(runner.run(stop))
    while "waiting for Kafka" not in caplog.text:  # noqa: ASYNC110  # a log sets no event
        await asyncio.sleep(0.01)

    assert runner.idle_s() == 0
    stop.set()
    await running
    assert runner.idle_s() > 0


class BusyProducer:
    """A producer with room for one batch, and then none in time; it remembers what moved the offset."""

    def __init__(self) -> None:
        self._batches = 0
        self.moved: list[str] = []

    async def send_batch(self, batch, topic, *, partition):
        self._batches += 1
        if self._batches > 1:
            raise KafkaTimeoutError
        return self.answer

    @cached_property
    def answer(self) -> asyncio.Future:
        return asyncio.get_running_loop().create_future()

    async def begin_transaction(self) -> None:
        pass

    async def commit(self, offsets) -> None:  # as a consumer
        self.moved.append("commit")

    async def send_offsets_to_transaction(self, offsets, group) -> None:
        self.moved.append("send_offsets_to_transaction")

    async def commit_transaction(self) -> None:
        self.moved.append("commit_transaction")


def at_least_once(producer) -> AtLeastOnce:
    return AtLeastOnce(producer, producer, TopicPartition("metrics", 0))


def exactly_once(producer) -> ExactlyOnce:
    outlet = ExactlyOnce(KafkaSettings(bootstrap="k:1"), prefix="", group="g", tp=TopicPartition("metrics", 0))
    outlet._producer = producer  # as `open` leaves it
    return outlet


@pytest.mark.parametrize("outlet_of", [at_least_once, exactly_once])
async def test_no_offset_moves_past_what_was_not_sent(outlet_of) -> None:
    outlet = outlet_of(producer := BusyProducer())
    await outlet.send("predictions", [Message(b"leaf-1", b"{}")])
    with pytest.raises(KafkaTimeoutError):
        await outlet.send("features", [Message(b"leaf-1", b"{}")])

    with pytest.raises(KafkaError, match="did not all go out"):
        outlet.commit(2)
    assert producer.moved == []


@pytest.mark.parametrize("outlet_of", [at_least_once, exactly_once])
async def test_no_offset_moves_past_what_the_broker_did_not_take(outlet_of) -> None:
    outlet = outlet_of(producer := BusyProducer())
    await outlet.send("predictions", [Message(b"leaf-1", b"{}")])
    committing = outlet.commit(2)
    producer.answer.set_exception(KafkaTimeoutError())

    with pytest.raises(KafkaTimeoutError):
        await committing
    assert producer.moved == []


@pytest.mark.kafka
async def test_a_worker_that_was_expelled_and_has_not_heard_of_it_scores_nothing(
    world, write, signing_key, tmp_path, monkeypatch, caplog
) -> None:
    caplog.set_level("INFO", logger="streams.group.task")
    keys, newer_key = tmp_path / "keys", Ed25519PrivateKey.generate()
    keys.mkdir()
    trusts_older_alone = public_key_file(signing_key, keys / "older.pub")
    public_key_file(newer_key, keys / "newer.pub")
    older = Path(write(tmp_path / "older"))
    newer = Path(write(tmp_path / "newer", key=newer_key, created_at=1_795_392_060_000))
    first, second = fabric(1), fabric(2, start=60)
    await publish(world.kafka, prefix=world.prefix, bundle=older, published_at=1_000)
    await world.put_events(first)
    heartbeat_ms = membership.HEARTBEAT_MS
    monkeypatch.setattr(membership, "HEARTBEAT_MS", 600_000)
    async with world.worker(trusted_keys=trusts_older_alone):
        await world.until_predicted(len(first))
        monkeypatch.setattr(membership, "HEARTBEAT_MS", heartbeat_ms)
        async with world.worker(trusted_keys=keys) as ports:
            await world.until(lambda: said(caplog, "reading from", times=4))  # both partitions are another's now
            await publish(world.kafka, prefix=world.prefix, bundle=newer, published_at=2_000)
            await world.until(lambda: model_is(ports[0], newer.name))
            await world.put_events(second)
            await world.until(lambda: said(caplog, "reading from", times=5))  # who was expelled is back
            await world.until_predicted(len(first) + len(second))

    assert set(await model_of_each(world)) == {older.name, newer.name}


class Group:
    """A scenario of two workers whose logs say at any time that they have taken over, as those of a rebalance do.

    Only a worker that has been out of the group takes over again when it is continued.
    """

    def __init__(self) -> None:
        self.rng = random.Random(1)
        self.members, self.faults = 2, 0
        self.continued: list[int] = []

    async def start(self, *arguments: str) -> "Group":
        return self

    def takeovers(self) -> int:
        return 1

    def send(self, number: signal.Signals) -> None:
        if number == signal.SIGCONT:
            self.continued.append(self.members)

    async def takes_over(self, *, more_than: int) -> None:
        if 2 in self.continued:
            raise FaultDidNotFire("a worker was continued that was in the group all the time")

    def struck(self) -> None:
        self.faults += 1

    async def shared_among(self, n: int) -> None:
        self.members = n

    async def moved(self) -> None:
        assert self.faults

    async def publish_model(self) -> str:
        return "new"

    async def scores_with(self, model: str) -> None:
        assert self.members == 1


async def test_a_stopped_worker_is_continued_once_the_group_has_gone_on_without_it(monkeypatch) -> None:
    async def at_once(seconds: float) -> None:
        pass

    monkeypatch.setattr(kinds.asyncio, "sleep", at_once)
    group = Group()

    await kinds.zombie(group, 3)

    assert group.continued == [1, 1, 1]


class Consumer:
    """A consumer whose `stop` ends as aiokafka's does while its fetcher waits out an error."""

    def __init__(self) -> None:
        self.is_closed = False
        self._client = self

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        waiting = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        waiting.cancel()
        await waiting

    async def close(self) -> None:
        self.is_closed = True


async def test_a_consumer_that_stops_amid_an_error_does_not_end_its_worker() -> None:
    consumer = Consumer()

    async with consuming(consumer):
        pass

    assert consumer.is_closed
