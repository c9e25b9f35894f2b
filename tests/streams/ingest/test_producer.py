"""The producer against a real broker: order, bounds, and no loss without a word."""

import asyncio
import math

import msgspec
import numpy as np
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import given
from hypothesis import strategies as st

from infra.broker.process import EmbeddedBroker
from infra.topics import _until_visible, apply_topics
from streams.contract import MetricEvent, node_of
from streams.ingest.producer import RECORD_BYTES_MAX, DeliveryFailed, MetricsProducer, TopicMissing, sweep_records
from streams.kafka import KafkaSettings
from streams.wire.decode import decode
from streams.wire.events import metrics_of

T = 1_760_000_000_000


def event(stream_id: str = "leaf-1/1", ts: int = T, **fields) -> MetricEvent:
    return MetricEvent(stream_id=stream_id, ts=ts, **({"utilization": 5.0} | fields))


async def test_events_arrive_once_in_order_per_node_keyed_by_node(kafka, topics, consume_all):
    events = [event(f"leaf-{i % 7}/{i % 3}", T + i) for i in range(700)]

    async with MetricsProducer(kafka, prefix=topics) as producer:
        for one in events:
            await producer.send(one)

    records = await consume_all(f"{topics}metrics")
    assert producer.acknowledged == 700
    assert {record.partition for record in records} == {0, 1}
    for node in {node_of(one.stream_id) for one in events}:
        of_node = [record for record in records if record.key == node.encode()]
        assert len({record.partition for record in of_node}) == 1
        sent = [msgspec.json.encode(one) for one in events if node_of(one.stream_id) == node]
        assert [record.value for record in of_node] == sent


async def test_a_sweep_is_one_record(kafka, topics, consume_all):
    sweep = [event(f"leaf-1/{port}") for port in range(36)]

    async with MetricsProducer(kafka, prefix=topics) as producer:
        await producer.send_sweep(sweep)

    [record] = await consume_all(f"{topics}metrics")
    assert record.key == b"leaf-1"
    assert msgspec.json.decode(record.value, type=list[MetricEvent]) == sweep
    assert producer.acknowledged == 36


async def test_an_arrow_sweep_is_one_marked_record_of_the_same_events(kafka, topics, consume_all):
    sweep = [event(f"leaf-1/{port}", latency_p99=None if port % 2 else 1.5) for port in range(36)]

    async with MetricsProducer(kafka, prefix=topics) as producer:
        await producer.send_sweep(sweep, as_arrow=True)
        with pytest.raises(ValueError, match="extra"):
            await producer.send_sweep([event(extra={"stall": 1.0})], as_arrow=True)

    [record] = await consume_all(f"{topics}metrics")
    decoded, rejected = decode([record])
    assert rejected == []
    assert decoded.stream_ids() == [one.stream_id for one in sweep]
    np.testing.assert_array_equal(decoded.metrics, metrics_of(sweep))
    assert (record.key, producer.acknowledged) == (b"leaf-1", 36)


@given(sizes=st.lists(st.integers(2, RECORD_BYTES_MAX), min_size=1, max_size=40))
def test_a_large_sweep_is_split_into_records_that_fit(sizes):
    events = [b'"' + b"x" * (size - 2) + b'"' for size in sizes]

    records = list(sweep_records(events))

    assert sum(count for _, count in records) == len(events)
    assert b",".join(value[1:-1] for value, _ in records) == b",".join(events)
    assert all(len(value) <= RECORD_BYTES_MAX + 2 for value, _ in records)


async def test_a_sweep_of_two_nodes_or_of_none_is_the_callers_bug(kafka, topics, consume_all):
    async with MetricsProducer(kafka, prefix=topics) as producer:
        with pytest.raises(ValueError, match="leaf-1 and leaf-2"):
            await producer.send_sweep([event("leaf-1/1"), event("leaf-2/1")])
        with pytest.raises(ValueError, match="empty"):
            await producer.send_sweep([])

    assert await consume_all(f"{topics}metrics") == []


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        (event(utilization=101.0), "utilization"),
        (event(latency_p99=math.nan), "latency_p99"),
        (event(extra={"stall": math.inf}), "extra"),
        (event(ts=T * 1_000), "ts"),
        (event(stream_id=""), "stream_id"),
        (event(stream_id="ü" * 101), "stream_id"),
        (event(stream_id="a\t/1"), "stream_id"),
        (event(utilization=None), "none of"),
        (event(extra={str(i): 1.0 for i in range(80_000)}), "extra"),
    ],
)
async def test_what_the_contract_refuses_is_not_sent(bad, names):
    # Refused before anything needs a broker.
    with pytest.raises(ValueError, match=names):
        await MetricsProducer(KafkaSettings(bootstrap="127.0.0.1:1"), prefix="x.").send(bad)


async def test_it_writes_idempotently(kafka, topics):
    async with MetricsProducer(kafka, prefix=topics) as producer:
        client = producer._producer
        assert client._txn_manager is not None
        assert client._txn_manager.has_pid()
        assert client._sender._acks == -1


async def test_sending_waits_at_the_bound_of_unacknowledged_records(kafka, topics):
    most = 0
    async with MetricsProducer(kafka, prefix=topics, unacknowledged_max=5) as producer:

        async def send(i: int) -> None:
            nonlocal most
            await producer.send(event(f"leaf-{i}/1"))
            most = max(most, len(producer._pending))

        await asyncio.gather(*(send(i) for i in range(200)))
        await producer.flush()
        assert producer.acknowledged == 200

    assert most == 5


async def test_a_topic_that_is_missing_is_said_at_the_start(kafka, prefix):
    with pytest.raises(TopicMissing, match="linkcast topics apply"):
        async with MetricsProducer(kafka, prefix=prefix):
            pass


async def test_a_refused_record_is_raised_by_flush_by_the_next_send_and_at_the_end(kafka, prefix):
    admin = AIOKafkaAdminClient(**kafka.client_arguments())
    await admin.start()
    await admin.create_topics([NewTopic(f"{prefix}metrics", 1, 1, topic_configs={"max.message.bytes": "1000"})])
    await _until_visible(admin, [f"{prefix}metrics"])
    await admin.close()
    noise = {f"{i * 7919 % 9973}": i * 0.618 % 1 for i in range(500)}  # does not compress below the limit
    producer = MetricsProducer(kafka, prefix=prefix)

    async def use() -> None:
        async with producer:
            await producer.send(event("leaf-9/1", extra=noise))
            with pytest.raises(DeliveryFailed, match="leaf-9"):
                await producer.flush()
            with pytest.raises(DeliveryFailed, match="leaf-9"):
                await producer.send(event())

    with pytest.raises(DeliveryFailed, match="leaf-9"):
        await use()
    assert (producer.acknowledged, producer.failed) == (0, 1)


async def test_the_bodys_own_exception_is_kept_and_what_was_sent_arrives(kafka, topics, consume_all):
    async def use() -> None:
        async with MetricsProducer(kafka, prefix=topics) as producer:
            await producer.send(event())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert len(await consume_all(f"{topics}metrics")) == 1


async def test_a_broker_that_goes_away_is_raised_and_counted(tmp_path, prefix, monkeypatch):
    monkeypatch.setattr("streams.kafka.STOP_SECONDS", 0.5)
    broker = EmbeddedBroker(tmp_path)
    kafka = KafkaSettings(bootstrap=(await asyncio.to_thread(broker.up)).bootstrap)
    producer = MetricsProducer(kafka, prefix=prefix)

    async def use() -> None:
        async with producer:
            await producer.send(event())
            await producer.flush()
            producer._delivery_seconds = 1.0  # which the event before may have taken on a busy machine
            await asyncio.to_thread(broker.down)
            await producer.send_sweep([event("leaf-1/2"), event("leaf-1/3")])

    try:
        await apply_topics(kafka, prefix, partitions=1, replication=1)
        with pytest.raises(DeliveryFailed, match="acknowledged nothing for 1 s"):
            await use()
    finally:
        await asyncio.to_thread(broker.down)
    assert (producer.acknowledged, producer.failed) == (1, 2)
