"""Recorded metric events, published again: their order per node and their event times unchanged."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import numpy as np

from streams.contract import MetricEvent, node_of
from streams.ingest.producer import MetricsProducer, sweep_records
from streams.ingest.recordings import BadLine, Chunk, read
from streams.wire.events import FUTURE_MS_MAX

BAD_KEPT = 10
_encode = msgspec.json.Encoder().encode


@dataclass
class Replay:
    """Publishes recordings once; `stop` ends it after the sweep at hand, and leaves a silent pipe alone.

    Parameters
    ----------
    speed
        Event time over real time: 1 is live, 60 an hour a minute, infinity as fast as Kafka takes it.
    limit
        Events to send at most.
    warn
        Takes the words for the operator.
    """

    speed: float = math.inf
    limit: float = math.inf
    warn: Callable[[str], None] = print
    warned: bool = False
    sent: int = 0
    rejected: int = 0
    bad: list[BadLine] = field(default_factory=list)  # the first few of the rejected
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(self, paths: Iterable[str], producer: MetricsProducer) -> None:
        """Send all events of the recordings and return when Kafka has them.

        Raises `RecordingUnreadable` and `DeliveryFailed`; `producer.acknowledged` events arrived before.
        """
        chunks = read(paths)
        started: tuple[int, float] | None = None
        while not self._is_done() and (chunk := await self._next(chunks)) is not None:
            self._note(chunk)
            for node, events in sweeps(chunk, at_once=math.isinf(self.speed)):
                started = started or (events[0].ts, time.monotonic())
                await self._await_turn(events[0].ts, *started)
                if self._is_done():
                    break
                await self._send(producer, node, events)
        await producer.flush()

    async def _next(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """Read in a thread: a silent pipe, or a chunk of 8 MiB, holds up neither what is being sent nor the end."""
        found: Future[Chunk | None] = Future()
        # A thread of the loop's own pool would be waited for at the end.
        threading.Thread(target=_read, args=(chunks, found), daemon=True).start()
        reading, stopping = asyncio.wrap_future(found), asyncio.create_task(self.stop.wait())
        await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        return reading.result() if reading.done() else None

    def _is_done(self) -> bool:
        return self.stop.is_set() or self.sent >= self.limit

    def _note(self, chunk: Chunk) -> None:
        self.rejected += len(chunk.bad)
        self.bad += chunk.bad[: BAD_KEPT - len(self.bad)]
        # Which of them a worker takes depends on when they arrive: they are sent, and it is said once.
        if len(chunk) and (ahead := int(chunk.ts.max()) - time.time_ns() // 1_000_000) > FUTURE_MS_MAX:
            if not self.warned:
                self.warn(f"event times up to {ahead / 1000:.0f} s ahead of now: a worker rejects more than 120 s")
            self.warned = True

    async def _await_turn(self, ts: int, first_ts: int, start: float) -> None:
        due = start + (ts - first_ts) / 1000 / self.speed
        if (wait := due - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), wait)

    async def _send(self, producer: MetricsProducer, node: str, events: list[MetricEvent]) -> None:
        events = events[: int(min(len(events), self.limit - self.sent))]
        # The recording's reader has held them to the contract already: no second check.
        for value, count in sweep_records([_encode(event) for event in events]):
            await producer.send_encoded(node, value, events=count)
        self.sent += len(events)


def _read(chunks: Iterator[Chunk], into: Future[Chunk | None]) -> None:
    try:
        into.set_result(next(chunks, None))
    except BaseException as error:  # raised to whoever awaits it
        into.set_exception(error)


def sweeps(chunk: Chunk, *, at_once: bool) -> Iterator[tuple[str, list[MetricEvent]]]:
    """Cut a chunk into neighbouring events of one node, and of one event time unless `at_once`."""
    if not len(chunk):
        return
    nodes: dict[str, int] = {}
    code_of = np.array([nodes.setdefault(node_of(name), len(nodes)) for name in chunk.names])
    node = code_of[chunk.streams]
    is_new = node[1:] != node[:-1]
    if not at_once:
        is_new |= chunk.ts[1:] != chunk.ts[:-1]
    edges = [0, *(np.flatnonzero(is_new) + 1).tolist(), len(chunk)]
    events = chunk.events()
    for start, end in pairwise(edges):
        yield node_of(events[start].stream_id), events[start:end]
