"""What every counter of every port said last: a sample may lack any of them, and loses none.

A delta is taken from the counter's own last reading, however many samples lacked it, over the time since. A metric that
joins counters (errors per packet) waits for a moment at which all of them were read, and covers what they counted since
it was told last: what a counter counts while another one is missing stays in the sum. Counters that are never read at
one moment, for two sources tell them, are joined once each was read anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streams.contract import IDLE_MS
from streams.ingest.sources.counters import COUNTERS, DATA, GAP_PERIODS, INDEX, TRAFFIC, Deltas, Samples, deltas
from streams.ingest.sources.metrics import JOINT, ROCE_ERRORS

FORGOTTEN_S = IDLE_MS / 1000
"""A counter that was missing for longer begins anew, and a port that as many samples lacked may leave memory."""

BOOT_JITTER_S = 30.0
"""A boot time that moves by less is the same boot by a corrected clock: no machine boots twice within it."""

_C = len(COUNTERS)
_PORT = np.dtype(
    [
        ("seen", np.int64),  # the last sample that had the port
        ("life", np.int64),
        ("value", np.uint64, _C),
        ("read_s", np.float64, _C),  # NaN: never
        ("bits", np.uint8, _C),
        ("mark", np.int64, _C),
        ("told_with", np.int64, _C),  # the same where counters come together, so from one source; 0: never read
        ("counted", np.float64, (len(JOINT), _C)),  # since the joint metric was told last, at that reading
        ("since_s", np.float64, (len(JOINT), _C)),
    ]
)
_NOTHING = np.zeros((), _PORT)
_NOTHING["read_s"] = np.nan
_64_BITS = np.uint8(64)
_TRAFFIC = np.isin(np.arange(_C), [INDEX[name] for name in TRAFFIC])
_DATA = np.isin(np.arange(_C), [INDEX[name] for name in DATA])
_ROCE = np.isin(np.arange(_C), [INDEX[name] for name in ROCE_ERRORS])
_NEEDED, _IF_PRESENT = (
    np.array([np.isin(np.arange(_C), [INDEX[name] for name in names]) for names in of_all], np.bool_)
    for of_all in zip(*JOINT.values(), strict=True)
)


@dataclass(frozen=True, slots=True)
class Sample:
    """n ports, each read at one moment: `at_s` (float64, `(n,)`) on a clock that never steps.

    `values` (uint64), `is_read` (bool) and `bits` (uint8) have shape `(n, C)`; `data_bytes` (int64), `is_roce` and
    `is_change` (bool) shape `(n,)`. A sample that `is_change` leaves out what is as it was. `boots` are the marks of
    the counters' lives: any text, a time in seconds since 1970, or nothing where the sample doesn't say.
    """

    values: NDArray[np.uint64]
    is_read: NDArray[np.bool_]
    at_s: NDArray[np.float64]
    bits: NDArray[np.uint8]
    data_bytes: NDArray[np.int64]
    is_roce: NDArray[np.bool_]
    is_change: NDArray[np.bool_]
    boots: Sequence[str]


class CounterMemory:
    """The last reading of each counter, and what it has counted since each joint metric was told last.

    Memory is that of the ports of the last 25 h or so, some 2.5 KB each.
    """

    def __init__(self, *, period_s: float) -> None:
        self._period_s = period_s
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._ports = np.zeros(0, _PORT)
        self._boots: list[str] = []
        self._sources = 0
        self._samples = 0

    def next_sample(self) -> None:
        """Begin another sample of the whole source.

        Samples and not times say how long a port is gone: the clocks of two ports may be years apart.
        """
        self._samples += 1

    def advance(self, streams: Sequence[str], sample: Sample) -> tuple[Deltas, dict[str, Deltas]]:
        """Take one sample of each of n streams; return each counter's delta, and those of the joint metrics by name.

        The deltas of a joint metric are NaN where it can't be told yet, and else all over one interval.
        """
        at = self._slots_of(streams)
        before = self._before(at, sample.at_s)
        # At the very moment of its last reading a counter says nothing new: a file that was read again.
        is_told = sample.is_read & (sample.at_s[:, np.newaxis] != before.monotonic_s)
        is_same = self._unchanged(at, is_told, sample.is_change) & before.is_read
        bits = np.where(is_same, self._ports["bits"][at], sample.bits)
        now = Samples(
            values=np.where(is_same, before.values, sample.values),
            is_read=is_told | is_same,
            monotonic_s=np.where(is_told | is_same, sample.at_s[:, np.newaxis], np.nan),
            boot=self._marks(at, sample, bits),
        )
        # A classic traffic counter sticks at its top and never wraps: what goes back was reset.
        counted = deltas(before, now, period_s=self._period_s, bits=np.where(_TRAFFIC, _64_BITS, bits))
        self._remember(at, now, bits)
        return counted, self._joint(at, before, counted, sample.is_roce)

    def _before(self, at: NDArray[np.intp], at_s: NDArray[np.float64]) -> Samples:
        read_s = self._ports["read_s"][at]
        is_read = np.abs(at_s[:, np.newaxis] - read_s) <= FORGOTTEN_S  # false for NaN
        return Samples(self._ports["value"][at], is_read, read_s, self._ports["mark"][at])

    def _unchanged(
        self, at: NDArray[np.intp], is_told: NDArray[np.bool_], is_change: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return which counters are as they were though the sample doesn't say them, shape `(n, C)`.

        A port's counters may come from two sources in turn: a change from one of them says nothing of the other's.
        """
        is_same = np.zeros_like(is_told)
        for row, slot in enumerate(at.tolist()):
            told_with = self._ports["told_with"][slot]
            source = told_with[is_told[row]].max(initial=0) if is_change[row] else 0
            if not source:
                self._sources += 1
                source = self._sources
            if is_change[row]:
                is_same[row] = (told_with == source) & ~is_told[row]
            told_with[is_told[row]] = source
        return is_same

    def _marks(self, at: NDArray[np.intp], sample: Sample, bits: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return a mark that differs where a counter isn't the one of before: another life, width or unit."""
        for slot, boot in zip(at.tolist(), sample.boots, strict=True):
            if boot:
                self._ports["life"][slot] += not is_same_boot(self._boots[slot] or boot, boot)
                self._boots[slot] = boot
        units = np.where(_DATA, sample.data_bytes[:, np.newaxis], 0)
        marks: NDArray[np.int64] = self._ports["life"][at][:, np.newaxis] << 16 | bits.astype(np.int64) << 8 | units
        return marks

    def _remember(self, at: NDArray[np.intp], now: Samples, bits: NDArray[np.uint8]) -> None:
        for name, new in (("value", now.values), ("read_s", now.monotonic_s), ("bits", bits), ("mark", now.boot)):
            self._ports[name][at] = np.where(now.is_read, new, self._ports[name][at])

    def _joint(
        self, at: NDArray[np.intp], before: Samples, counted: Deltas, is_roce: NDArray[np.bool_]
    ) -> dict[str, Deltas]:
        # Begins anew: what was never read before or long ago, and what was read later than now (the clock stepped).
        is_new = (~before.is_read | (counted.elapsed_s < 0))[:, np.newaxis]
        is_counted = ~is_new[:, 0] & (counted.elapsed_s > 0)
        read_s = self._ports["read_s"][at][:, np.newaxis]
        since_s = np.where(is_new, read_s, self._ports["since_s"][at])
        total = np.where(is_new, 0.0, self._ports["counted"][at])
        total += np.where(is_counted, counted.value, 0.0)[:, np.newaxis]
        total_s = read_s - since_s

        is_there = counted.is_present & (is_roce[:, np.newaxis] | ~_ROCE)
        is_operand = _NEEDED | (_IF_PRESENT & is_there[:, np.newaxis])
        span_s = np.where(is_operand & (total_s > 0), total_s, 0.0).max(axis=2, keepdims=True)
        is_due = (
            _is_one(read_s, is_operand)
            | ~_is_one(since_s, is_operand)  # two sources
            | (span_s > GAP_PERIODS * self._period_s)  # two that were read at one moment by chance
        )
        is_told = is_due & ((total_s > 0) | ~is_operand).all(axis=2, keepdims=True)
        # What wasn't counted over one interval is brought to the longest one.
        scale = np.divide(span_s, total_s, out=np.full_like(total_s, np.nan), where=is_told & (total_s > 0))
        value = total * scale
        self._ports["counted"][at] = np.where(is_told & is_operand, 0.0, total)
        self._ports["since_s"][at] = np.where(is_told & is_operand, read_s, since_s)
        return {
            name: replace(
                counted, value=value[:, metric], elapsed_s=np.broadcast_to(span_s[:, metric], counted.value.shape)
            )
            for metric, name in enumerate(JOINT)
        }

    def _slots_of(self, streams: Sequence[str]) -> NDArray[np.intp]:
        new = [stream for stream in streams if stream not in self._slots]
        if len(new) > len(self._free):
            self._forget()
        if len(new) > len(self._free):
            self._grow(len(new))
        self._slots.update((stream, self._free.pop()) for stream in new)
        at = np.array([self._slots[stream] for stream in streams], np.intp)
        self._ports["seen"][at] = self._samples
        return at

    def _forget(self) -> None:
        oldest = self._samples - FORGOTTEN_S / self._period_s
        gone = {stream: slot for stream, slot in self._slots.items() if self._ports["seen"][slot] < oldest}
        for stream, slot in gone.items():
            del self._slots[stream]
            self._free.append(slot)
            self._ports[slot] = _NOTHING
            self._boots[slot] = ""

    def _grow(self, more: int) -> None:
        size = len(self._ports)
        more = max(more, size)  # doubles at least
        self._ports = np.concatenate([self._ports, np.repeat(_NOTHING, more)])
        self._boots += [""] * more
        self._free += range(size + more - 1, size - 1, -1)


def _is_one(times_s: NDArray[np.float64], is_operand: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the times of a metric's operands are one and the same, shape `(n, joint, 1)`."""
    latest_s = np.where(is_operand, times_s, -np.inf).max(axis=2, keepdims=True)
    is_one: NDArray[np.bool_] = (~is_operand | (times_s == latest_s)).all(axis=2, keepdims=True)
    return is_one


def is_same_boot(before: str, now: str) -> bool:
    """Whether two marks are of one life of the counters: the same text, or times in seconds that a clock explains.

    >>> is_same_boot("1.767e+09", "1767000001"), is_same_boot("1.767e+09", "1767000300"), is_same_boot("a", "b")
    (True, False, False)
    """
    if before == now:
        return True
    try:
        return abs(float(before) - float(now)) < BOOT_JITTER_S
    except ValueError:
        return False
