"""The window job as an owner of linkcast's runner: the product's fetch, commit, snapshots and recovery, another kernel.

`decode` and `encode` are the two ends of a batch; between them one compiled loop takes the events in log order.
"""

import argparse
import asyncio
import hashlib
import logging
import signal
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from streams.decode import Record
from streams.kafka import KafkaSettings
from streams.owner import Outputs, Owner
from streams.partition import Message
from streams.runner import Membership, Runner
from streams.snapshot import Chunks, Manifest, Part, check, ids_in, put, take

PANE_MS, PANES = 20_000, 180
WINDOW_PANES = (15, 45, 180)


class Event(msgspec.Struct, gc=False):
    """What the job reads of an event."""

    stream_id: str
    ts: int
    latency_us: float


class Output(msgspec.Struct, gc=False):
    """What it writes; means in µs."""

    stream_id: str
    ts: int
    mean_5m: float
    mean_15m: float
    mean_60m: float


class Panes(NamedTuple):
    """State of up to `capacity` streams, one row a stream."""

    newest: NDArray[np.int64]  # (capacity,) pane of the newest event, -1 before the first
    sum: NDArray[np.float64]  # (capacity, 180) µs, by pane modulo 180
    n: NDArray[np.uint32]  # (capacity, 180)
    window_sum: NDArray[np.float64]  # (capacity, 3) over the three windows that end with the newest pane
    window_n: NDArray[np.uint32]  # (capacity, 3)
    dirty: NDArray[np.uint8]  # (2, 180) columns of the two parts that changed since the last snapshot


def empty(capacity: int) -> Panes:
    """Return the state of streams without an event."""
    return Panes(
        np.full(capacity, -1, np.int64),
        np.zeros((capacity, PANES)),
        np.zeros((capacity, PANES), np.uint32),
        np.zeros((capacity, 3)),
        np.zeros((capacity, 3), np.uint32),
        np.zeros((2, PANES), np.uint8),
    )


@numba.njit(nogil=True, cache=True)
def advance(
    panes: Panes,
    slot: NDArray[np.int64],
    ts: NDArray[np.int64],
    latency_us: NDArray[np.float64],
    means: NDArray[np.float64],
) -> None:
    """Take events in log order, none older than its stream's newest pane; write their means, shape (n, 3)."""
    panes.dirty[0, 0] = 1
    for event in range(len(ts)):
        s, pane, x = slot[event], ts[event] // PANE_MS, latency_us[event]
        if pane > panes.newest[s]:
            _roll(panes, s, pane)
        panes.sum[s, pane % PANES] += x
        panes.n[s, pane % PANES] += 1
        panes.dirty[1, pane % PANES] = 1
        for w in range(3):
            panes.window_sum[s, w] += x
            panes.window_n[s, w] += 1
            means[event, w] = panes.window_sum[s, w] / panes.window_n[s, w]


@numba.njit(nogil=True)
def _roll(panes: Panes, s: int, new: int) -> None:
    """Move a stream on to pane `new`. Windows are summed anew, so that no rounding error outlives a pane."""
    for pane in range(max(panes.newest[s] + 1, new - PANES + 1), new + 1):
        panes.sum[s, pane % PANES] = 0.0
        panes.n[s, pane % PANES] = 0
        panes.dirty[1, pane % PANES] = 1
    panes.newest[s] = new
    total, n, w = 0.0, 0, 0
    for age in range(PANES):
        total += panes.sum[s, (new - age) % PANES]
        n += panes.n[s, (new - age) % PANES]
        if age + 1 == WINDOW_PANES[w]:
            panes.window_sum[s, w] = total
            panes.window_n[s, w] = n
            w += 1


def decode(records: Sequence[Record]) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
    """Return stream ids, event times (ms) and latencies (µs) of a batch."""
    events = list(map(_decode, [record.value for record in records]))
    n = len(events)
    return (
        [event.stream_id for event in events],
        np.fromiter((event.ts for event in events), np.int64, n),
        np.fromiter((event.latency_us for event in events), np.float64, n),
    )


def encode(
    records: Sequence[Record], stream_ids: list[str], ts: NDArray[np.int64], means: NDArray[np.float64]
) -> list[Message]:
    """Return one message an event, under the event's key."""
    values = map(_encode, map(Output, stream_ids, ts.tolist(), *means.T.tolist()))
    keys = [record.key for record in records]
    return list(
        map(Message._make, zip(keys, values, repeat(None), strict=False))
    )  # a quarter less than calling Message


_decode = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode
_CODE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


class WindowedPartition(Owner):
    """The owner of one partition: slot by stream id, and the panes of each."""

    def __init__(self, topic_out: str) -> None:
        self.topics = (topic_out,)
        self._ids: list[str] = []
        self._slot: dict[str, int] = {}
        self._panes = empty(1_024)
        self._ids_written = 0

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; return what they gave."""
        stream_ids, ts, latency_us = decode(records)
        means = np.empty((len(ts), 3))
        advance(self._panes, self._slots(stream_ids), ts, latency_us, means)
        messages = {self.topics[0]: encode(records, stream_ids, ts, means)}
        return Outputs(messages, {"row": len(ts)}, {}, streams=len(self._ids))

    def _slots(self, stream_ids: list[str]) -> NDArray[np.int64]:
        try:
            return np.array([self._slot[stream_id] for stream_id in stream_ids], np.int64)
        except KeyError:
            self._meet(stream_ids)
            return self._slots(stream_ids)

    def _meet(self, stream_ids: list[str]) -> None:
        for stream_id in stream_ids:
            if stream_id not in self._slot:
                self._slot[stream_id] = len(self._ids)
                self._ids.append(stream_id)
        before = self._panes
        while len(self._ids) > len(self._panes.newest):
            self._panes = empty(2 * len(self._panes.newest))
        if self._panes is not before:
            for array, old in zip(self._panes[:-1], before[:-1], strict=True):
                array[: len(old)] = old
            self._panes.dirty[:] = before.dirty

    def take(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last snapshot, and say what its manifest is to say of it."""
        chunks = take(self._parts(), self._ids, self._ids_written)
        self._ids_written = len(self._ids)
        return chunks, {"feature_code": _CODE, "streams": len(self._ids), "model": "none"}

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Go on from a snapshot; `SnapshotRefused` if other code made it."""
        check(manifest, feature_code=_CODE)
        self._ids = ids_in(chunks)
        self._slot = {stream_id: slot for slot, stream_id in enumerate(self._ids)}
        self._panes = empty(max(1_024, len(self._ids)))
        put(self._parts(), chunks)
        self._ids_written = len(self._ids)

    def _parts(self) -> tuple[Part, Part]:
        p = self._panes
        return (
            Part("head", (p.newest, p.window_sum, p.window_n), p.dirty[0, :1]),
            Part("panes", (p.sum, p.n), p.dirty[1]),
        )


async def main(arguments: argparse.Namespace) -> None:
    """Run the job as a member of a consumer group until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    prefix = arguments.topic_in.removesuffix("metrics")  # the runner's name for its source
    runner = Runner(
        KafkaSettings(bootstrap=arguments.bootstrap),
        prefix=prefix,
        member=Membership(group=arguments.app, computes=_CODE, instance=arguments.app),
        open_partition=lambda _: WindowedPartition(arguments.topic_out.removeprefix(prefix)),
    )
    await runner.run(stop)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True, help="a topic whose name ends with 'metrics'")
    parser.add_argument("--out", dest="topic_out", required=True, help="a topic with the same prefix")
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", help="unused: snapshots go to topic 'state' of the prefix")
    asyncio.run(main(parser.parse_args()))
