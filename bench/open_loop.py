"""An open loop: events leave when the schedule says so, however far behind the worker is, and each answer is timed.

Loader and reader are processes of their own on this machine's one monotonic clock. The loader's requests are made
beforehand, so that it only sleeps and writes; the reader keeps what it fetched, and tells the events apart afterwards.
"""

import asyncio
import gc
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer
from numpy.typing import NDArray

from bench.cluster import PARTITIONS, PREFIX, START_MS, MeasurementFailed, predictions
from bench.events import KeyedRecord, number_of, records
from streams.group.raw_records import AS_ARRAYS
from streams.inside_aiokafka import DefaultRecordBatchBuilder, ProduceRequest_v7
from streams.kafka import KafkaSettings
from streams.wire.records import Records
from streams.wire.unpacked import compile_unpack

TICK_MS = 5
"""Events are due, and sent, together every so often: as a switch's ports are read together."""
QUIET_S_MAX = 30.0
"""No prediction for so long, and the rest is taken for lost."""

Int64s = NDArray[np.int64]


class Flow(NamedTuple):
    """Events of `streams` ports in turn, those of 5 ms due at their start; event time goes as fast as the clock."""

    rate: int  # events/s
    seconds: float
    streams: int

    @property
    def events(self) -> int:
        """How many there are."""
        return int(self.rate * self.seconds)

    @property
    def period_ms(self) -> int:
        """Event time between two events of a port."""
        return max(1, self.streams * 1_000 // self.rate)

    def due(self) -> Int64s:
        """Return how long after the start each event is due, in ns, shape (events,), rising."""
        return np.arange(self.events, dtype=np.int64) * 1_000 // self.rate // TICK_MS * TICK_MS * 1_000_000


class Flowed(NamedTuple):
    """When each event was due, left, was on the topic and was answered: the monotonic clock in ns, shapes (events,)."""

    due: Int64s
    sent: Int64s
    acknowledged: Int64s
    answered: Int64s
    partition: NDArray[np.int8]  # of its prediction
    repeats: int

    def at(self, events: slice | NDArray[np.bool_]) -> "Flowed":
        """Return some of the events."""
        return Flowed(*(column[events] for column in self[:-1]), self.repeats)


class _Prediction(msgspec.Struct):
    stream_id: str
    ts: int


class RunningFlow:
    """A flow under way, from `start_ns`."""

    def __init__(self, flow: Flow, start_ns: int, loader: Connection, reader: Connection) -> None:
        self._flow, self._loader, self._reader = flow, loader, reader
        self.start_ns = start_ns

    def until(self, seconds: float) -> None:
        """Sleep until so long after the start."""
        time.sleep(max(0.0, (self.start_ns - time.monotonic_ns()) / 1e9 + seconds))

    def finish(self, *, is_once: bool = True) -> Flowed:
        """Wait for the last answer; `MeasurementFailed` unless each event has one, and with `is_once` no other."""
        answered, partition, repeats = self._received(self._reader)
        lost = int(np.count_nonzero(answered == 0))
        if lost or (repeats and is_once):
            raise MeasurementFailed(f"of {len(answered)} events {lost} have no prediction, {repeats} more than one")
        with suppress(BrokenPipeError):  # it ended: the next line says so
            self._loader.send("all is read")
        sent, acknowledged = self._received(self._loader)
        return Flowed(self.start_ns + self._flow.due(), sent, acknowledged, answered, partition, repeats)

    def _received(self, process: Connection) -> Any:
        try:
            return process.recv()
        except EOFError as error:
            raise MeasurementFailed("the loader or the reader ended: what it said stands above") from error


@contextmanager
def flowing(kafka: KafkaSettings, flow: Flow) -> Iterator[RunningFlow]:
    """Start loader and reader and give the flow under way; they end with the block."""
    with _process(_load, kafka.bootstrap, flow) as loader, _process(_read, kafka, flow) as reader:
        for process in (loader, reader):
            process.recv()  # ready
        start_ns = time.monotonic_ns() + 200_000_000
        for process in (loader, reader):
            process.send(start_ns)
        yield RunningFlow(flow, start_ns, loader, reader)


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    # Spawned: a fork would take our event loop's and broker's descriptors along.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end shows here as one of file
    try:
        yield ours
    finally:
        ours.close()
        process.terminate()
        process.join()
        process.close()


def _before_others() -> None:
    """Let the broker, on the same core, wait for who measures: they would be on other machines. Root may ask for it.

    Not by niceness: a kernel that preempts at its tick only (250 a second) lets who wakes up wait 4 ms all the same.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _load(bootstrap: str, flow: Flow, pipe: Connection) -> None:
    """Send what is due together when it is due; tell when each event left and when it was acknowledged."""
    _before_others()
    due, counts = np.unique(flow.due(), return_counts=True)
    each = records(flow.events, streams=flow.streams, period_ms=flow.period_ms)
    requests = [_request([next(each) for _ in range(count)]) for count in counts.tolist()]
    left, acknowledged = np.empty_like(due), np.empty_like(due)
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port))) as broker:
        broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = threading.Thread(target=_await_answers, args=(broker, acknowledged), daemon=True)
        pipe.send("ready")
        due_ns = (pipe.recv() + due).tolist()
        gc.disable()
        answers.start()
        for i, request in enumerate(requests):
            while (early_ns := due_ns[i] - time.monotonic_ns()) > 0:
                time.sleep(early_ns / 1e9)
            left[i] = time.monotonic_ns()
            broker.sendall(request)
        answers.join()
    pipe.recv()  # the last events are under way, and packing the times up would take the broker's core for 0.2 s
    pipe.send((np.repeat(left, counts), np.repeat(acknowledged, counts)))


def _await_answers(broker: socket.socket, acknowledged: Int64s) -> None:
    """Note when each of the requests was answered; what a refusal loses shows at the end as an event without answer."""
    with broker.makefile("rb") as answers:
        for i in range(len(acknowledged)):
            answers.read(int.from_bytes(answers.read(4), "big"))
            acknowledged[i] = time.monotonic_ns()


def _request(due: list[KeyedRecord]) -> bytes:
    """Return a produce request as it goes over the wire."""
    batches = []
    for partition in range(PARTITIONS):
        own = [record for record in due if record.partition == partition]
        if own:
            batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
            for i, record in enumerate(own):
                batch.append(i, START_MS, record.key, record.value, [])
            batches.append((partition, bytes(batch.build())))
    request = ProduceRequest_v7(None, 1, 30_000, [(f"{PREFIX}metrics", batches)])
    message = request.build_request_header(0, "bench").encode() + request.encode()
    return len(message).to_bytes(4, "big") + message


def _read(kafka: KafkaSettings, flow: Flow, pipe: Connection) -> None:
    """Take predictions as they come; tell when each event's came, on which partition, and how many came again."""
    _before_others()
    gc.disable()
    fetches = asyncio.run(_fetches(kafka, flow.events, pipe))
    answered = np.zeros(flow.events, np.int64)
    partition = np.zeros(flow.events, np.int8)
    repeats = 0
    decode = msgspec.json.Decoder(_Prediction).decode
    for at, number, fetched in fetches:
        found = [decode(record.value) for records in fetched for record in records]
        turn = (np.array([p.ts for p in found]) - START_MS) // flow.period_ms
        event = turn * flow.streams + [number_of(p.stream_id) for p in found]
        repeats += int(np.count_nonzero(answered[event]))
        answered[event], partition[event] = at, number
    pipe.send((answered, partition, repeats))


async def _fetches(kafka: KafkaSettings, events: int, pipe: Connection) -> list[tuple[int, int, list[Records]]]:
    """Return what was fetched: when it was in hand, of which partition, and the records, which are no objects yet."""
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(), enable_auto_commit=False, auto_offset_reset="earliest",
        value_deserializer=AS_ARRAYS,
    )  # fmt: skip
    fetches = []
    compile_unpack()
    async with consumer:
        consumer.assign(predictions())
        await consumer.seek_to_end()
        for tp in predictions():
            await consumer.position(tp)
        pipe.send("ready")
        grown_at = pipe.recv() / 1e9
        seen = 0
        while seen < events and time.monotonic() < grown_at + QUIET_S_MAX:
            for tp, fetched in (await consumer.getmany(timeout_ms=1_000)).items():
                fetches.append((time.monotonic_ns(), tp.partition, fetched))
                seen += sum(map(len, fetched))
                grown_at = time.monotonic()
    return fetches
