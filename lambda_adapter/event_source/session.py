"""One membership in the consumer group: fetches, hands out batches, and commits behind what is over.

A partition has one position, the offset behind everything that was settled, given up or filtered out in order.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, KafkaTimeoutError

from lambda_adapter.event_source.batcher import Batcher, Taken
from lambda_adapter.event_source.counters import Counters
from lambda_adapter.event_source.deliverer import Deliverer
from lambda_adapter.event_source.delivery import Batch
from lambda_adapter.event_source.event import Partition, Record
from lambda_adapter.event_source.options import Options

COMMIT_S, COMMIT_S_MAX = 1.0, 10.0
POLL_MS = 50
"""How long a fetch waits, and so how long a partition that has room again waits for the next one."""
FETCHED_MAX = 2_000

log = logging.getLogger(__name__)


class Session(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Works with a started consumer until it is told to stop."""

    def __init__(
        self, consumer: AIOKafkaConsumer, options: Options, deliverer: Deliverer, counters: Counters, *,
        overhead_bytes: int,
    ) -> None:  # fmt: skip
        self._consumer, self._options, self._deliverer, self._counters = consumer, options, deliverer, counters
        self._overhead_bytes = overhead_bytes
        self._deliveries: set[asyncio.Task[None]] = set()
        self._ends: dict[TopicPartition, int] | None = None
        self._broken: list[BaseException] = []  # by what a task of ours, or a call of aiokafka's, came to its end
        self._changed = asyncio.Event()
        # Held where positions are looked at or committed, so that none is looked at between one owner and the next.
        self._positions_lock = asyncio.Lock()
        self._forget()

    async def run(self, topic: str, stop: asyncio.Event, *, is_once: bool) -> None:
        """Work until `stop`, or until what our partitions held at first is over where `is_once`; then commit."""
        self._ends = {} if is_once else None
        self._consumer.subscribe([topic], listener=self)
        stopping, fetching = asyncio.create_task(stop.wait()), asyncio.create_task(self._fetch())
        for task in (stopping, fetching):
            task.add_done_callback(lambda _: self._changed.set())
        try:
            await self._dispatch(stop, fetching)
        finally:
            await _ended(stopping, fetching)
            await self._leave()

    async def _fetch(self) -> None:
        while True:
            wanted = [tp for tp in self._consumer.assignment() if self._batcher.has_room(_partition(tp))]
            if not wanted:
                await asyncio.sleep(POLL_MS / 1000)
                continue
            try:
                fetched = await self._consumer.getmany(*wanted, timeout_ms=POLL_MS, max_records=FETCHED_MAX)
            except IllegalStateError:
                continue  # revoked since the look at the assignment
            for tp, records in fetched.items():
                self._take_in(_partition(tp), [Record.from_kafka(record) for record in records])

    def _take_in(self, partition: Partition, records: Sequence[Record]) -> None:
        criteria = self._options.filter_criteria
        seen = [record for record in records if criteria is None or criteria.matches(record.value)]
        self._counters.read += len(records)
        self._counters.filtered += len(records) - len(seen)
        self._batcher.add(partition, seen, next_offset=records[-1].offset + 1, now_s=time.monotonic())
        self._changed.set()

    async def _dispatch(self, stop: asyncio.Event, fetching: "asyncio.Task[None]") -> None:
        commit_at = time.monotonic() + COMMIT_S
        while not stop.is_set():
            self._changed.clear()
            if fetching.done():
                fetching.result()  # raises what ended it
            if self._broken:
                raise self._broken[0]
            due_s = await self._begin_what_is_due()
            if await self._is_past_the_ends():
                return
            if (wait_s := commit_at - time.monotonic()) <= 0:
                async with self._positions_lock:
                    await self._commit()
                wait_s, commit_at = COMMIT_S, time.monotonic() + COMMIT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(wait_s, due_s))

    async def _begin_what_is_due(self) -> float:
        """Begin a delivery for each slot and batch there is; return how long until a batch may be due, s."""
        slots = self._deliverer.slots
        while self._is_open and not (slots.locked() or self._deliverer.leaving.is_set()):
            due_s = self._batcher.ready_in_s(time.monotonic())
            if due_s is None or due_s > 0:
                return COMMIT_S if due_s is None else due_s
            await slots.acquire()  # at once, as none is taken in between
            delivery = asyncio.create_task(self._deliver(self._batcher.take()))
            self._deliveries.add(delivery)
            delivery.add_done_callback(self._delivered)
        return COMMIT_S

    async def _deliver(self, taken: Taken) -> None:
        under_way = dict(taken.ends)
        async for left in self._deliverer.deliver(taken.batch):
            for partition, end in list(under_way.items()):
                offset = _first_offset(left, partition)
                self._positions[partition] = end if offset is None else offset
                if offset is None:
                    del under_way[partition]
                    self._batcher.free(partition)
            self._changed.set()

    def _delivered(self, delivery: "asyncio.Task[None]") -> None:
        self._deliveries.discard(delivery)
        if not delivery.cancelled() and (error := delivery.exception()) is not None:
            self._broken.append(error)
        self._changed.set()

    async def _is_past_the_ends(self) -> bool:
        """Whether all that our partitions held when they were given to us is over, and that was all we were to do."""
        if self._ends is None:
            return False
        async with self._positions_lock:
            ours = self._consumer.assignment() if self._is_open else ()
            with contextlib.suppress(IllegalStateError):  # revoked meanwhile
                return bool(ours) and all([await self._over(tp) >= self._ends[tp] for tp in ours])
        return False

    async def _over(self, tp: TopicPartition) -> int:
        """Return the offset behind which nothing waits; past the last record it is where the consumer stands."""
        partition = _partition(tp)
        if self._batcher.is_idle(partition):
            # Not the last record's: behind it may stand the marker of a transaction, or what the filter skipped.
            self._positions[partition] = await self._consumer.position(tp)
        return self._positions.get(partition, -1)

    async def _commit(self) -> None:
        if not self._is_open:
            return  # what we stand at is nobody's word of what is over
        try:
            for tp in self._consumer.assignment():
                await self._over(tp)
            moved = {p: offset for p, offset in self._positions.items() if self._committed.get(p) != offset}
            if moved:
                offsets = {TopicPartition(*p): offset for p, offset in moved.items()}
                await asyncio.wait_for(self._consumer.commit(offsets), COMMIT_S_MAX)
                self._counters.commits += 1
                self._committed |= moved
        except TimeoutError:
            # aiokafka 0.14 looks for the group's coordinator for ever.
            raise KafkaTimeoutError(f"no commit within {COMMIT_S_MAX:g} s") from None
        except (CommitFailedError, IllegalStateError) as error:
            log.warning("commit refused (%s): the partitions have another owner, who does this again", error)

    async def _leave(self) -> None:
        """Let the invocations under way end, commit what is over, and forget the rest: it is read again."""
        self._deliverer.leaving.set()
        if self._deliveries:
            await asyncio.wait(set(self._deliveries))
        async with self._positions_lock:
            try:
                await self._commit()
            except KafkaError as error:
                log.warning("left without a commit (%r): what is over since the last one is done again", error)
            self._forget()

    def _forget(self) -> None:
        self._is_open = False
        self._batcher = Batcher(
            batch_size=self._options.batch_size, window_s=self._options.window_s, overhead_bytes=self._overhead_bytes
        )
        self._positions: dict[Partition, int] = {}
        self._committed: dict[Partition, int] = {}

    async def on_partitions_revoked(self, _revoked: set[TopicPartition]) -> None:
        """Leave what we had, in good order."""
        await self._leave()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Go on from what the group committed; where it has not, from StartingPosition."""
        try:
            await self._place(assigned)
        except (KafkaError, IllegalStateError) as error:
            self._broken.append(error)  # aiokafka would write it to its log, and go on from anywhere
        self._changed.set()

    async def _place(self, assigned: set[TopicPartition]) -> None:
        committed = {tp: await self._consumer.committed(tp) for tp in assigned}
        new = [tp for tp, offset in committed.items() if offset is None]
        # The next commit writes these down: LATEST is to mean this moment, after a restart as well.
        for tp, offset in (committed | (await self._starting(new) if new else {})).items():
            self._consumer.seek(tp, offset)
        if self._ends is not None and (unmet := assigned - self._ends.keys()):
            self._ends |= await self._consumer.end_offsets(unmet)
        log.info("%d partitions assigned, %d of them new to the group", len(assigned), len(new))
        self._deliverer.leaving.clear()
        self._is_open = True

    async def _starting(self, new: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        position = self._options.starting_position
        if position == "TRIM_HORIZON":
            begins: dict[TopicPartition, int] = await self._consumer.beginning_offsets(new)
            return begins
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(new)
        if position == "LATEST":
            return ends
        assert self._options.starting_position_timestamp is not None  # checked when the options were made
        at_ms = int(self._options.starting_position_timestamp * 1000)
        found = await self._consumer.offsets_for_times(dict.fromkeys(new, at_ms))
        return {tp: found[tp].offset if found.get(tp) else ends[tp] for tp in new}


def _partition(tp: TopicPartition) -> Partition:
    return Partition(tp.topic, tp.partition)


def _first_offset(batches: Iterable[Batch], partition: Partition) -> int | None:
    """Return where a partition goes on in what is left of a delivery, None where nothing of it is."""
    offsets = (piece.records[0].offset for batch in batches for piece in batch if piece.partition == partition)
    return next(offsets, None)


async def _ended(*tasks: "asyncio.Task[object]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
