"""`verify` finds one flipped bit, and nothing where live and replay agree."""

import asyncio

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from offline.verify import NothingToVerify, verify
from streams.contract import MetricEvent
from streams.features import record_batch
from streams.features.partition import advance
from streams.features.stream_table import StreamTable
from streams.kafka import KafkaSettings
from tests.streams.strategies import T0

EVENTS = [
    MetricEvent(stream_id=f"leaf-1/{i % 7}", ts=T0 + i * 4_000, latency_p99=3.0 + i % 5, utilization=float(i % 50))
    for i in range(400)
]


async def live_run(kafka: KafkaSettings, prefix: str, consume_all, *, flip: bool = False, drop: int = 0) -> None:
    """What a worker leaves on the topics, with one bit flipped or the last rows of a batch dropped on request."""
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        for half in (EVENTS[:200], EVENTS[200:]):
            for event in half:
                await producer.send(f"{prefix}metrics", msgspec.json.encode(event), partition=1)
            await producer.flush()
            await asyncio.sleep(0.002)  # the broker's clock tells the halves apart
        records = await consume_all(f"{prefix}metrics")
        table = StreamTable()
        for first in range(0, len(records), 150):
            rows = advance(table, records[first : first + 150])
            if flip and first == 150:
                rows.rows.features[3, 5] = np.nextafter(rows.rows.features[3, 5], np.float32(np.inf))
            (value,) = record_batch.encode(rows.slot, table.streams, rows.ts, rows.rows, rows.offset, rows.element)
            if drop and first == 150:
                value = shortened(value, drop)
            await producer.send_and_wait(f"{prefix}features", value, partition=1)
            if first == 0:  # as after a crash
                await producer.send_and_wait(f"{prefix}features", value, partition=1)


def shortened(value: bytes, rows: int) -> bytes:
    table = record_batch.decode(value)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.slice(0, len(table) - rows))
    return sink.getvalue().to_pybytes()


async def test_live_and_replay_agree_and_repeats_are_compared_too(kafka, topics, consume_all) -> None:
    await live_run(kafka, topics, consume_all)

    found = await verify(kafka, prefix=topics)

    assert (found.events, found.differing, found.missing, found.unexplained) == (550, 0, 0, 0)


async def test_one_flipped_bit_is_found_and_named(kafka, topics, consume_all) -> None:
    await live_run(kafka, topics, consume_all, flip=True)

    found = await verify(kafka, prefix=topics)

    assert (found.differing, found.missing, found.unexplained) == (1, 0, 0)
    (difference,) = found.differences
    assert (difference.source, difference.feature) == ("1:153:0", "latency_p99_5m_avg")


async def test_rows_that_were_never_written_are_missing(kafka, topics, consume_all) -> None:
    await live_run(kafka, topics, consume_all, drop=9)

    assert (await verify(kafka, prefix=topics)).missing == 9


async def test_a_span_is_compared_alone_with_windows_that_what_lies_before_has_filled(
    kafka, topics, consume_all
) -> None:
    await live_run(kafka, topics, consume_all, flip=True)  # at offset 153
    middle_ms = (await consume_all(f"{topics}metrics"))[200].timestamp
    shares: list[float] = []

    before = await verify(kafka, prefix=topics, until_ms=middle_ms)
    after = await verify(kafka, prefix=topics, from_ms=middle_ms, progress=shares.append)

    assert (before.events, before.differing, before.missing, before.unexplained) == (350, 1, 0, 0)
    assert (after.events, after.differing, after.missing, after.unexplained) == (200, 0, 0, 0)
    assert shares[-1] == 1


async def test_where_retention_has_passed_the_beginning_the_first_day_is_not_compared(
    kafka, topics, consume_all
) -> None:
    await live_run(kafka, topics, consume_all)
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(f"{topics}metrics", 1): RecordsToDelete(before_offset=10)})
    finally:
        await admin.close()

    with pytest.raises(NothingToVerify, match="in this span"):
        await verify(kafka, prefix=topics)


async def test_streams_that_the_workers_refused_are_refused_by_the_replay(kafka, topics, consume_all) -> None:
    await live_run(kafka, topics, consume_all)

    found = await verify(kafka, prefix=topics, streams_max=5)

    assert (found.differing, found.missing) == (0, 0)
    assert found.unexplained > 0


async def test_another_time_zone_shows_in_the_hour(kafka, topics, consume_all) -> None:
    await live_run(kafka, topics, consume_all)

    found = await verify(kafka, prefix=topics, time_zone="Asia/Kathmandu")

    assert "hour" in {difference.feature for difference in found.differences}


async def test_with_nothing_to_compare_it_says_so(kafka, topics) -> None:
    with pytest.raises(NothingToVerify, match="has a worker run"):
        await verify(kafka, prefix=topics)
