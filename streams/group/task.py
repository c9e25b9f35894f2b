"""One partition in a worker's hands: taken over, carried on batch by batch, snapshotted, handed over.

Its offsets. The takeover fixes those above the line; those below it move::

    start               emit_from                _settled
    --+---------------------+------------------------+------------------------> log of the source partition
      |  state is rebuilt,  |  put out by the models |  put out; here the owner may
      |  nothing is put out |  on record             |  switch to a new model
      +--> next_offset ... highwater

    rebuilding     start <= next_offset < emit_from = committed
    putting out    emit_from <= committed <= next_offset <= highwater
    always         _snapshot_at <= committed, and _snapshot_at <= next_offset

`start` is the snapshot's next offset, or from where `recovery` rebuilds. `emit_from` is what the group had committed,
or `start` if that is later. `_settled` is the log's end at the takeover, 0 where no schedule is on record: no output
rests on one. `committed` is where the newest commit moves the group's offset, and may still be under way.
`_snapshot_at` is the next offset of the newest snapshot written; it begins at `start`, and at -1 on another log.
`_owner.switch_offsets()`: those restored lie before `_settled`, a new one lies at or behind both `emit_from` and
`_settled`. `highwater` is the log's end as the last fetch told it.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams import measures
from streams.features.snapshot import Chunks
from streams.group.failpoints import reached
from streams.group.outlet import Outlet
from streams.group.owner import Messages, Owner
from streams.group.recovery import Resumed, resume
from streams.group.state_topic import SCHEDULE, StateTopic
from streams.kafka import KafkaSettings
from streams.wire.records import Records

INLINE_RECORDS_MAX, INLINE_BYTES_MAX = 256, 80 << 10
"""A batch of at most so much, keys included, takes a millisecond or two, and a thread would cost it half of that once
more. Larger ones go to a thread, so that heartbeats live."""

log = logging.getLogger(__name__)


class Task:
    """What a worker does for one partition while it owns it: state, outputs, the group's offset, snapshots.

    It hands fetched records to the partition's owner and what they give to the outlet, and lets the group's offset
    follow. Snapshots follow the commit, on topic `state`. Whatever raises ends it: the next one begins from there.
    """

    def __init__(self, tp: TopicPartition, owner: Owner, state: StateTopic, outlet: Outlet, prefix: str) -> None:
        self.tp, self._owner, self._state, self._outlet, self._prefix = tp, owner, state, outlet, prefix
        self.next_offset = self.emit_from = self.committed = 0
        self._settled = self._snapshot_at = 0
        self._seen = -1
        self._measures = measures.OfPartition(tp.partition)
        self._partitions = 0
        self._committing: asyncio.Task[None] | None = None
        self._began_commit_at = 0.0
        self.member_at = 0.0  # when the newest commit that the group took was begun
        self._writing: asyncio.Task[None] | None = None

    async def take_over(self, kafka: KafkaSettings, consumer: AIOKafkaConsumer, *, accept_gap: bool) -> None:
        """Fence the owner before, and resume from its snapshot. Raises as `streams.group.recovery.resume`."""
        newest = await self._state.open()
        await self._outlet.open()
        reached("fenced")
        self._partitions = len(consumer.partitions_for_topic(self.tp.topic) or ())
        resumed = await resume(
            kafka, consumer, self.tp, self._owner, newest, partitions=self._partitions, accept_gap=accept_gap
        )
        if SCHEDULE in newest and not resumed.is_another_log:
            self._owner.restore_schedule(newest[SCHEDULE])
            # What an owner before may have put out keeps the models that it had: it got no further than here.
            self._settled = resumed.end
        self._begin(resumed)
        if resumed.is_another_log:
            # What is on record speaks of the log before, and would make the next owner read this one whole again. The
            # snapshot is last: while it is the old one, whoever comes next begins anew, too.
            await consumer.commit({self.tp: resumed.start})
            await self._state.write_schedule(None)
            await self._write(*self._snapshot())

    def _begin(self, resumed: Resumed) -> None:
        self._state.adopt(resumed.crc)
        self._seen = resumed.seen
        self.next_offset, self.emit_from = resumed.start, resumed.emit_from
        self._snapshot_at = -1 if resumed.is_another_log else resumed.start
        self.committed = resumed.emit_from
        log.info("%s: reading from %d, output from %d", self.tp, resumed.start, resumed.emit_from)

    async def carry(self, records: Records, highwater: int | None) -> None:
        """Take the next records to the producer."""
        reached("fetched")
        for part in self._parts(records):
            await self._carry(part)
        self._measures.rebuilding.set(max(0, self.emit_from - self.next_offset))
        self._measures.lag.set((highwater or self.next_offset) - self.next_offset)

    def _parts(self, records: Records) -> Iterator[Records]:
        """Cut a batch where outputs begin, and where a switch takes effect."""
        first, last = int(records.offset[0]), int(records.offset[-1])
        edges = {self.emit_from, self._settled, *self._owner.switch_offsets()}
        at = 0
        for edge in sorted(edge for edge in edges if first < edge <= last):
            cut = int(np.searchsorted(records.offset, edge))
            if cut > at:
                yield records[at:cut]
                at = cut
        yield records[at:]

    async def _carry(self, records: Records) -> None:
        offset = int(records.offset[0])
        is_output = offset >= self.emit_from
        if is_output and offset >= self._settled and (schedule := self._owner.switch(offset)):
            await self._state.write_schedule(schedule)
        if _is_small(records):
            outputs = self._owner.advance(records)
        else:
            outputs = await asyncio.to_thread(self._owner.advance, records)
        self.next_offset, self._seen = int(records.offset[-1]) + 1, int(records.timestamp[-1])
        if is_output:
            reached("advanced")
            with measures.cpu("send", events=len(records)):
                await self._send(outputs.messages)
            self._measures.add(outputs.became, outputs.dead, outputs.streams)
        else:
            reached("rebuilt")
            self._owner.flush()  # put out by the owner before

    async def _send(self, messages: Messages) -> None:
        for topic, of_topic in messages.items():
            if of_topic:
                await self._outlet.send(self._prefix + topic, of_topic)
            reached("output_sent")

    async def begin_commit(self) -> None:
        """Let the offset follow what was put out, while the hop goes on; raises what the commit before raised."""
        await self._settle()
        if self.next_offset > self.committed:
            with measures.cpu("send", events=self.next_offset - self.committed):
                await self._send(self._owner.flush())
            self._move_offset(self.next_offset)

    async def prove_membership(self) -> None:
        """Commit, though there be nothing new: raises `CommitFailedError` where the group has gone on without us."""
        await self.begin_commit()
        if not self._committing:
            self._move_offset(self.committed)
        await self._settle()

    def _move_offset(self, to: int) -> None:
        self._began_commit_at = time.monotonic()
        self._committing = self._outlet.commit(to)
        self.committed = to

    async def _settle(self) -> None:
        """Wait until the commit under way is through."""
        if self._committing:
            await self._committing
            self._committing = None
            self.member_at = self._began_commit_at
            measures.COMMITTED_AT.set_to_current_time()

    async def begin_snapshot(self) -> None:
        """Copy what changed and write it while the hop goes on, unless the last one is still under way."""
        if self._writing:
            if not self._writing.done():
                return  # the broker is slow: the next round writes what this one would have
            self._writing.result()
        await self.begin_commit()
        self._writing = asyncio.create_task(self._write(*self._snapshot()), name=f"snapshot of {self.tp}")

    def _snapshot(self) -> tuple[Chunks, Mapping[str, Any]]:
        chunks, fields = self._owner.snapshot()
        reached("snapshot_taken")
        of_log = {"next_offset": self.next_offset, "seen": self._seen, "partitions": self._partitions}
        return chunks, fields | of_log

    async def _write(self, chunks: Chunks, manifest: Mapping[str, Any]) -> None:
        if self._committing:
            await self._committing  # committed ≥ next offset of the snapshot: what it covers has been put out
        if chunks or manifest["next_offset"] != self._snapshot_at:
            await self._state.write(chunks, **manifest)
            self._snapshot_at = manifest["next_offset"]
            measures.SNAPSHOT_AT.set_to_current_time()

    async def hand_over(self) -> None:
        """Commit, and leave the state as the next owner needs it."""
        await self.begin_commit()
        await self._settle()
        if self._writing:
            await self._writing
        await self._write(*self._snapshot())

    async def close(self) -> None:
        """Let go, whatever is under way."""
        self._measures.withdraw()
        under_way = [task for task in (self._committing, self._writing) if task]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await asyncio.gather(self._outlet.close(), self._state.close(), return_exceptions=True)


def _is_small(records: Records) -> bool:
    return len(records) <= INLINE_RECORDS_MAX and len(records.data) <= INLINE_BYTES_MAX
