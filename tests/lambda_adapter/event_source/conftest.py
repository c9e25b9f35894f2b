"""A topic of its own for each test, records with known bytes on it, and an event source that runs until it is dry."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.topics import _until_visible
from lambda_adapter.event_source import Backoff, EventSource, Options

AT_ONCE = Backoff(0.0, 0.0)


@pytest.fixture
def make_topic(kafka, prefix):
    """`await make_topic("name", partitions=3)` makes it and returns its whole name."""

    async def make(name="orders", *, partitions=1):
        admin = AIOKafkaAdminClient(**kafka.client_arguments())
        await admin.start()
        try:
            await admin.create_topics([NewTopic(prefix + name, partitions, 1)])
            await _until_visible(admin, [prefix + name])
        finally:
            await admin.close()
        return prefix + name

    return make


@pytest.fixture
def publish(kafka):
    """`await publish(topic, values, partitions=3)` sends them to the partitions in turn."""

    async def send(topic, values, *, partitions=1, **arguments):
        async with AIOKafkaProducer(**kafka.client_arguments(), max_request_size=8 << 20) as producer:
            for i, value in enumerate(values):
                await producer.send(topic, value, partition=i % partitions, **arguments)

    return send


@pytest.fixture
def run_dry(kafka, prefix):
    """`await run_dry(topic, handler, options)` runs until all is settled or given up; returns the counters."""

    async def run(topic, invoke, options=None, **arguments):
        source = EventSource(
            kafka, topic, f"{prefix}group", invoke, options or Options(maximum_batching_window_in_seconds=0),
            **{"backoff": AT_ONCE, **arguments},
        )  # fmt: skip
        await source.run(asyncio.Event(), is_once=True)
        return source.counters

    return run


@pytest.fixture
def committed(kafka, prefix):
    """`await committed(topic, 0)` is the group's offset on partition 0."""

    async def look(topic, partition=0):
        consumer = AIOKafkaConsumer(**kafka.client_arguments(), group_id=f"{prefix}group", enable_auto_commit=False)
        async with consumer:
            return await consumer.committed(TopicPartition(topic, partition))

    return look
