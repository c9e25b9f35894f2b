"""Records as they are: what the worker reads of one is what aiokafka's own record says."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition

from streams.raw_records import AS_THEY_ARE

pytestmark = pytest.mark.kafka

READ = ("offset", "timestamp", "key", "value")


async def records(kafka, topic: str, **arguments) -> list:
    consumer = AIOKafkaConsumer(**kafka.client_arguments(), auto_offset_reset="earliest", **arguments)
    async with consumer:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(30):
            found = []
            while len(found) < 3:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    found += batch
    return found


async def test_a_record_as_it_is_says_what_a_consumer_record_says_and_others_still_get_theirs(kafka, topics) -> None:
    topic = f"{topics}metrics"
    sent = [(b"k", b"{}", [("a", b"1")]), (None, b"x", []), (b"k", None, [("b", b""), ("c", b"\xff")])]
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        for key, value, headers in sent:
            await producer.send_and_wait(topic, value, key=key, headers=headers, partition=0)

    plain = await records(kafka, topic)
    raw = await records(kafka, topic, value_deserializer=AS_THEY_ARE)

    assert all(isinstance(record, ConsumerRecord) for record in plain)
    assert not any(isinstance(record, ConsumerRecord) for record in raw)
    assert [(r.key, r.value, list(r.headers)) for r in raw] == sent
    for name in READ:
        assert [getattr(r, name) for r in raw] == [getattr(r, name) for r in plain]
