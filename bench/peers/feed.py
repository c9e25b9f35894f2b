"""Topics of a comparison: made, filled at once or at a steady pace, counted, read back and deleted."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.peers.job import PARTITIONS, Check, partition_of
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, read_to_end

_TURN_S = 0.01
_VISIBLE_S_MAX = 30.0

KeyedRecord = tuple[bytes, bytes]


class NotFed(LinkcastError):
    """A topic could not be made or filled."""


async def make_topics(kafka: KafkaSettings, *names: str) -> None:
    """Make topics of two partitions, anew where they are there, and wait until clients see them."""
    async with _admin(kafka) as admin:
        there = [name for name in names if name in await admin.list_topics()]
        if there:
            await admin.delete_topics(there)
            await _until(lambda: _gone(admin, names), f"topics {', '.join(there)} could not be deleted")
        await _until(lambda: _made(admin, names), f"topics {', '.join(names)} could not be made: see the broker's log")
        await _until(lambda: _visible(admin, names), f"topics {', '.join(names)} have no leader: is the broker well?")


async def _until(is_so: Callable[[], Awaitable[bool]], else_say: str) -> None:
    deadline = time.monotonic() + _VISIBLE_S_MAX
    while not await is_so():
        if time.monotonic() > deadline:
            raise NotFed(else_say)
        await asyncio.sleep(0.1)


async def _gone(admin: AIOKafkaAdminClient, names: Iterable[str]) -> bool:
    return not set(names) & set(await admin.list_topics())


async def _made(admin: AIOKafkaAdminClient, names: Iterable[str]) -> bool:
    # Refused as long as what is left of an old one of that name is being deleted.
    missing = set(names) - set(await admin.list_topics())
    response = await admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in missing])
    return all(error[1] == 0 for error in response.topic_errors)


async def _visible(admin: AIOKafkaAdminClient, names: Iterable[str]) -> bool:
    topics = await admin.describe_topics(list(names))
    return all(len(t["partitions"]) == PARTITIONS and all(p["leader"] >= 0 for p in t["partitions"]) for t in topics)


async def delete_topics(kafka: KafkaSettings, prefixes: tuple[str, ...]) -> None:
    """Delete every topic whose name begins with one of `prefixes`: outputs, and what an engine made for itself."""
    async with _admin(kafka) as admin:
        found = [name for name in await admin.list_topics() if name.startswith(prefixes)]
        if found:
            await admin.delete_topics(found)


@asynccontextmanager
async def _admin(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def fill(kafka: KafkaSettings, topic: str, records: Iterable[KeyedRecord]) -> None:
    """Write all records, as fast as it goes."""
    async with _producer(kafka) as producer:
        rest = iter(records)
        while some := list(itertools.islice(rest, 100_000)):
            await asyncio.gather(*await _send(producer, topic, some))


async def pace(kafka: KafkaSettings, topic: str, records: list[KeyedRecord], rate: float) -> None:
    """Write `rate` records a second, whether or not anybody keeps up with them (open loop)."""
    async with _producer(kafka) as producer:
        start, sent, done = time.monotonic(), [], 0
        while done < len(records):
            due = min(len(records), int((time.monotonic() - start) * rate))
            if due > done:
                sent += await _send(producer, topic, records[done:due])
                done = due
            await asyncio.sleep(_TURN_S)
        await asyncio.gather(*sent)


def _producer(kafka: KafkaSettings) -> AIOKafkaProducer:
    return AIOKafkaProducer(**kafka.client_arguments(), max_batch_size=1 << 20, max_request_size=2 << 20)


async def _send(producer: AIOKafkaProducer, topic: str, records: list[KeyedRecord]) -> list[asyncio.Future]:
    sent = []
    batches = [producer.create_batch() for _ in range(PARTITIONS)]
    for key, value in records:
        p = partition_of(key)
        if batches[p].append(timestamp=None, key=key, value=value) is None:
            sent.append(await producer.send_batch(batches[p], topic, partition=p))
            batches[p] = producer.create_batch()
            batches[p].append(timestamp=None, key=key, value=value)
    for p, batch in enumerate(batches):
        if batch.record_count():
            sent.append(await producer.send_batch(batch, topic, partition=p))
    return sent


async def ends(consumer: AIOKafkaConsumer, topic: str) -> list[int]:
    """Return how many records each partition of a topic has had."""
    partitions = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    found = await consumer.end_offsets(partitions)
    return [found[tp] for tp in partitions]


async def read_into(check: Check, kafka: KafkaSettings, topic: str) -> None:
    """Give all records of a topic to `check`."""
    for p in range(PARTITIONS):
        consumer = AIOKafkaConsumer(
            **kafka.client_arguments(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=4 << 20,
        )
        async with consumer:
            async for records in read_to_end(consumer, TopicPartition(topic, p)):
                check.add([record.value for record in records])
