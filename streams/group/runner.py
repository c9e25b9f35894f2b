"""The member of the consumer group: carries the partitions of `metrics` that it is given, whatever their owners are.

Outputs are sent, every acknowledgement is awaited, and only then the group's offset moves. State is written to topic
`state` every 10 s and at a handover; whoever takes a partition over goes on from there, without output up to the
committed offset. A failure of Kafka ends the session, and the next one starts from what was committed::

    waiting for a broker <------------------------------+---------------------+
      | it answers                                      | 1 to 30 s           | 1 s
      v                                                 |                     |
    session -- Kafka fails (FAILED) ----------------> paused                  |
      |    `-- the broker refuses what we compute --> refused ----------------+
      |                                                 | for more than FORGOTTEN_S
      | stop: hand over, HANDOVER_S_MAX at most         v
      v                                               GroupRefused is raised
    stopped  (from waiting, paused and refused at once)

What no retry mends leaves `run`: `KafkaRefused` while it waits, `GapRefused` at a takeover, whatever is no Kafka error.
Within a session::

    joining -- assigned --> taking over --> owning: carry what was fetched, commit, snapshot, and again
       ^                                      |  |
       |<-- revoked: hand over, let go -------+  | a commit is refused: let go
       |                                         v
       +<-- assigned anew ---- commit refused: nothing is taken over; REFUSED_S_MAX of it is a failure

A partition without one of its number for the outputs is looked at again every LOOK_AGAIN_S. `_batch_lock` keeps
revoking and assigning out of a batch under way.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import (
    CommitFailedError,
    IllegalOperation,
    IllegalStateError,
    InconsistentGroupProtocolError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)

from streams.group.membership import SESSION_TIMEOUT_MS, group_consumer, refused
from streams.group.outlet import BATCH_BYTES_MAX, REQUEST_BYTES_MAX, AtLeastOnce, ExactlyOnce, Outlet
from streams.group.owner import Owner
from streams.group.state_topic import StateTopic
from streams.group.task import Task
from streams.kafka import KafkaSettings, await_broker, consuming, stop_producer, why_no_answer
from streams.wire.records import Records

COMMIT_S, COMMIT_EXACTLY_ONCE_S = 1.0, 0.25
"""How often offsets move; exactly once, readers see outputs no sooner."""
SNAPSHOT_S = 10.0
HANDOVER_S_MAX = 20.0
COMMIT_S_MAX, TAKE_OVER_S_MAX = 30.0, 120.0
"""aiokafka 0.14 asks a broker that is gone for ever, and says nothing: longer than this is a failure."""
QUIET_S = 15.0
"""Nothing fetched for so long is a reason to ask whether the broker and the topic are still there."""
LOOK_AGAIN_S = 30.0
PAUSE_S_MAX = 30.0
REFUSED_S_MAX = 30.0
RESTLESS, RESTLESS_S = 10, 30.0
"""So many assignments within so many seconds are two workers that take one name from each other."""
FORGOTTEN_S = SESSION_TIMEOUT_MS / 1000 + 2.0
"""By then the group has forgotten a member that ended without leaving it, as static ones do."""
FAILED = (KafkaError, IllegalOperation)
"""What ends a session. The latter is no `KafkaError`, and what aiokafka 0.14 says to whoever goes on with a transaction
that was fenced between two calls."""

log = logging.getLogger(__name__)


class Membership(NamedTuple):
    """How a worker takes part in its group."""

    group: str
    computes: str
    """Fingerprint of what makes the outputs: members of one group have the same."""
    instance: str | None = None
    exactly_once: bool = False
    accept_gap: bool = False


class Runner(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Runs the member of a consumer group that `open_partition` makes owners for."""

    def __init__(
        self, kafka: KafkaSettings, *, prefix: str, member: Membership, open_partition: Callable[[int], Owner]
    ) -> None:
        self._kafka, self._prefix, self._member, self._open_partition = kafka, prefix, member, open_partition
        self._topic = f"{prefix}metrics"
        self._tasks: dict[TopicPartition, Task] = {}
        self._look_again_at: dict[TopicPartition, float] = {}  # partitions that lack one for their outputs
        self._generation = 0
        self._assigned_at: deque[float] = deque(maxlen=RESTLESS)
        self._joined_at = 0.0
        self._refused_generation = -1
        # Held while a batch is under way, so that a partition is handed over between two batches.
        self._batch_lock = asyncio.Lock()
        self._progressed_at: float | None = None  # while there is a broker to make progress with

    def idle_s(self) -> float:
        """Return for how long the loop has not come round; 0 while it waits for a broker, which no restart mends."""
        return 0.0 if self._progressed_at is None else time.monotonic() - self._progressed_at

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then commit what is done and leave the group."""
        pause_s, refused_at = 0.5, float("inf")
        while True:
            self._progressed_at = None
            await _until(stop, await_broker(self._kafka))
            self._progressed_at = time.monotonic()
            if stop.is_set():
                return
            began_at = time.monotonic()
            try:
                async with _no_longer_than(HANDOVER_S_MAX, after=stop):
                    await self._session(stop)
            except InconsistentGroupProtocolError as error:
                now = time.monotonic()
                refused_at = now if now - began_at > PAUSE_S_MAX else min(refused_at, now)
                if now - refused_at > FORGOTTEN_S:
                    raise refused(self._member.group) from error
                await _until(stop, asyncio.sleep(1.0))
            except FAILED as error:
                # Nothing uncommitted is trusted: the next session reads it again.
                pause_s = 1.0 if self._has_worked_since(began_at) else min(PAUSE_S_MAX, 2 * pause_s)
                log.warning("Kafka failed (%r): going on from the committed offsets in %g s", error, pause_s)
                await _until(stop, asyncio.sleep(pause_s))
            finally:
                await self._let_go()

    def _has_worked_since(self, began_at: float) -> bool:
        """Return whether a session was more than an attempt: one that keeps failing is tried ever more seldom."""
        has_committed = any(task.member_at > began_at for task in self._tasks.values())
        return has_committed or time.monotonic() - began_at > PAUSE_S_MAX

    async def _session(self, stop: asyncio.Event) -> None:
        async with self._clients() as (consumer, producer):
            self._consumer, self._producer = consumer, producer
            consumer.subscribe([self._topic], listener=self)
            commit_s = COMMIT_EXACTLY_ONCE_S if self._member.exactly_once else COMMIT_S
            commit_at, snapshot_at = time.monotonic(), time.monotonic() + SNAPSHOT_S
            quiet_at = time.monotonic() + QUIET_S
            while not stop.is_set():
                await self._take_over_what_is_new()
                fetched = await self._fetched()
                if fetched:
                    quiet_at = time.monotonic() + QUIET_S
                elif time.monotonic() >= quiet_at:
                    await self._ask_why_it_is_quiet()
                    quiet_at = time.monotonic() + QUIET_S
                async with self._batch_lock:
                    if fetched and not self._is_surely_member():
                        await self._commit(Task.prove_membership)
                    await self._carry(fetched)
                    if time.monotonic() >= commit_at:
                        await self._commit(Task.begin_commit)
                        commit_at = time.monotonic() + commit_s
                    if time.monotonic() >= snapshot_at:
                        await self._commit(Task.begin_snapshot)
                        snapshot_at = time.monotonic() + SNAPSHOT_S
                self._progressed_at = time.monotonic()
            async with self._batch_lock:
                await self._hand_over()

    @contextlib.asynccontextmanager
    async def _clients(self) -> AsyncIterator[tuple[AIOKafkaConsumer, AIOKafkaProducer]]:
        member = self._member
        producer = AIOKafkaProducer(
            # No linger: batches are whole already, and one that lingers holds up the next of its partition.
            **self._kafka.client_arguments(), enable_idempotence=True, linger_ms=0, max_batch_size=BATCH_BYTES_MAX,
            max_request_size=REQUEST_BYTES_MAX, metadata_max_age_ms=30_000,
        )  # fmt: skip
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(stop_producer, producer)
            await producer.start()
            consumer = group_consumer(
                self._kafka, group=member.group, computes=member.computes, instance=member.instance
            )
            yield await stack.enter_async_context(consuming(consumer)), producer

    async def _fetched(self) -> dict[TopicPartition, list[Records]]:
        try:
            fetched: dict[TopicPartition, list[Records]] = await self._consumer.getmany(timeout_ms=100)
        except NoOffsetForPartitionError:
            return {}  # given to us since the last look: taking it over gives it a position
        except OffsetOutOfRangeError as error:
            if error.args[0].keys() & self._tasks.keys():
                raise  # retention has passed us, or the topic was made anew
            return {}
        return fetched

    def _is_surely_member(self) -> bool:
        """Return whether our partitions can't be another's: the group waits a session's time for one who is silent.

        A worker that was stopped for longer would put out, after the next owner's look at the log and before it hears
        that it was expelled, what that owner scores by a newer model.
        """
        heard_at = max([self._joined_at, *(task.member_at for task in self._tasks.values())])
        return time.monotonic() - heard_at < SESSION_TIMEOUT_MS / 1000

    async def _carry(self, fetched: dict[TopicPartition, list[Records]]) -> None:
        for tp, batches in fetched.items():
            for records in batches:
                if tp in self._tasks:  # else it was revoked since the fetch
                    await self._tasks[tp].carry(records, self._consumer.highwater(tp))

    async def _ask_why_it_is_quiet(self) -> None:
        """Tell a broker that is gone from a quiet topic, which aiokafka's consumer doesn't; raises `KafkaError`."""
        if (reason := await why_no_answer(self._kafka)) is not None:
            raise KafkaConnectionError(reason)
        if not self._consumer.partitions_for_topic(self._topic):
            log.error("there is no topic %s: run 'linkcast topics apply'", self._topic)

    async def _take_over_what_is_new(self) -> None:
        if self._generation == self._refused_generation:
            if time.monotonic() - self._refused_at > REFUSED_S_MAX:
                raise KafkaError(f"a commit was refused {REFUSED_S_MAX:g} s ago, and the group has not said why")
            return  # the group has moved on and will tell us: until then, what we think is ours is another's
        if not self._new():
            return
        cluster = await self._producer.client.fetch_all_metadata()
        for tp in self._new():  # the group may have moved on meanwhile
            try:
                with contextlib.suppress(IllegalStateError, CommitFailedError):  # revoked meanwhile
                    async with asyncio.timeout(TAKE_OVER_S_MAX):
                        await self._take_over(tp, cluster)
            except TimeoutError:
                raise KafkaTimeoutError(f"{tp}: not taken over within {TAKE_OVER_S_MAX:g} s") from None

    def _new(self) -> list[TopicPartition]:
        now = time.monotonic()
        return [tp for tp in self._consumer.assignment() - self._tasks.keys() if now >= self._look_again_at.get(tp, 0)]

    async def _take_over(self, tp: TopicPartition, cluster: ClusterMetadata) -> None:
        generation = self._generation
        owner = self._open_partition(tp.partition)
        topics = [self._prefix + topic for topic in (*owner.topics, "state")]
        if lacking := [name for name in topics if tp.partition not in (cluster.partitions_for_topic(name) or ())]:
            log.error("%s waits: there is no partition %d of %s. Run 'linkcast topics apply', or give them as many "
                      "partitions as %s has", tp, tp.partition, ", ".join(lacking), self._topic)  # fmt: skip
            # Without a position it would hold up the fetch of the others.
            self._consumer.seek(tp, 0)
            if tp not in self._look_again_at:
                self._consumer.pause(tp)
            self._look_again_at[tp] = time.monotonic() + LOOK_AGAIN_S
            return
        if self._look_again_at.pop(tp, None):
            self._consumer.resume(tp)
        state = StateTopic(self._kafka, prefix=self._prefix, group=self._member.group, partition=tp.partition)
        task = Task(tp, owner, state, self._outlet(tp), self._prefix)
        try:
            await task.take_over(self._kafka, self._consumer, accept_gap=self._member.accept_gap)
            if generation != self._generation:
                raise IllegalStateError("assigned anew meanwhile")  # the loop comes back to it
            self._consumer.seek(tp, task.next_offset)
        except BaseException:
            await task.close()
            raise
        self._tasks[tp] = task

    def _outlet(self, tp: TopicPartition) -> Outlet:
        if self._member.exactly_once:
            return ExactlyOnce(self._kafka, prefix=self._prefix, group=self._member.group, tp=tp)
        return AtLeastOnce(self._producer, self._consumer, tp)

    async def _commit(self, do: Callable[[Task], Coroutine[Any, Any, None]]) -> None:
        """Let each partition do what moves the group's offsets behind what was put out."""
        try:
            await self._each(do, seconds=COMMIT_S_MAX)
        except (CommitFailedError, IllegalStateError) as error:
            # Whoever owns the partitions now does this work again, under the same `src`.
            log.warning("commit refused (%s): the partitions have another owner", error)
            self._refused_generation, self._refused_at = self._generation, time.monotonic()
            await self._let_go()

    async def _each(self, do: Callable[[Task], Coroutine[Any, Any, None]], *, seconds: float) -> None:
        """Do it for all partitions at once. Raises `KafkaTimeoutError` after `seconds`, and what one of them raises."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(do(task) for task in self._tasks.values()))
        except TimeoutError:
            raise KafkaTimeoutError(f"no acknowledgement within {seconds:g} s") from None

    async def _hand_over(self) -> None:
        """Hand every partition over, whatever becomes of another; then raises what the first of them raised."""
        failures: list[Exception] = []

        async def hand_over(task: Task) -> None:
            try:
                await task.hand_over()
            except FAILED as failure:
                failures.append(failure)

        await self._each(hand_over, seconds=HANDOVER_S_MAX)
        if failures:
            raise failures[0]

    async def _let_go(self) -> None:
        """Forget every partition, whatever is under way."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await asyncio.gather(*(task.close() for task in tasks))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Finish the batch under way, commit, and let go of every partition."""
        async with self._batch_lock:
            try:
                await self._hand_over()
            except FAILED as error:
                log.warning("not all was handed over (%r): the next owner does it again", error)
            finally:
                await self._let_go()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Let the loop take them over: an exception in here would be swallowed."""
        self._generation += 1
        self._joined_at = time.monotonic()
        self._look_again_at.clear()
        self._say_if_restless()
        async with self._batch_lock:
            await self._let_go()

    def _say_if_restless(self) -> None:
        now, instance = time.monotonic(), self._member.instance
        self._assigned_at.append(now)
        if instance and len(self._assigned_at) == RESTLESS and now - self._assigned_at[0] < RESTLESS_S:
            log.error("partitions came and went %d times within %g s: does another worker run as --instance %s?",
                      RESTLESS, RESTLESS_S, instance)  # fmt: skip
            self._assigned_at.clear()


@contextlib.asynccontextmanager
async def _no_longer_than(seconds: float, *, after: asyncio.Event) -> AsyncIterator[None]:
    """Cut the block off `seconds` after the event, and say so."""
    try:
        async with asyncio.timeout(None) as limit:

            async def set_limit() -> None:
                await after.wait()
                limit.reschedule(asyncio.get_running_loop().time() + seconds)

            setting = asyncio.create_task(set_limit())
            try:
                yield
            finally:
                setting.cancel()
    except TimeoutError:
        if not limit.expired():
            raise
        log.warning("not all was handed over within %g s: the next owner does it again", seconds)


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
