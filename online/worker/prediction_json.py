"""Predictions to JSON in one compiled pass, 0.2 µs each: nearly all are healthy, and differ in their numbers only.

The bytes are those of the contract's own encoder. What is not plainly healthy is encoded by it, and spliced in.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from streams.compiled import bounded_kernel
from streams.contract import node_of
from streams.wire.packed import Packed, pack
from streams.wire.spans import Arena, Spans, copy_bytes, put_fraction, put_int

_encode = msgspec.json.Encoder().encode

_RISK = np.frombuffer(b',"class":"healthy","risk":', np.uint8)
_CONFIDENCE = np.frombuffer(b',"confidence":', np.uint8)
_QUOTE, _COLON, _CLOSING = (np.uint8(ord(character)) for character in '":}')
_INT_BYTES = 20  # room for any of the five numbers, and what stands behind it
_NUMBERS_BYTES = 5 * (_INT_BYTES + 2) + _RISK.size + _CONFIDENCE.size
_NO_ROWS = np.empty(0, np.intp)
_NO_JSON = Spans.of([])


class PredictionWriter:
    """Writes predictions of one partition, whose number each `src` begins with.

    By slot it keeps what a stream's predictions have in common: their key, and how their JSON begins.

    >>> writer = PredictionWriter(3)
    >>> writer.extend(["leaf-1/7"])
    >>> slot, ts, offset, element = np.array([0]), np.array([60_000]), np.array([41]), np.array([0])
    >>> packed = writer.write("v7", slot, ts, np.array([0.126]), np.array([0.99874]), offset, element)
    >>> [message] = packed
    >>> message.key, message.value[:60]
    (b'leaf-1', b'{"v":1,"stream_id":"leaf-1/7","ts":60000,"class":"healthy","')
    >>> message.value[60:]
    b'risk":0.13,"confidence":0.9987,"model":"v7","src":"3:41:0"}'
    """

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._nodes, self._heads = Arena(), Arena()

    def __len__(self) -> int:
        """Return how many streams there are: the slot of the next one."""
        return len(self._heads)

    def extend(self, stream_ids: Sequence[str]) -> None:
        """Learn the streams of the next slots."""
        self._nodes.extend([_node(stream_id) for stream_id in stream_ids])
        self._heads.extend([_head(stream_id) for stream_id in stream_ids])

    def replace(self, slot: int, stream_id: str) -> None:
        """Learn the stream that has a slot from now on."""
        self._nodes.replace(slot, _node(stream_id))
        self._heads.replace(slot, _head(stream_id))

    def write(
        self,
        model: str,
        slot: NDArray[np.int64],
        ts: NDArray[np.int64],
        risk: NDArray[np.float64],
        confidence: NDArray[np.float64],
        offset: NDArray[np.int64],
        element: NDArray[np.intp],
        unlike: NDArray[np.intp] = _NO_ROWS,
        json: Sequence[bytes] = (),
    ) -> Packed:
        """Return n predictions, arrays of shape (n,): healthy ones, but for the rows `unlike`, rising, that are `json`.

        Risk (0 to 100) and confidence (0 to 1) are rounded to 2 and 4 decimals.
        """
        n = len(slot)
        tail = b',"model":%b,"src":"%d:' % (_encode(model), self._partition)
        spliced = Spans.of(json) if json else _NO_JSON
        room = n * (self._heads.size_max + _NUMBERS_BYTES + len(tail)) + spliced.buffer.size
        values = Spans(np.empty(room, np.uint8), np.empty(n, np.int64), np.empty(n, np.int64))
        _write(
            *self._heads.all(), np.frombuffer(tail, np.uint8), slot, ts, risk, confidence, offset, element,
            unlike, *spliced, *values,
        )  # fmt: skip
        return Packed(self._nodes.at(slot), values)


def _node(stream_id: str) -> bytes:
    return node_of(stream_id).encode()


def _head(stream_id: str) -> bytes:
    return b'{"v":1,"stream_id":%b,"ts":' % _encode(stream_id)


def compile_encoder() -> None:
    """Compile what writes predictions and packs them, or load it from its cache: in time, off the event loop."""
    writer = PredictionWriter(0)
    writer.extend(["a/1"])
    zero, zeros = np.zeros(1, np.int64), np.zeros(1)
    pack(writer.write("", zero, zero, zeros, zeros, zero, zero), timestamp_ms=0, bytes_max=1, is_transactional=False)


@bounded_kernel
def _write(
    heads: NDArray[np.uint8],
    head_start: NDArray[np.int64],
    head_size: NDArray[np.int64],
    tail: NDArray[np.uint8],
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    risk: NDArray[np.float64],
    confidence: NDArray[np.float64],
    offset: NDArray[np.int64],
    element: NDArray[np.int64],
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
            at = copy_bytes(out, at, _RISK, 0, _RISK.size)
            at = put_fraction(out, at, int(np.rint(risk[i] * 100.0)), 100, 2)
            at = copy_bytes(out, at, _CONFIDENCE, 0, _CONFIDENCE.size)
            at = put_fraction(out, at, int(np.rint(confidence[i] * 10_000.0)), 10_000, 4)
            at = copy_bytes(out, at, tail, 0, tail.size)
            at = put_int(out, at, offset[i])
            out[at] = _COLON
            at = put_int(out, at + 1, element[i])
            out[at], out[at + 1] = _QUOTE, _CLOSING
            at += 2
        size[i] = at - start[i]
