"""Streams by number: a table from the bytes of an id to its slot, in arrays, so that compiled code can ask it.

Open addressing with linear probing (Knuth, The Art of Computer Programming 3, 6.4), at most half full; a removal moves
what follows back, so nothing is left behind. The hash is SipHash-1-3 (Aumasson and Bernstein, 2012) with a seed of this
process: nobody who lacks the seed can pick ids that collide, which with FNV-1a took seconds and cost a worker a minute.
Slots don't depend on it, they are given in the order of asking, so a replay gives the same ones; and no hash is stored.
"""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_inlined, bounded_kernel
from streams.wire.bounded_bytes import word_at

_SEED = np.frombuffer(os.urandom(16), np.uint64)  # an argument of what is compiled, for a constant would be cached
_Four = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
_LIVE, _NEXT, _FREE, _USED, _ADDED = range(5)  # places in `_counts`
_SLOT, _TAG = 0, 1
_EMPTY = -1


class StreamIds:
    """Slots of up to `streams_max` streams by id, each id with a slot of its own while it is here.

    A new id takes the lowest slot that was freed, else the next one.

    >>> ids = StreamIds(streams_max=2)
    >>> ids.slots(["leaf/1", "leaf/2", "leaf/1", "leaf/3"]).tolist(), ids.names
    ([0, 1, 0, -1], ['leaf/1', 'leaf/2'])
    >>> ids.remove(np.array([0]))
    >>> ids.slots(["leaf/3", "leaf/2"]).tolist(), ids.names
    ([0, 1], ['leaf/3', 'leaf/2'])

    Attributes
    ----------
    names
        Id by slot; the empty string where a slot is free. The list stays the same object and only this class writes it.
    retaken
        Slots that had been freed and were given to another stream, for who keeps something by slot: to be emptied then.
    """

    def __init__(self, *, streams_max: int, names: Sequence[str] = ()) -> None:
        self._streams_max = len(names)  # who is here stays, though the limit be lower now
        self.names: list[str] = []
        self.retaken: list[int] = []
        self._counts = np.zeros(5, np.int64)  # live streams, next new slot, free slots, bytes used, slots just added
        self._buckets = np.full((2_048, 2), _EMPTY, np.int32)  # slot, and 31 bits of the hash
        self._spans = np.zeros((2, 1_024), np.int64)  # start and end in `_bytes`, by slot; start -1 is free
        self._hashes = np.zeros(1_024, np.uint64)  # by slot
        self._free = np.empty(0, np.int64)  # descending: the last is the lowest
        self._bytes = np.zeros(1_024 * 16, np.uint8)
        self._restore(names)
        self._streams_max = streams_max

    def __len__(self) -> int:
        """Return how many streams are here."""
        return int(self._counts[_LIVE])

    def slots(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the slots of streams, a new one for a new stream and -1 for one too many; shape (n,)."""
        encoded = [name.encode() for name in names]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(encoded) else ends
        return self.place(np.frombuffer(b"".join(encoded), np.uint8), starts, ends)

    def place(self, data: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `slots`, of the ids in `data[start:end]`, both of shape (n,); `ValueError` where one isn't inside."""
        if data.flags.writeable:  # one type of array is compiled, and bytes give the other one
            data = data.view()
            data.flags.writeable = False
        slot = np.empty(start.size, np.int64)
        done = 0
        while True:
            before = done
            done = _place(
                data, start, end, done, slot, self._bytes, self._spans, self._hashes, self._buckets, self._free,
                self._counts, self._streams_max, _SEED,
            )  # fmt: skip
            if self._counts[_ADDED]:
                self._name(slot[before:done])
            if done == start.size:
                return slot
            self._grow(int(end[done] - start[done]))

    def remove(self, slots: NDArray[np.int64]) -> None:
        """Free slots of streams that are here, each named once, else `ValueError`."""
        for slot in slots.tolist():
            if not (0 <= slot < len(self.names) and self._spans[0, slot] >= 0):
                raise ValueError(f"slot {slot} holds no stream: {len(self)} streams in {len(self.names)} slots")
            _take_out(slot, self._hashes, self._buckets)
            self._spans[0, slot] = _EMPTY
            self.names[slot] = ""
        free = np.concatenate([self._free[: self._counts[_FREE]], slots])
        self._free = np.sort(free)[::-1].copy()
        self._counts[_FREE] = free.size
        self._counts[_LIVE] -= slots.size

    def utf8(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Return the ids of m slots as Arrow lays text out: offsets, shape (m + 1,), into the bytes."""
        offsets = np.zeros(slots.size + 1, np.int32)
        np.cumsum((self._spans[1] - self._spans[0])[slots] if slots.size else slots, out=offsets[1:])
        data = np.empty(int(offsets[-1]), np.uint8)
        _gather(slots, self._bytes, self._spans, offsets, data)
        return offsets, data

    def _name(self, slot: NDArray[np.int64]) -> None:
        """Bring `names` up to date with slots just given."""
        known = len(self.names)
        self.names.extend([""] * (int(self._counts[_NEXT]) - known))
        for s in slot.tolist():
            if s >= 0 and not self.names[s]:
                if s < known:
                    self.retaken.append(s)
                self.names[s] = self._bytes[self._spans[0, s] : self._spans[1, s]].tobytes().decode()
        self._counts[_ADDED] = 0

    def _restore(self, names: Sequence[str]) -> None:
        """Put ids by slot in place, free slots among them."""
        for first in range(0, len(names), 1 << 16):
            # A free slot gets a stand-in no id is like, since a printable one has no such byte, and loses it again.
            self.slots([name or f"\0{first + i}" for i, name in enumerate(names[first : first + (1 << 16)])])
        self.remove(np.array([slot for slot, name in enumerate(names) if not name], np.int64))

    def _grow(self, size: int) -> None:
        """Make room for one more stream whose id has `size` bytes."""
        capacity = len(self._hashes)
        if self._counts[_NEXT] == capacity:
            self._spans = np.concatenate([self._spans, np.zeros_like(self._spans)], axis=1)
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        if 2 * (self._counts[_LIVE] + 1) > len(self._buckets):
            self._buckets = np.full((2 * len(self._buckets), 2), _EMPTY, np.int32)
            for slot in self._slots_taken().tolist():
                _put_in(slot, self._hashes, self._buckets)
        if self._counts[_USED] + size > len(self._bytes):
            self._pack(size)

    def _pack(self, size: int) -> None:
        """Copy the ids that are still here, close together, where there is room for as many bytes again."""
        slots = self._slots_taken()
        offsets, data = self.utf8(slots)
        self._bytes = np.zeros(2 * (data.size + size) + 1_024, np.uint8)
        self._bytes[: data.size] = data
        self._spans[0, slots], self._spans[1, slots] = offsets[:-1], offsets[1:]
        self._counts[_USED] = data.size

    def _slots_taken(self) -> NDArray[np.int64]:
        return np.flatnonzero(self._spans[0, : self._counts[_NEXT]] >= 0)


@bounded_kernel
def _place(
    data: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64], first: int, slot: NDArray[np.int64],
    arena: NDArray[np.uint8], spans: NDArray[np.int64], hashes: NDArray[np.uint64], buckets: NDArray[np.int32],
    free: NDArray[np.int64], counts: NDArray[np.int64], streams_max: int, seed: NDArray[np.uint64],
) -> int:  # fmt: skip
    """Give slots to the ids from `first` on; return where to go on once there is more room, n if that is the end."""
    for i in range(first, start.size):
        if not 0 <= start[i] <= end[i] <= data.size:  # else they would be another id's, or none
            raise ValueError("an id lies outside the bytes it is read from")
        hashed = _hash(data, start[i], end[i], seed)
        bucket = _find(data, start[i], end[i], hashed, arena, spans, buckets)
        slot[i] = buckets[bucket, _SLOT]
        if slot[i] >= 0 or counts[_LIVE] >= streams_max:
            continue
        size = end[i] - start[i]
        is_new = counts[_FREE] == 0
        if (
            (is_new and counts[_NEXT] == hashes.size)
            or 2 * (counts[_LIVE] + 1) > buckets.shape[0]
            or counts[_USED] + size > arena.size
        ):
            return i
        if is_new:
            s = counts[_NEXT]
            counts[_NEXT] += 1
        else:
            counts[_FREE] -= 1
            s = free[counts[_FREE]]
        for k in range(size):
            arena[counts[_USED] + k] = data[start[i] + k]
        spans[0, s], spans[1, s] = counts[_USED], counts[_USED] + size
        counts[_USED] += size
        counts[_LIVE] += 1
        counts[_ADDED] += 1
        hashes[s] = hashed
        buckets[bucket, _SLOT], buckets[bucket, _TAG] = s, _tag(hashed)
        slot[i] = s
    return start.size


@bounded_inlined
def _hash(data: NDArray[np.uint8], start: int, end: int, seed: NDArray[np.uint64]) -> np.uint64:
    """Return SipHash-1-3 of `data[start:end]`, which has to lie inside."""
    k0, k1 = seed[0], seed[1]
    v = (
        k0 ^ np.uint64(0x736F6D6570736575),
        k1 ^ np.uint64(0x646F72616E646F6D),
        k0 ^ np.uint64(0x6C7967656E657261),
        k1 ^ np.uint64(0x7465646279746573),
    )
    for at in range(start, end - 7, 8):
        v = _absorb(v, word_at(data, at))
    v = _absorb(v, _last_word(data, start, end) | np.uint64(end - start) << np.uint64(56))
    v = (v[0], v[1], v[2] ^ np.uint64(0xFF), v[3])
    for _ in range(3):
        v = _sip_round(v)
    hashed: np.uint64 = v[0] ^ v[1] ^ v[2] ^ v[3]
    return hashed


@bounded_inlined
def _last_word(data: NDArray[np.uint8], start: int, end: int) -> np.uint64:
    """Return the bytes behind the last whole word, the first of them lowest; reads none behind `end`."""
    rest = (end - start) & 7
    if rest == 0:
        return np.uint64(0)
    if end - start > 8:
        return word_at(data, end - 8) >> np.uint64(8 * (8 - rest))
    word = np.uint64(0)
    for i in range(rest):
        word |= np.uint64(data[start + i]) << np.uint64(8 * i)
    return word


@bounded_inlined
def _absorb(v: _Four, word: np.uint64) -> _Four:
    mixed = _sip_round((v[0], v[1], v[2], v[3] ^ word))
    return mixed[0] ^ word, mixed[1], mixed[2], mixed[3]


@bounded_inlined
def _sip_round(v: _Four) -> _Four:
    a, b, c, d = v
    a, c = a + b, c + d
    b, d = _turned(b, 13) ^ a, _turned(d, 16) ^ c
    a, c = _turned(a, 32) + d, c + b
    b, d = _turned(b, 17) ^ c, _turned(d, 21) ^ a
    return a, b, _turned(c, 32), d


@bounded_inlined
def _turned(x: np.uint64, bits: int) -> np.uint64:
    return x << np.uint64(bits) | x >> np.uint64(64 - bits)


@bounded_inlined
def _tag(hashed: np.uint64) -> int:
    return int(np.int64(hashed >> np.uint64(33)))


@bounded_inlined
def _home(hashed: np.uint64, buckets: NDArray[np.int32]) -> int:
    return int(np.int64(hashed & np.uint64(buckets.shape[0] - 1)))


@bounded_inlined
def _find(
    data: NDArray[np.uint8], start: int, end: int, hashed: np.uint64,
    arena: NDArray[np.uint8], spans: NDArray[np.int64], buckets: NDArray[np.int32],
) -> int:  # fmt: skip
    """Return the bucket of an id, or the empty one where it would go."""
    bucket, tag, last = _home(hashed, buckets), _tag(hashed), buckets.shape[0] - 1
    while buckets[bucket, _SLOT] >= 0:
        if buckets[bucket, _TAG] == tag:
            s = buckets[bucket, _SLOT]
            at = spans[0, s]
            if spans[1, s] - at == end - start and _is_same(data, start, arena, at, end - start):
                return int(bucket)
        bucket = (bucket + 1) & last
    return int(bucket)


@bounded_inlined
def _is_same(data: NDArray[np.uint8], start: int, arena: NDArray[np.uint8], at: int, size: int) -> bool:
    k = 0
    while k + 8 <= size:
        if word_at(data, start + k) != word_at(arena, at + k):
            return False
        k += 8
    return bool(_last_word(data, start, start + size) == _last_word(arena, at, at + size))


@bounded_kernel
def _put_in(slot: int, hashes: NDArray[np.uint64], buckets: NDArray[np.int32]) -> None:
    bucket, last = _home(hashes[slot], buckets), buckets.shape[0] - 1
    while buckets[bucket, _SLOT] >= 0:
        bucket = (bucket + 1) & last
    buckets[bucket, _SLOT], buckets[bucket, _TAG] = slot, _tag(hashes[slot])


@bounded_kernel
def _take_out(slot: int, hashes: NDArray[np.uint64], buckets: NDArray[np.int32]) -> None:
    """Empty a slot's bucket, and move back what had to pass it on the way to its place."""
    last = buckets.shape[0] - 1
    hole = _home(hashes[slot], buckets)
    while buckets[hole, _SLOT] != slot:
        hole = (hole + 1) & last
    bucket = hole
    while True:
        bucket = (bucket + 1) & last
        moved = buckets[bucket, _SLOT]
        if moved < 0:
            break
        home = _home(hashes[moved], buckets)
        if (bucket - home) & last >= (bucket - hole) & last:
            buckets[hole, _SLOT], buckets[hole, _TAG] = moved, buckets[bucket, _TAG]
            hole = bucket
    buckets[hole, _SLOT] = _EMPTY


@bounded_kernel
def _gather(
    slots: NDArray[np.int64], arena: NDArray[np.uint8], spans: NDArray[np.int64],
    offsets: NDArray[np.int32], data: NDArray[np.uint8],
) -> None:  # fmt: skip
    for i in range(slots.size):
        at = spans[0, slots[i]]
        for k in range(offsets[i], offsets[i + 1]):
            data[k] = arena[at]
            at += 1
