"""The window job's records to JSON in one compiled pass, as `online.worker.prediction_json` writes predictions.

Means are fixed decimals, at most 9 behind the point: from 0.001 µs on that is exact to 5e-7. What is smaller, or too
large for the integers in here, is written by Python and spliced in.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.compiled import kernel
from streams.wire.packed import Packed
from streams.wire.spans import Arena, Spans, copy_bytes, put_fraction, put_int

_UNIT, _DECIMALS = 1_000_000_000, 9
MEAN_MIN, MEAN_MAX = 1e-3, 1e9
_NAMES = Spans.of([b',"mean_5m":', b',"mean_15m":', b',"mean_60m":'])
_CLOSE = np.uint8(ord("}"))
_INT_BYTES = 20
_NUMBERS_BYTES = 4 * _INT_BYTES + 3 * (1 + _DECIMALS) + _NAMES.buffer.size + 1
_NO_ROWS = np.empty(0, np.intp)
_encode = msgspec.json.Encoder().encode


class MeansWriter:
    """Writes the records of one partition; by slot it keeps a stream's key and how its JSON begins.

    >>> writer = MeansWriter()
    >>> writer.extend(["leaf-1/7", "leaf-1/8"])
    >>> slot, ts, means = np.array([1, 0]), np.array([60_000, 0]), np.array([[2.0, 2.25, 1 / 3], [0.0, 1e-9, 5e11]])
    >>> packed = writer.write(slot, ts, means)
    >>> for message in packed: print(message.key.decode(), message.value.decode())
    leaf-1/8 {"stream_id":"leaf-1/8","ts":60000,"mean_5m":2.0,"mean_15m":2.25,"mean_60m":0.333333333}
    leaf-1/7 {"stream_id":"leaf-1/7","ts":0,"mean_5m":0.0,"mean_15m":1e-9,"mean_60m":500000000000.0}
    """

    def __init__(self) -> None:
        self._keys, self._heads = Arena(), Arena()

    def __len__(self) -> int:
        """Return how many streams there are: the slot of the next one."""
        return len(self._heads)

    def extend(self, stream_ids: Sequence[str]) -> None:
        """Learn the streams of the next slots; the key of an event is its stream's id."""
        self._keys.extend([stream_id.encode() for stream_id in stream_ids])
        self._heads.extend([_head(stream_id) for stream_id in stream_ids])

    def write(self, slot: NDArray[np.int64], ts: NDArray[np.int64], means: NDArray[np.float64]) -> Packed:
        """Return n records; slot and ts (ms) of shape (n,), means (µs) of shape (n, 3)."""
        n, unlike = len(slot), _unlike(means)
        spliced = Spans.of([self._by_python(int(slot[i]), int(ts[i]), means[i].tolist()) for i in unlike.tolist()])
        room = n * (self._heads.size_max + _NUMBERS_BYTES) + spliced.buffer.size
        values = Spans(np.empty(room, np.uint8), np.empty(n, np.int64), np.empty(n, np.int64))
        _write(*self._heads.all(), *_NAMES, slot, ts, means, unlike, *spliced, *values)
        return Packed(self._keys.at(slot), values)

    def _by_python(self, slot: int, ts: int, means: Sequence[float]) -> bytes:
        [head] = self._heads.at(np.array([slot])).pieces()
        values = zip(_NAMES.pieces(), means, strict=True)
        return b"%b%d%b}" % (head, ts, b"".join(b"%b%b" % (name, _encode(mean)) for name, mean in values))


def _head(stream_id: str) -> bytes:
    return b'{"stream_id":%b,"ts":' % _encode(stream_id)


def _unlike(means: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows with a mean that fixed decimals can't hold."""
    if means.min(initial=MEAN_MIN) >= MEAN_MIN and means.max(initial=0.0) < MEAN_MAX:
        return _NO_ROWS
    return np.flatnonzero(~((means == 0.0) | ((means >= MEAN_MIN) & (means < MEAN_MAX))).all(axis=1))


@kernel
def _write(
    heads: NDArray[np.uint8],
    head_start: NDArray[np.int64],
    head_size: NDArray[np.int64],
    names: NDArray[np.uint8],
    name_start: NDArray[np.int64],
    name_size: NDArray[np.int64],
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    means: NDArray[np.float64],
    unlike: NDArray[np.int64],
    json: NDArray[np.uint8],
    json_start: NDArray[np.int64],
    json_size: NDArray[np.int64],
    out: NDArray[np.uint8],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
) -> None:
    at, other = 0, 0
    for i in range(slot.size):
        start[i] = at
        if other < unlike.size and unlike[other] == i:
            at = copy_bytes(out, at, json, json_start[other], json_size[other])
            other += 1
        else:
            at = copy_bytes(out, at, heads, head_start[slot[i]], head_size[slot[i]])
            at = put_int(out, at, ts[i])
            for w in range(3):
                at = copy_bytes(out, at, names, name_start[w], name_size[w])
                at = put_fraction(out, at, int(np.rint(means[i, w] * _UNIT)), _UNIT, _DECIMALS)
            out[np.uint64(at)] = _CLOSE
            at += 1
        size[i] = at - start[i]
