"""The events a worker is measured with: a seeded fabric's metrics as encoded values, and as a backlog on the topic."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from bench.cluster import PARTITIONS, PREFIX, START_MS
from streams.contract import MetricEvent, node_of
from streams.kafka import KafkaSettings
from streams.wire import arrow_sweep

PERIOD_MS = 10_000
PORTS_A_NODE = 64
SEED = 20_261_123


class KeyedRecord(NamedTuple):
    """A record of topic `metrics`."""

    partition: int
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]] = []  # noqa: RUF012  # shared, and never written


def stream_ids(streams: int) -> list[str]:
    """Return the ids of the first `streams` ports; `number_of` reads one back."""
    return [f"leaf-{i // PORTS_A_NODE:05d}/{i % PORTS_A_NODE}" for i in range(streams)]


def number_of(stream_id: str) -> int:
    """Return the number of a port.

    >>> number_of(stream_ids(70)[69])
    69
    """
    node, _, port = stream_id.removeprefix("leaf-").partition("/")
    return int(node) * PORTS_A_NODE + int(port)


def records(
    events: int,
    *,
    streams: int,
    sweep: int = 1,
    as_arrow: bool = False,
    period_ms: int = PERIOD_MS,
) -> Iterator[KeyedRecord]:
    """Yield `events` events of `streams` ports in turn, one a port each `period_ms`, `sweep` of a node in a record.

    With `as_arrow` sweeps are Arrow's record batches, else JSON.
    """
    encode = msgspec.json.Encoder().encode
    encode_sweep = arrow_sweep.encode if as_arrow else encode
    headers = [arrow_sweep.CONTENT_TYPE] if as_arrow else []
    rng = np.random.default_rng(SEED)
    ids = stream_ids(streams)
    keys = [node_of(stream_id).encode() for stream_id in ids]
    partitions = [i // PORTS_A_NODE % PARTITIONS for i in range(streams)]
    for first in range(0, events, streams):
        tick = _tick(rng, ids[: events - first], START_MS + first // streams * period_ms)
        if sweep == 1 and not as_arrow:
            yield from map(KeyedRecord, partitions, keys, map(encode, tick))
        else:
            for node in range(0, len(tick), PORTS_A_NODE):
                ports = tick[node : node + PORTS_A_NODE]
                for i in range(0, len(ports), sweep):
                    yield KeyedRecord(partitions[node], keys[node], encode_sweep(ports[i : i + sweep]), headers)


def _tick(rng: np.random.Generator, ids: list[str], ts: int) -> list[MetricEvent]:
    n = len(ids)
    utilization = rng.choice([0.0, 1.0], n, p=[0.65, 0.35]) * rng.gamma(2.0, 12.0, n)
    utilization = np.minimum(utilization, 100.0).round(3)
    rows = zip(ids, utilization.tolist(), rng.lognormal(1.0, 0.1, n).round(3).tolist(), strict=True)
    return [
        MetricEvent(
            stream_id=stream_id, ts=ts, latency_p99=latency, utilization=busy,
            error_rate=0.0, bandwidth_gbps=round(busy * 2.0, 3), qp_errors=0.0,
        )
        for stream_id, busy, latency in rows
    ]  # fmt: skip


async def fill(kafka: KafkaSettings, filled: Iterator[KeyedRecord]) -> None:
    """Write records to topic `metrics`, as fast as it takes them."""
    topic = f"{PREFIX}metrics"
    # The limit is the broker's 12 MiB a record; batches of 1 MiB fill it fastest.
    producer = AIOKafkaProducer(**kafka.client_arguments(), max_batch_size=1 << 20, max_request_size=2 << 20)
    async with producer:  # its exit flushes
        batches = [producer.create_batch() for _ in range(PARTITIONS)]
        for p, key, value, headers in filled:
            if batches[p].append(timestamp=None, key=key, value=value, headers=headers) is None:
                await producer.send_batch(batches[p], topic, partition=p)
                batches[p] = producer.create_batch()
                batches[p].append(timestamp=None, key=key, value=value, headers=headers)
        for p, batch in enumerate(batches):
            if batch.record_count():
                await producer.send_batch(batch, topic, partition=p)
