"""The Kafka shell: carries the partitions of `metrics` from fetched to committed, whatever their owners make of them.

Outputs are sent, every acknowledgement is awaited, and only then the group's offset moves: at least once, and each
output recognisable by its `src`. State is written to topic `state` every 10 s and at a handover; whoever takes a
partition over goes on from there, without output up to the committed offset. A failure of Kafka ends the session, and
the next one starts from what was committed.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from streams import measures
from streams.decode import Record
from streams.failpoints import reached
from streams.kafka import KafkaSettings, await_broker, stop_producer
from streams.packed import Packed, pack
from streams.partition import Message
from streams.recovery import Restorable, resume
from streams.snapshot import Chunks
from streams.state_topic import StateTopic

FETCH_RECORDS = 8_192
COMMIT_S = 1.0
SESSION_TIMEOUT_MS = 10_000
"""After a worker is killed, its partitions wait this long for another; a static member takes its own back at once."""
SNAPSHOT_S = 10.0
HANDOVER_S_MAX = 20.0
BATCH_BYTES_MAX = 256 << 10
REQUEST_BYTES_MAX = 16 << 20  # a dead letter carries what was too large, whole

log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """What one batch of records gave: messages by topic (without the prefix), and what the events became."""

    messages: dict[str, list[Message] | Packed]
    became: dict[str, int]
    dead: dict[str, int]
    streams: int


class Owner(Restorable, Protocol):
    """The one object that holds a partition's state. `advance` is deterministic and runs in a thread."""

    def advance(self, records: Sequence[Record]) -> Outputs: ...

    def take(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last call, and say what the manifest is to say of it; fast."""


@dataclass(slots=True)
class _Task:
    """A partition in our hands: output goes on at `emit_from`, what lies before only rebuilds the state."""

    owner: Owner
    state: StateTopic
    emit_from: int
    next_offset: int
    writing: asyncio.Task[None] | None = None
    sent: list[asyncio.Future[Any]] = field(default_factory=list)


class Runner(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Runs the member of consumer group `group` that `open_partition` makes owners for."""

    def __init__(
        self,
        kafka: KafkaSettings,
        *,
        prefix: str,
        group: str,
        open_partition: Callable[[int], Owner],
        instance: str | None = None,
        accept_gap: bool = False,
    ) -> None:
        self._kafka, self._prefix, self._group, self._open_partition = kafka, prefix, group, open_partition
        self._instance, self._accept_gap = instance, accept_gap
        self._topic = f"{prefix}metrics"
        self._tasks: dict[TopicPartition, _Task] = {}
        self._generation = 0
        # Held while a batch is under way, so that a partition is handed over between two batches.
        self._turn = asyncio.Lock()
        self.progressed_at = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then commit what is done and leave the group."""
        pause_s = 1.0
        while not stop.is_set():
            await _until(stop, await_broker(self._kafka))
            try:
                await self._session(stop)
                pause_s = 1.0
            except KafkaError as error:
                # Nothing uncommitted is trusted: the next session reads it again.
                log.warning("Kafka failed (%r): going on from the committed offsets in %g s", error, pause_s)
                await _until(stop, asyncio.sleep(pause_s))
                pause_s = min(30.0, 2 * pause_s)
            finally:
                await self._let_go()

    async def _session(self, stop: asyncio.Event) -> None:
        async with self._clients() as (consumer, producer):
            self._consumer, self._producer = consumer, producer
            consumer.subscribe([self._topic], listener=self)
            commit_at, snapshot_at = time.monotonic() + COMMIT_S, time.monotonic() + SNAPSHOT_S
            while not stop.is_set():
                for tp in consumer.assignment() - self._tasks.keys():
                    with contextlib.suppress(IllegalStateError):  # revoked meanwhile
                        await self._take_over(tp)
                fetched = await consumer.getmany(timeout_ms=100, max_records=FETCH_RECORDS)
                async with self._turn:
                    for tp, records in fetched.items():
                        if tp in self._tasks:  # else it was revoked since the fetch
                            await self._carry(tp, self._tasks[tp], records)
                    if time.monotonic() >= commit_at:
                        await self._commit()
                        commit_at = time.monotonic() + COMMIT_S
                    if time.monotonic() >= snapshot_at:
                        await self._begin_snapshots()
                        snapshot_at = time.monotonic() + SNAPSHOT_S
                self.progressed_at = time.monotonic()
            async with self._turn:
                await self._hand_over()

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[AIOKafkaConsumer, AIOKafkaProducer]]:
        arguments = self._kafka.client_arguments()
        consumer = AIOKafkaConsumer(
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            group_instance_id=self._instance,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            rebalance_timeout_ms=60_000,
            max_partition_fetch_bytes=4 << 20,
            fetch_max_wait_ms=100,
            **arguments,
        )
        producer = AIOKafkaProducer(
            enable_idempotence=True, linger_ms=5, max_batch_size=BATCH_BYTES_MAX, max_request_size=REQUEST_BYTES_MAX,
            **arguments,
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(stop_producer, producer)
            await producer.start()
            stack.push_async_callback(consumer.stop)
            await consumer.start()
            yield consumer, producer

    async def _take_over(self, tp: TopicPartition) -> None:
        """Fence the owner before, resume from its snapshot, and seek to where that ends."""
        consumer, generation = self._consumer, self._generation
        owner = self._open_partition(tp.partition)
        state = StateTopic(self._kafka, prefix=self._prefix, group=self._group, partition=tp.partition)
        newest = await state.open()
        reached("fenced")
        try:
            resumed = await resume(self._kafka, consumer, tp, owner, newest, accept_gap=self._accept_gap)
            if generation != self._generation:
                raise IllegalStateError("assigned anew meanwhile")  # the loop comes back to it
            consumer.seek(tp, resumed.start)
        except BaseException:
            await state.close()
            raise
        state.adopt(resumed.crc)
        self._tasks[tp] = _Task(owner, state, resumed.emit_from, resumed.start)
        log.info("%s: reading from %d, output from %d", tp, resumed.start, resumed.emit_from)

    async def _carry(self, tp: TopicPartition, task: _Task, records: list[Any]) -> None:
        reached("fetched")
        again = 0
        if records[0].offset < task.emit_from:
            again = sum(record.offset < task.emit_from for record in records)
        if again:
            await asyncio.to_thread(task.owner.advance, records[:again])
            reached("rebuilt")
        if again < len(records):
            outputs = await asyncio.to_thread(task.owner.advance, records[again:])
            reached("advanced")
            await self._send(tp.partition, task, outputs)
        task.next_offset = records[-1].offset + 1
        measures.REBUILDING.labels(tp.partition).set(max(0, task.emit_from - task.next_offset))
        measures.LAG.labels(tp.partition).set((self._consumer.highwater(tp) or task.next_offset) - task.next_offset)

    async def _send(self, partition: int, task: _Task, outputs: Outputs) -> None:
        start = time.perf_counter()
        for topic, messages in outputs.messages.items():
            if isinstance(messages, Packed):
                now = int(time.time() * 1000)
                for batch in pack(messages, timestamp_ms=now, bytes_max=BATCH_BYTES_MAX, is_transactional=False):
                    task.sent.append(await self._producer.send_batch(batch, self._prefix + topic, partition=partition))
            elif messages and messages[0].headers:
                for message in messages:
                    task.sent.append(
                        await self._producer.send(
                            self._prefix + topic,
                            message.value,
                            key=message.key,
                            headers=message.headers,
                            partition=partition,
                        )
                    )
            else:
                await self._send_batches(self._prefix + topic, partition, task, messages)
            reached("output_sent")
        for became, count in outputs.became.items():
            measures.EVENTS.labels(became).inc(count)
        for reason, count in outputs.dead.items():
            measures.DEAD_LETTERS.labels(reason).inc(count)
        measures.BATCH_EVENTS.observe(sum(outputs.became.values()))
        measures.STREAMS.labels(partition).set(outputs.streams)
        measures.STAGE_SECONDS.labels("send").inc(time.perf_counter() - start)

    async def _send_batches(self, topic: str, partition: int, task: _Task, messages: list[Message]) -> None:
        batch = self._producer.create_batch()
        now = int(time.time() * 1000)
        for key, value, _ in messages:
            if batch.append(timestamp=now, key=key, value=value) is None:
                task.sent.append(await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                batch.append(timestamp=now, key=key, value=value)
        if batch.record_count():
            task.sent.append(await self._producer.send_batch(batch, topic, partition=partition))

    async def _commit(self) -> None:
        """Await every acknowledgement, then move the group's offsets."""
        tasks = dict(self._tasks)
        reached("before_gather")
        # aiokafka's flush hides a failed batch; only its future knows.
        await asyncio.gather(*(sent for task in tasks.values() for sent in task.sent))
        for task in tasks.values():
            task.sent.clear()
        offsets = {tp: task.next_offset for tp, task in tasks.items() if task.next_offset > task.emit_from}
        if not offsets:
            return
        reached("before_commit")
        try:
            await self._consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            # The group has moved on: whoever owns the partitions now does this work again, under the same `src`.
            log.warning("commit refused (%s): the partitions have another owner", error)
            await self._let_go()
            return
        reached("committed")
        for tp, offset in offsets.items():
            tasks[tp].emit_from = offset
        measures.COMMITTED_AT.set_to_current_time()

    async def _begin_snapshots(self) -> None:
        """Take a snapshot of every partition and write it while the hop goes on."""
        await self._commit()  # committed ≥ next offset of the snapshot: what it covers has been put out
        for tp, task in self._tasks.items():
            if task.writing and not task.writing.done():
                continue  # the broker is slow: the next round writes what this one would have
            if task.writing:
                task.writing.result()
            task.writing = asyncio.create_task(_written(task), name=f"snapshot of {tp}")

    async def _hand_over(self) -> None:
        """Commit, and leave each partition's state as the next owner needs it."""
        await self._commit()
        writing = [task.writing for task in self._tasks.values() if task.writing]
        await asyncio.gather(*writing)
        await asyncio.gather(*(_written(task) for task in self._tasks.values()))

    async def _let_go(self) -> None:
        """Forget every partition, whatever is under way."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            if task.writing:
                task.writing.cancel()
        await asyncio.gather(*(task.writing for task in tasks if task.writing), return_exceptions=True)
        await asyncio.gather(*(task.state.close() for task in tasks), return_exceptions=True)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Finish the batch under way, commit, and let go of every partition."""
        async with self._turn:
            try:
                await asyncio.wait_for(self._hand_over(), HANDOVER_S_MAX)
            except (KafkaError, TimeoutError) as error:
                log.warning("not all was handed over (%r): the next owner does it again", error)
            await self._let_go()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Let the loop take them over: an exception in here would be swallowed."""
        self._generation += 1
        async with self._turn:
            await self._let_go()


def _written(task: _Task) -> Coroutine[Any, Any, None]:
    """Take a snapshot now, between two batches, and return what writes it."""
    chunks, fields = task.owner.take()
    reached("snapshot_taken")
    return _write(task.state, chunks, fields | {"next_offset": task.next_offset})


async def _write(state: StateTopic, chunks: Chunks, manifest: dict[str, Any]) -> None:
    if chunks:
        await state.write(chunks, **manifest)
        measures.SNAPSHOT_AT.set_to_current_time()


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, but no longer than until `stop` is set."""
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
