"""How a partition's outputs leave and its offset moves: at least once, or exactly once.

Either way every send future is awaited before an offset moves: aiokafka 0.14's `flush` and `commit` ignore a batch that
failed, and only its future knows.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from streams.group.failpoints import reached
from streams.kafka import KafkaSettings, stop_producer, transactional_producer
from streams.wire.packed import Message, Packed, pack

REQUEST_BYTES_MAX = 16 << 20  # a dead letter may have 7 MiB, and few of them share a request
BATCH_BYTES_MAX = 256 << 10


class Outlet(Protocol):
    """Takes one partition's outputs. Whatever raises ends the session: what was not committed is done again."""

    async def open(self) -> None:
        """Get ready; where outputs are transactional, fence whoever owned the partition."""

    async def send(self, topic: str, messages: Packed | Sequence[Message]) -> None:
        """Hand messages to the producer, for the partition of the same number."""

    def commit(self, next_offset: int) -> asyncio.Task[None]:
        """Begin to move the offset there, behind all that was sent so far. Await the one before first.

        Raises `KafkaError` where a send has failed.
        """

    async def close(self) -> None:
        """Let go."""


class AtLeastOnce:
    """Through the worker's one producer; the group's offset follows the acknowledgements, while the hop goes on."""

    def __init__(self, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer, tp: TopicPartition) -> None:
        self._producer, self._consumer, self._tp = producer, consumer, tp
        self._sent: list[asyncio.Future[Any]] = []
        self._is_whole = True

    async def open(self) -> None:
        """Do nothing: the producer is there."""

    async def send(self, topic: str, messages: Packed | Sequence[Message]) -> None:
        """Hand messages to the producer."""
        self._is_whole = False
        self._sent += await _send(self._producer, topic, self._tp.partition, messages, is_transactional=False)
        self._is_whole = True

    def commit(self, next_offset: int) -> asyncio.Task[None]:
        """Begin to commit; what is sent from now on belongs to the next commit."""
        _check(self._is_whole, self._tp)
        sent, self._sent = self._sent, []
        return asyncio.create_task(self._commit(sent, next_offset), name=f"commit of {self._tp}")

    async def _commit(self, sent: list[asyncio.Future[Any]], next_offset: int) -> None:
        reached("before_gather")
        await asyncio.gather(*sent)
        reached("before_commit")
        await self._consumer.commit({self._tp: next_offset})
        reached("committed")

    async def close(self) -> None:
        """Do nothing: the producer is the worker's."""


class ExactlyOnce:
    """One transaction per interval: the outputs and the offset behind them, seen together or not at all.

    The transactional id names the partition (KIP-98), and that alone fences an owner that was paused: aiokafka sends no
    group metadata with the offsets (KIP-447).
    """

    def __init__(self, kafka: KafkaSettings, *, prefix: str, group: str, tp: TopicPartition) -> None:
        self._kafka, self._group, self._tp = kafka, group, tp
        self._transactional_id = f"{prefix}{group}-outputs-{tp.partition}"
        self._producer: Any = None  # until it is opened
        self._sent: list[asyncio.Future[Any]] = []
        self._committing: asyncio.Task[None] | None = None
        self._is_begun = False
        self._is_whole = True

    async def open(self) -> None:
        """Fence whoever owned the partition, and end what it left open. Raises as `transactional_producer`."""
        self._producer = await transactional_producer(
            self._kafka,
            self._transactional_id,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX,
        )

    async def send(self, topic: str, messages: Packed | Sequence[Message]) -> None:
        """Hand messages to the transaction, once the one before is through."""
        self._is_whole = False
        if self._committing:
            await self._committing
        if not self._is_begun:
            await self._producer.begin_transaction()
            self._is_begun = True
        self._sent += await _send(self._producer, topic, self._tp.partition, messages, is_transactional=True)
        self._is_whole = True

    def commit(self, next_offset: int) -> asyncio.Task[None]:
        """Begin to end the transaction; what is sent from now on waits for the next."""
        _check(self._is_whole, self._tp)
        self._committing = asyncio.create_task(self._commit(next_offset), name=f"transaction of {self._tp}")
        return self._committing

    async def _commit(self, next_offset: int) -> None:
        if not self._is_begun:  # records that gave no output move the offset all the same
            await self._producer.begin_transaction()
        self._is_begun = False
        sent, self._sent = self._sent, []
        reached("before_gather")
        await asyncio.gather(*sent)
        reached("before_commit")
        await self._producer.send_offsets_to_transaction({self._tp: next_offset}, self._group)
        reached("offsets_sent")
        await self._producer.commit_transaction()
        reached("committed")

    async def close(self) -> None:
        """Let go; a transaction that is open is for the next owner's fence to abort, or for its time to run out."""
        if self._committing:
            self._committing.cancel()
        if self._producer:
            await stop_producer(self._producer)


def _check(is_whole: bool, tp: TopicPartition) -> None:
    """Refuse to commit behind a send that failed: a handover may come before the session has ended of it."""
    if not is_whole:
        raise KafkaError(f"{tp}: what it gave did not all go out, so its offset stays")


async def _send(
    producer: AIOKafkaProducer, topic: str, partition: int, messages: Packed | Sequence[Message], is_transactional: bool
) -> list[asyncio.Future[Any]]:
    """Return the futures of all that was sent. Few records have headers, and those go one by one."""
    if not isinstance(messages, Packed):
        if any(message.headers for message in messages):
            return [
                await producer.send(topic, m.value, key=m.key, headers=m.headers, partition=partition) for m in messages
            ]
        messages = Packed.of(messages)
    now = int(time.time() * 1000)
    batches = pack(messages, timestamp_ms=now, bytes_max=BATCH_BYTES_MAX, is_transactional=is_transactional)
    return [await producer.send_batch(batch, topic, partition=partition) for batch in batches]
