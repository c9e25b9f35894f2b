"""What becomes of a batch after an attempt: settled, tried again (whole, its rest or its halves) or given up.

Pure: no clock and no Kafka. A batch holds pieces of several partitions; within one of these the order is never left.

- Lambda checkpoints a partition at its lowest failed offset and replays from there: what succeeded behind it is
  executed again, and given up with it. Whether AWS re-sends those is documented for Kinesis and not for Kafka; this is
  the worse reading of the two.
- A checkpoint that moved makes a new first record, whose retries are counted anew.
- Splitting uses up no retry, as AWS says of Kinesis.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lambda_adapter.event_source.event import Partition, Record

Condition = Literal["RetryAttemptsExhausted", "RecordAgeExceeded", "PayloadTooLarge"]


class Piece(NamedTuple):
    """Records of one partition, in order."""

    partition: Partition
    records: tuple[Record, ...]
    retries: int = 0  # of its first record, this attempt included


Batch = tuple[Piece, ...]
"""The pieces of one invocation: each partition once."""


@dataclass(frozen=True)
class GivenUp:
    """Records that the function will not see again, for the on-failure destination."""

    condition: Condition
    partition: Partition
    records: tuple[Record, ...]
    attempts: int  # with the first of them
    error: str


@dataclass(frozen=True)
class Verdict:
    """What an attempt settled, what is to be tried again in this order, and what was given up."""

    settled: int = 0
    again: tuple[Batch, ...] = ()
    given_up: tuple[GivenUp, ...] = ()
    is_split: bool = False


@dataclass(frozen=True)
class Policy:
    """How often a failure is tried again (None: for ever), and whether a failed batch is split."""

    retries_max: int | None
    bisect: bool

    def succeeded(self, batch: Batch) -> Verdict:
        """The function returned, and reported no failure."""
        return Verdict(settled=size(batch))

    def failed_in_part(self, batch: Batch, lowest_failed: Mapping[Partition, int]) -> Verdict:
        """The function reported failures: each partition goes on from its lowest failed offset."""
        rests = tuple(
            _rest(piece, lowest_failed[piece.partition]) for piece in batch if piece.partition in lowest_failed
        )
        settled = size(batch) - size(rests)
        if not self.bisect or size(rests) == 1:
            return replace(self._tried_again(rests, "the function reported it as failed"), settled=settled)
        if any(_is_stuck(rest, batch) for rest in rests):
            return Verdict(settled, halves(rests), is_split=True)
        return Verdict(settled, (rests,), is_split=True)  # split at the checkpoint

    def failed(self, batch: Batch, error: str) -> Verdict:
        """The function failed with all of the batch."""
        if self.bisect and size(batch) > 1:
            return Verdict(again=halves(batch), is_split=True)
        return self._tried_again(batch, error)

    def _tried_again(self, batch: Batch, error: str) -> Verdict:
        again, given_up = [], []
        for piece in batch:
            if self.retries_max is not None and piece.retries >= self.retries_max:
                given_up.append(
                    GivenUp("RetryAttemptsExhausted", piece.partition, piece.records, piece.retries + 1, error)
                )
            else:
                again.append(piece._replace(retries=piece.retries + 1))
        return Verdict(again=(tuple(again),) if again else (), given_up=tuple(given_up))


def size(batch: Batch) -> int:
    """Return how many records a batch holds."""
    return sum(len(piece.records) for piece in batch)


def halves(batch: Batch) -> tuple[Batch, ...]:
    """Split a batch of two or more records in two; what stood first comes first.

    >>> def piece(name, *offsets): return Piece(Partition(name, 0), offsets)
    >>> [[(str(p.partition), p.records) for p in half] for half in halves((piece("a", 1, 2, 3), piece("b", 7)))]
    [[('a-0', (1, 2))], [('a-0', (3,)), ('b-0', (7,))]]
    """
    left, right, room = [], [], (size(batch) + 1) // 2
    for piece in batch:
        if first := piece.records[:room]:
            left.append(piece._replace(records=first))
        if rest := piece.records[room:]:
            right.append(piece._replace(records=rest))
        room -= len(first)
    return tuple(left), tuple(right)


def without_expired(batch: Batch, *, now_ms: int, age_ms_max: int) -> tuple[Batch, tuple[GivenUp, ...]]:
    """Take out the records older than `age_ms_max` by their own timestamp."""
    fresh, given_up = [], []
    for piece in batch:
        old = tuple(record for record in piece.records if now_ms - record.timestamp > age_ms_max)
        if old:
            error = f"older than {age_ms_max // 1000} s"
            given_up.append(GivenUp("RecordAgeExceeded", piece.partition, old, piece.retries, error))
            gone = {record.offset for record in old}
            piece = piece._replace(records=tuple(record for record in piece.records if record.offset not in gone))
        if piece.records:
            fresh.append(piece)
    return tuple(fresh), tuple(given_up)


def _rest(piece: Piece, offset: int) -> Piece:
    rest = tuple(record for record in piece.records if record.offset >= offset)
    return Piece(piece.partition, rest, piece.retries if len(rest) == len(piece.records) else 0)


def _is_stuck(rest: Piece, batch: Batch) -> bool:
    """Whether the first record of an attempt is what failed: the checkpoint did not move."""
    return any(piece.partition == rest.partition and len(piece.records) == len(rest.records) for piece in batch)
