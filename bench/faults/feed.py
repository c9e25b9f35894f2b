"""What the fault suite feeds the workers: a small fabric with faults, late and repeated events, and bad records.

Event time runs two hundred times as fast as the clock, so that panes close and baselines move between two faults.
"""

import asyncio
import random
from collections.abc import Iterator

import msgspec
from aiokafka import AIOKafkaProducer

from streams.contract import MetricEvent
from streams.kafka import KafkaSettings, stop_producer

PARTITIONS = 2
NODES, PORTS = 8, 8
START_MS, TICK_MS = 1_700_000_000_000, 30_000
FUTURE_MS = 4_000_000_000_000  # the year 2096
RECORDS_PER_TURN, TURN_S = 40, 0.1

_encode = msgspec.json.Encoder().encode

KeyedRecord = tuple[bytes, bytes]


def records(rng: random.Random) -> Iterator[KeyedRecord]:
    """Yield records of `metrics` without end: in a hundred about 3 sweeps, 3 late, 2 repeats and 1 that is no event."""
    sick_until = {}
    ts = START_MS
    while True:
        ts += TICK_MS
        for node in range(NODES):
            if rng.random() < 0.01:
                sick_until[node] = ts + rng.randrange(1, 20) * 60_000
            events = [_event(rng, f"leaf-{node}/{port}", ts, ts < sick_until.get(node, 0)) for port in range(PORTS)]
            yield from _as_records(rng, b"leaf-%d" % node, events)


def _event(rng: random.Random, stream_id: str, ts: int, is_sick: bool) -> MetricEvent:
    busy = round(rng.uniform(0, 60), 2)
    return MetricEvent(
        stream_id=stream_id,
        ts=ts + rng.randrange(1_000),
        latency_p99=None if rng.random() < 0.1 else round(rng.lognormvariate(1, 0.1) * (3 if is_sick else 1), 3),
        utilization=busy,
        error_rate=round(rng.uniform(0, 0.08), 5) if is_sick else 0.0,
        bandwidth_gbps=2 * busy,
        qp_errors=float(rng.randrange(200)) if is_sick else None,
    )


def _as_records(rng: random.Random, key: bytes, events: list[MetricEvent]) -> Iterator[KeyedRecord]:
    if rng.random() < 0.2:
        yield key, _encode(events)
        return
    for event in events:
        yield key, _encode(event)
        odd = rng.random()
        if odd < 0.02:
            yield key, _encode(event)
        elif odd < 0.05:
            yield key, _encode(msgspec.structs.replace(event, ts=event.ts - rng.randrange(60_000, 900_000)))
        elif odd < 0.06:
            yield key, rng.randbytes(20)


def flood(rng: random.Random, n: int) -> list[KeyedRecord]:
    """Return `n` events of known streams whose clocks run far ahead."""
    nodes = [rng.randrange(NODES) for _ in range(n)]
    return [
        (b"leaf-%d" % node, _encode(MetricEvent(stream_id=f"leaf-{node}/0", ts=FUTURE_MS + i, utilization=50.0)))
        for i, node in enumerate(nodes)
    ]


def hot(rng: random.Random, n: int, *, hour: int) -> list[KeyedRecord]:
    """Return `n` events of that hour, nine in ten of them of one node's ports."""
    start_ms = START_MS + hour * 3_600_000
    nodes = [NODES if rng.random() < 0.9 else rng.randrange(NODES) for _ in range(n)]
    return [
        (b"leaf-%d" % node, _encode(_event(rng, f"leaf-{node}/{i % PORTS}", start_ms + i * 500, i % 4_000 < 400)))
        for i, node in enumerate(nodes)
    ]


class Feed:
    """Sends `records` at a steady pace, and on demand more of them, until it is cancelled."""

    def __init__(self, kafka: KafkaSettings, topic: str, rng: random.Random) -> None:
        self._kafka, self._topic = kafka, topic
        self._records = records(rng)
        self._extra: list[KeyedRecord] = []

    def add(self, extra: list[KeyedRecord]) -> None:
        """Send these with the next turn."""
        self._extra += extra

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set, and return when all is acknowledged."""
        producer = AIOKafkaProducer(**self._kafka.client_arguments(), enable_idempotence=True)
        await producer.start()
        try:
            while not stop.is_set():
                turn, self._extra = self._extra, []
                for key, value in [*turn, *(next(self._records) for _ in range(RECORDS_PER_TURN))]:
                    await producer.send(self._topic, value, key=key, partition=key[-1] % PARTITIONS)
                await asyncio.sleep(TURN_S)
            await producer.flush()
        finally:
            await stop_producer(producer)  # within seconds: the broker may be gone for good
