"""Records as arrays: what the worker reads of a fetch is what aiokafka's own records say."""

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import CorruptRecordException
from hypothesis import given
from hypothesis import strategies as st

from streams.group.raw_records import AS_ARRAYS
from streams.inside_aiokafka import calc_crc32c
from streams.wire.fetched import frames
from streams.wire.records import Records, Taken
from streams.wire.unpacked import batch_in, unpack
from tests.streams.batches import batch_of

READ = ("offset", "timestamp", "key", "value")
SENT = [(b"k", b"{}", [("a", b"1")]), (None, b"x", []), (b"k", None, [("b", b""), ("c", b"\xff")]), (b"\xff", b"", [])]

some_bytes = st.none() | st.binary(max_size=300)
headers = st.lists(st.tuples(st.text(max_size=5), some_bytes), max_size=3)
taken = st.builds(Taken, st.just(0), st.integers(1_700_000_000_000, 1_700_000_100_000), some_bytes, some_bytes, headers)


def read(data: bytes, *, first: int = 0) -> Records:
    return unpack([batch_in(frame) for frame in frames(data)], first=first)


def told(records: Records) -> list[tuple]:
    return [(*(getattr(record, name) for name in READ), list(record.headers)) for record in records]


@given(st.lists(taken, min_size=1, max_size=9), st.sampled_from([0, 1, 3]), st.integers(0, 9))
def test_what_a_batch_was_made_of_is_what_is_read_of_it(made: list[Taken], codec: int, first: int) -> None:
    records = read(batch_of(made, codec=codec), first=first)

    assert told(records) == [(i, *r[1:4], r.headers) for i, r in enumerate(made)][first:]
    assert records.is_plain.tolist() == Records.of(made)[first:].is_plain.tolist()
    assert [records.value(i) for i in range(len(records))] == [r.value for r in made[first:]]


def test_several_batches_lie_side_by_side_and_the_last_one_may_be_cut_off() -> None:
    one = batch_of([Taken(0, 5, b"a", b"{}", [])])
    other = (7).to_bytes(8, "big") + batch_of([Taken(0, 6, None, b"[]", [])])[8:]

    records = read(one + other + one[:-1])

    assert told(records) == [(0, 5, b"a", b"{}", []), (7, 6, None, b"[]", [])]
    assert records.braces() == 1


def test_bytes_that_lie_are_refused() -> None:
    whole = batch_of([Taken(0, 5, b"abc", b"{}", [])])

    for at in range(21, len(whole)):
        broken = bytearray(whole)
        broken[at] ^= 0x41
        with pytest.raises(CorruptRecordException):
            read(bytes(broken))


@given(st.binary(min_size=1, max_size=40), st.integers(1, 9))
def test_records_that_do_not_fill_their_batch_are_refused_and_nothing_outside_is_read(body: bytes, n: int) -> None:
    batch = batch_in(memoryview(batch_of([Taken(0, 5, b"abc", b"{}", [])])))

    try:
        records = unpack([batch._replace(body=memoryview(body), n=n, next_offset=n)], first=0)
    except CorruptRecordException:
        return
    assert len(records) == n
    assert all(len(record.value or b"") + len(record.key or b"") < len(body) for record in records)


@pytest.mark.parametrize(("at", "what"), [(8, b"\0\0\0\7"), (57, b"\xff\xff\xff\xff")])
def test_a_header_that_lies_is_refused(at: int, what: bytes) -> None:
    whole = bytearray(batch_of([Taken(0, 5, b"abc", b"{}", [])]))
    whole[at : at + 4] = what
    whole[17:21] = calc_crc32c(bytes(whole[21:])).to_bytes(4, "big")

    with pytest.raises(CorruptRecordException):
        read(bytes(whole))


async def fetched(kafka, topic: str, n: int, **arguments) -> list:
    consumer = AIOKafkaConsumer(
        **kafka.client_arguments(), auto_offset_reset="earliest", isolation_level="read_committed", **arguments
    )
    async with consumer:
        consumer.assign([TopicPartition(topic, 0)])
        found: list = []
        while len(found) < n:
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                found += [r for records in batch for r in records] if arguments else batch
    return found


@pytest.mark.kafka
@pytest.mark.parametrize("compression", [None, "gzip", "lz4"])
async def test_a_consumer_gives_arrays_that_say_what_its_records_would_and_others_still_get_theirs(
    kafka, topics, compression
) -> None:
    topic = f"{topics}metrics"
    async with AIOKafkaProducer(**kafka.client_arguments(), compression_type=compression) as producer:
        for key, value, headers in SENT:
            await producer.send_and_wait(topic, value, key=key, headers=headers, partition=0)

    plain = await fetched(kafka, topic, len(SENT))
    arrays = await fetched(kafka, topic, len(SENT), value_deserializer=AS_ARRAYS)

    assert all(isinstance(record, ConsumerRecord) for record in plain)
    assert [(r.key, r.value, list(r.headers)) for r in arrays] == SENT
    for name in READ:
        assert [getattr(r, name) for r in arrays] == [getattr(r, name) for r in plain]


@pytest.mark.kafka
async def test_what_a_transaction_took_back_is_in_no_array(kafka, topics) -> None:
    topic = f"{topics}metrics"
    async with AIOKafkaProducer(**kafka.client_arguments(), transactional_id=f"{topics}t") as producer:
        for value, is_kept in ((b"1", True), (b"2", False), (b"3", True)):
            await producer.begin_transaction()
            await producer.send_and_wait(topic, value, key=b"k", partition=0)
            await (producer.commit_transaction() if is_kept else producer.abort_transaction())

    arrays = await fetched(kafka, topic, 2, value_deserializer=AS_ARRAYS)

    assert [r.value for r in arrays] == [b"1", b"3"]
