"""The event's shape, its measured size, and answers read as strictly as they are documented."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter.event_source.batcher import payload_bytes
from lambda_adapter.event_source.delivery import Piece
from lambda_adapter.event_source.event import Origin, Partition, Record
from lambda_adapter.event_source.response import MalformedResponse, lowest_failed

ORIGIN = Origin(bootstrap_servers="b-1:9092,b-2:9092")
BYTES = st.none() | st.binary(max_size=40)


def record(offset=0, *, partition=0, topic="orders", value=b"v", key=b"k", headers=(), timestamp_type=0):
    return Record.of(
        topic=topic, partition=partition, offset=offset, timestamp=1_545_084_650_987, timestamp_type=timestamp_type,
        key=key, value=value, headers=headers,
    )  # fmt: skip


def test_an_event_has_the_shape_of_the_lambda_guide():
    made = record(15, value=b"Hello, this is a test.", key=b"\xff", headers=[("trace", b"\x00\x7f\x80\xff")])

    assert ORIGIN.event({Partition("orders", 0): [made]}) == {
        "eventSource": "SelfManagedKafka",
        "bootstrapServers": "b-1:9092,b-2:9092",
        "records": {
            "orders-0": [
                {
                    "topic": "orders",
                    "partition": 0,
                    "offset": 15,
                    "timestamp": 1_545_084_650_987,
                    "timestampType": "CREATE_TIME",
                    "key": "/w==",
                    "value": "SGVsbG8sIHRoaXMgaXMgYSB0ZXN0Lg==",
                    "headers": [{"trace": [0, 127, -128, -1]}],
                }
            ]
        },
    }


def test_an_event_of_msk_names_its_cluster():
    origin = Origin(bootstrap_servers="b:9098", event_source="aws:kafka", event_source_arn="arn:aws:kafka:x")

    assert [*origin.event({}).items()][:2] == [("eventSource", "aws:kafka"), ("eventSourceArn", "arn:aws:kafka:x")]


def test_a_tombstone_has_a_null_value_and_a_missing_key_is_left_out():
    made = record(value=None, key=None, timestamp_type=1).as_json()

    assert (made["value"], "key" in made, made["timestampType"]) == (None, False, "LOG_APPEND_TIME")


RECORDS = st.lists(
    st.builds(record, st.integers(0, 10**15), partition=st.integers(0, 3), value=BYTES, key=BYTES,
              headers=st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=3)),
    max_size=12,
)  # fmt: skip


@given(records=RECORDS, topic=st.text(min_size=1, max_size=5))
def test_the_size_is_never_below_that_of_the_json_and_hardly_above(records, topic):
    by_partition = {}
    for each in records:
        by_partition.setdefault(Partition(topic, each.partition), []).append(each)
    batch = tuple(Piece(partition, tuple(each)) for partition, each in by_partition.items())

    true = len(json.dumps(ORIGIN.event(by_partition), separators=(",", ":")))
    assert 0 <= payload_bytes(batch, overhead_bytes=ORIGIN.overhead_bytes(())) - true <= 1 + len(batch)


A, B = Partition("a-1", 0), Partition("b", 3)
BATCH = {A: [record(o, topic="a-1") for o in (4, 5, 9)], B: [record(7, topic="b", partition=3)]}


def failed(*identifiers):
    return {"batchItemFailures": [{"itemIdentifier": identifier} for identifier in identifiers]}


@pytest.mark.parametrize("response", [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}, {"other": 1}])
def test_nothing_said_is_success(response):
    assert lowest_failed(response, BATCH) == {}


def test_the_lowest_offset_of_each_partition_counts():
    response = failed(
        {"partition": "a-1-0", "offset": 9}, {"partition": "b-3", "offset": 7}, {"partition": "a-1-0", "offset": 5}
    )

    assert lowest_failed(response, BATCH) == {A: 5, B: 7}


@pytest.mark.parametrize(
    "response",
    [
        "OK",
        [],
        {"batchItemFailures": {}},
        {"batchItemFailures": ["a-1-0-4"]},
        failed(None),
        failed(""),
        failed("a-1-0-4"),  # middy's way
        failed({"partition": "a-1-0"}),
        failed({"partition": 0, "offset": 4}),
        failed({"partition": ["a-1-0"], "offset": 4}),
        failed({"partition": "a-1-0", "offset": "4"}),
        failed({"partition": "a-1-0", "offset": True}),
        failed({"partition": "a-1-0", "offset": 6}),
        failed({"partition": "a-1-1", "offset": 4}),
        failed({"partition": "a-1-0", "offset": 4}, {"partition": "a-1-0"}),
    ],
)
def test_what_names_no_record_of_the_batch_fails_all_of_it(response):
    with pytest.raises(MalformedResponse):
        lowest_failed(response, BATCH)
