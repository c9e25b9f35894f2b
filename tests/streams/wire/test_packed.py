"""What is packed is what aiokafka's own builder writes, and what a broker gives back, in a transaction or not."""

import asyncio

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.inside_aiokafka import BatchBuilder, built
from streams.wire.packed import Packed, pack
from streams.wire.spans import Spans

NOW_MS = 1_767_225_600_000
# Sizes on both sides of where a varint grows: 63 and 64, 8,191 and 8,192 (and the record around them).
BYTES = st.none() | st.binary(max_size=80) | st.sampled_from([63, 64, 8_191, 8_192]).map(bytes)
RECORDS = st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=200)
Records = list[tuple[bytes | None, bytes | None]]


def packed(records: Records) -> Packed:
    return Packed(Spans.of([key for key, _ in records]), Spans.of([value for _, value in records]))


def by_aiokafka(records: Records, *, bytes_max: int, is_transactional: bool, state: tuple | None) -> list[bytes]:
    """The batches of aiokafka's own builder, which is full at `batch_size` bytes, and not beyond."""
    full, rest = [], list(records)
    while rest:
        builder = BatchBuilder(bytes_max + 1, 0, is_transactional=is_transactional)
        while rest and builder.append(timestamp=NOW_MS, key=rest[0][0], value=rest[0][1]) is not None:
            rest.pop(0)
        full.append(bytes(built(builder, producer=state)))
    return full


@settings(deadline=None, max_examples=100)
@given(
    records=RECORDS,
    bytes_max=st.integers(1, 20_000),
    is_transactional=st.booleans(),
    state=st.none() | st.tuples(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 15) - 1), st.integers(0, 1 << 30)),
)
@example(records=[(b"", b"")] * 9_000, bytes_max=1 << 20, is_transactional=False, state=None)
def test_batches_have_the_bytes_of_aiokafkas_own_builder_and_split_where_it_does(
    records, bytes_max, is_transactional, state
) -> None:
    batches = pack(packed(records), timestamp_ms=NOW_MS, bytes_max=bytes_max, is_transactional=is_transactional)

    assert [bytes(built(batch, producer=state)) for batch in batches] == by_aiokafka(
        records, bytes_max=bytes_max, is_transactional=is_transactional, state=state
    )
    assert sum(batch.record_count() for batch in batches) == len(records)
    assert all(batch.size() <= bytes_max or batch.record_count() == 1 for batch in batches)


def test_a_new_producer_state_gives_the_bytes_of_a_batch_that_never_had_another() -> None:
    records = [(b"leaf", b"%d" % i) for i in range(100)]
    (batch,) = pack(packed(records), timestamp_ms=NOW_MS, bytes_max=1 << 20, is_transactional=True)
    built(batch, producer=(7, 1, 50))

    again = bytes(built(batch, producer=(8, 2, 0)))

    assert [again] == by_aiokafka(records, bytes_max=1 << 20, is_transactional=True, state=(8, 2, 0))
    read = MemoryRecords(again).next_batch()
    assert read.validate_crc()
    assert [(record.key, record.value) for record in read] == records


def test_a_batch_takes_no_further_record_and_lingers_for_none() -> None:
    (batch,) = pack(packed([(b"k", b"v")]), timestamp_ms=NOW_MS, bytes_max=1 << 20, is_transactional=False)

    assert batch.append(timestamp=NOW_MS, key=b"k", value=b"w") is None
    assert batch.closed()
    assert batch.record_count() == 1


def test_no_records_make_no_batch() -> None:
    assert pack(packed([]), timestamp_ms=NOW_MS, bytes_max=1 << 20, is_transactional=False) == []


def test_keys_and_values_of_unlike_number_are_refused() -> None:
    with pytest.raises(ValueError, match="1 keys for 2 values"):
        Packed(Spans.of([None]), Spans.of([b"a", b"b"]))


def test_pieces_may_lie_anywhere_and_be_shared() -> None:
    buffer = np.frombuffer(b"valuekey", np.uint8)
    keys = Spans(buffer, np.array([5, 5, 0]), np.array([3, 3, -1]))
    values = Spans(buffer, np.array([0, 1, 8]), np.array([5, 4, 0]))

    assert [(key, value) for key, value, _ in Packed(keys, values)] == [
        (b"key", b"value"),
        (b"key", b"alue"),
        (None, b""),
    ]


def some_records(n: int) -> Records:
    return [(None if i % 5 == 0 else b"leaf-%d" % (i % 7), b"%d" % i * (i % 9)) for i in range(n)]


async def sent(producer: AIOKafkaProducer, topic: str, records: Records, *, is_transactional: bool) -> int:
    """Send to partition 1 in batches of 1 KB, await all; return how many batches there were."""
    batches = pack(packed(records), timestamp_ms=NOW_MS, bytes_max=1_000, is_transactional=is_transactional)
    await asyncio.gather(*[await producer.send_batch(batch, topic, partition=1) for batch in batches])
    return len(batches)


@pytest.mark.kafka
async def test_an_idempotent_producer_sends_what_is_read_in_order_beside_its_own_batches(
    kafka, topics, consume_all
) -> None:
    topic, records = f"{topics}predictions", some_records(500)
    async with AIOKafkaProducer(**kafka.client_arguments(), enable_idempotence=True) as producer:
        assert await sent(producer, topic, records, is_transactional=False) > 5
        await producer.send_and_wait(topic, b"between", key=b"own", partition=1)
        await sent(producer, topic, records, is_transactional=False)

    read = await consume_all(topic)
    assert [(r.key, r.value) for r in read] == [*records, (b"own", b"between"), *records]
    assert {r.partition for r in read} == {1}


@pytest.mark.kafka
async def test_a_committed_transaction_is_read_and_an_aborted_one_is_not(kafka, topics, consume_all) -> None:
    topic, first, aborted, last = f"{topics}predictions", some_records(300), some_records(200), some_records(100)
    async with AIOKafkaProducer(**kafka.client_arguments(), transactional_id=f"{topics}packed") as producer:
        async with producer.transaction():
            await sent(producer, topic, first, is_transactional=True)
        await producer.begin_transaction()
        await sent(producer, topic, aborted, is_transactional=True)
        await producer.abort_transaction()
        async with producer.transaction():
            await sent(producer, topic, last, is_transactional=True)

    assert [(r.key, r.value) for r in await consume_all(topic)] == first + last
