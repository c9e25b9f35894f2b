"""What a broker sent of one partition to records as arrays, in bounded memory.

A batch that isn't the one its producer wrote, by its checksum, is an error: it is asked for again. One that is, and can
still not be read or is beyond all bounds, will never be another: its records are given as unread ones, by their places,
so that they become dead letters and the offset moves.
"""

import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple

from aiokafka.errors import CorruptRecordException

from streams.contract import DeadReason
from streams.wire.decompression import BYTES_MAX, TooLarge, Unreadable
from streams.wire.old_messages import messages_in, next_offset
from streams.wire.records import NO_TIME, Records, Taken
from streams.wire.unpacked import Batch, batch_in, unpack

RECORDS_MAX = 8_192
"""In one `Records`."""
FETCH_BYTES_MAX = BYTES_MAX
"""Once so much of a fetch is decompressed, the rest of it is asked for again: 4 MiB may hold 90 batches of 64 MiB."""

_BEFORE_LENGTH, _MAGIC_AT, _MAGIC = 12, 16, 2

log = logging.getLogger(__name__)


class Fetched(NamedTuple):
    """The records of a fetch, at most `RECORDS_MAX` in each part, and the offset behind all of them."""

    parts: list[Records]
    next_offset: int


def read(
    data: bytes, *, partition: str, first: int, is_left_out: Callable[[Batch], bool] = lambda batch: False
) -> Fetched:
    """Return the records from offset `first` on, without the batches that are left out and what controls transactions.

    The last batch may be cut off. Of a fetch that decompresses to more than `FETCH_BYTES_MAX` only the beginning is
    read. `partition` is what it is called in errors: raises aiokafka's `CorruptRecordException` with its coordinates.
    """
    reader = _Reader(partition, first)
    try:
        for frame in frames(data):
            if frame[_MAGIC_AT] < _MAGIC:
                reader.take_old(frame)
            else:
                batch = batch_in(frame)
                if batch.base_offset < reader.behind:
                    raise CorruptRecordException(f"a batch that says it is at offset {batch.base_offset}, before it")
                if not (is_left_out(batch) or batch.is_control or batch.next_offset <= first):
                    reader.take(batch)
                reader.behind = batch.next_offset
            if reader.size >= FETCH_BYTES_MAX:
                break
    except CorruptRecordException as error:
        raise CorruptRecordException(
            f"{partition}@{max(first, reader.behind)}: {error.args[0]}. It is asked for again; if it stays so, the "
            "broker's log is broken, or what lies between: see docs/operations.md"
        ) from None
    reader.make()
    return Fetched([part for records in reader.made for part in _parts(records)], max(first, reader.behind))


def _parts(records: Records) -> Iterator[Records]:
    if 0 < len(records) <= RECORDS_MAX:
        yield records
    else:
        yield from (records[at : at + RECORDS_MAX] for at in range(0, len(records), RECORDS_MAX))


def frames(data: bytes) -> Iterator[memoryview]:
    """Yield the batches, and messages of old formats, that lie whole in `data`."""
    view, at = memoryview(data), 0
    while at + _MAGIC_AT < len(data):
        size = int.from_bytes(view[at + 8 : at + _BEFORE_LENGTH], "big", signed=True)
        end = at + _BEFORE_LENGTH + size
        if end <= at + _MAGIC_AT:
            raise CorruptRecordException(f"a batch that says it has {size} bytes")
        if end > len(data):
            return
        yield view[at:end]
        at = end


class _Reader:
    """Makes records of some batches at a time, and of messages of old formats."""

    def __init__(self, partition: str, first: int) -> None:
        self._partition, self._first = partition, first
        self._group: list[Batch] = []
        self._old: list[Taken] = []
        self._n = 0  # records in the group
        self.made: list[Records] = []
        self.behind = 0  # all that was taken; a fetch may begin before `first`, within a batch
        self.size = 0  # in bytes, decompressed

    def take(self, batch: Batch) -> None:
        try:
            opened = batch.opened()
        except (TooLarge, Unreadable) as error:
            self._give_up(batch, error)
            return
        if self._old or self._n >= RECORDS_MAX:
            self.make()
        self._group.append(opened)
        self._n += opened.n
        self.size += len(opened.body)

    def take_old(self, frame: memoryview) -> None:
        behind = next_offset(frame)
        if behind <= self.behind:
            raise CorruptRecordException(f"a message that says it is at offset {behind - 1}, before it")
        if behind > self._first:
            self._take_old(frame, behind)
        self.behind = behind

    def _take_old(self, frame: memoryview, behind: int) -> None:
        try:
            messages = messages_in(frame)
        except (TooLarge, Unreadable) as error:
            self._give_up(Batch(behind - 1, behind, NO_TIME, NO_TIME, 1, False, frame), error)
            return
        if self._group or len(self._old) >= RECORDS_MAX:
            self.make()
        first = max(self._first, self.behind)
        self._old += [message for message in messages if message.offset >= first]
        self.size += len(frame) + sum(len(message.value or b"") for message in messages)

    def make(self) -> None:
        """Make records of what was taken."""
        if self._old:
            self.made.append(Records.of(self._old))
        group, self._group, self._old, self._n = self._group, [], [], 0
        if not group:
            return
        try:
            self.made.append(unpack(group, first=self._first))
        except Unreadable as error:
            if len(group) == 1:
                self._give_up(group[0], error)
                return
            for batch in group:  # the others are good
                self._group = [batch]
                self.make()

    def _give_up(self, batch: Batch, error: Exception) -> None:
        """Give the records of a batch by their places alone, where it says these, else the first one for all."""
        self.make()
        reason: DeadReason = "too_large" if isinstance(error, TooLarge) else "corrupt"
        detail = f"the batch of offsets {batch.base_offset} to {batch.next_offset - 1}: {error.args[0]}"
        log.error("%s@%d: it becomes dead letters: %s", self._partition, batch.base_offset, detail)
        offsets = range(max(self._first, batch.base_offset), batch.next_offset)
        if batch.n != batch.next_offset - batch.base_offset or batch.n > RECORDS_MAX:
            offsets = offsets[:1]
        timestamp = batch.first_timestamp if batch.append_time < 0 else batch.append_time
        self.made.append(Records.unread(offsets, timestamp, (reason, detail)))
        self.size += BYTES_MAX  # so much may have been written before it was given up
