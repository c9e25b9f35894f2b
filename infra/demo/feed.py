"""What the demo publishes: real counters of real devices, a simulated fabric in fast motion, and a few bad records."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from offline.simulator.fabric import Block, Fabric
from streams.contract import METRICS, MetricEvent, node_of
from streams.ingest.producer import MetricsProducer
from streams.ingest.sources import collect, perfquery, prometheus, ufm
from streams.wire.events import has_metric

SAMPLES = Path(collect.__file__).with_name("samples")
SAMPLE_PERIOD_S = 10.0
CHUNK = 2_048

BAD_RECORDS = (
    b"not JSON",
    b'{"v":1,"stream_id":"bad/1","ts":0,"utilization":101}',
    b'{"v":1,"stream_id":"bad/1","ts":"noon","utilization":1}',
    b'{"v":9,"stream_id":"bad/1","ts":0,"utilization":1}',
    b"[]",
)


async def feed_samples(producer: MetricsProducer) -> int:
    """Publish the events of the real devices whose output comes with linkcast; return how many."""
    events = [event for event in sample_events(time.time()) if has_metric(event)]
    for _, sweep in groupby(events, key=lambda event: node_of(event.stream_id)):
        await producer.send_sweep(list(sweep))
    return len(events)


def sample_events(now_s: float) -> list[MetricEvent]:
    """Return two samples, 10 s apart, of every port in linkcast's real outputs, as if read on idle links just now."""
    odd = collect.Oddities()
    collector = collect.Collector(period_s=SAMPLE_PERIOD_S, odd=odd)
    parsers = {
        "perfquery_*.out": functools.partial(perfquery.parse, odd=odd),
        "*.prom": functools.partial(prometheus.parse, host="exporter", odd=odd),
        "ufm-*.json": functools.partial(ufm.parse, odd=odd),
    }
    return [
        event
        for taken_s in (now_s - SAMPLE_PERIOD_S, now_s)
        for pattern, parse in parsers.items()
        for path in sorted(SAMPLES.rglob(pattern))
        for event in collector.events(parse(path.read_bytes(), path, taken_s))
    ]


async def feed_bad_records(producer: MetricsProducer) -> int:
    """Publish what can't be an event; return how many records."""
    for value in BAD_RECORDS:
        await producer.send_encoded("bad", value, events=1)
    return len(BAD_RECORDS)


async def feed_fabric(
    producer: MetricsProducer, fabric: Fabric, *, seconds: float, told: Callable[[int, int], None]
) -> None:
    """Publish a fabric's life within `seconds`, evenly; `told` gets the events just sent and their event time, ms."""
    start_ms, end_ms = fabric.setting.start_ms, fabric.setting.end_ms
    began = time.monotonic()
    blocks = fabric.run()
    node = np.unique([node_of(stream_id) for stream_id in fabric.stream_ids], return_inverse=True)[1]
    # The simulator computes in a thread, so that what is under way on the wire isn't held up.
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        for first in range(0, len(block.ts), CHUNK):
            chunk = Block._make(column[first : first + CHUNK] for column in block)
            at_ms = int(chunk.ts.max())
            due = began + seconds * (at_ms - start_ms) / (end_ms - start_ms)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for key, value, events in _sweeps(chunk, node, fabric.stream_ids):
                await producer.send_encoded(key, value, events=events)
            told(len(chunk.ts), at_ms)


def _sweeps(chunk: Block, node: NDArray[np.intp], stream_ids: list[str]) -> Iterator[tuple[str, bytes, int]]:
    """Yield a chunk's events as one record a node; the order within a node stays."""
    order = np.argsort(node[chunk.stream], kind="stable")
    events = [
        MetricEvent(
            stream_id=stream_ids[stream],
            ts=ts,
            **{name: value for name, value in zip(METRICS, metrics, strict=True) if value == value},  # not NaN
        )
        for stream, ts, metrics in zip(
            chunk.stream[order].tolist(), chunk.ts[order].tolist(), chunk.metrics[order].tolist(), strict=True
        )
    ]
    for key, sweep in groupby(events, key=lambda event: node_of(event.stream_id)):
        found = list(sweep)
        yield key, msgspec.json.encode(found), len(found)
