"""Real Kafka, real batches, faults of every kind: nothing is lost, nothing overtakes, offsets follow what is over."""

import asyncio
import math
import threading

import pytest
from aiokafka import AIOKafkaProducer

from lambda_adapter.event_source import (
    Backoff,
    Calls,
    EventSource,
    FailureTopic,
    FilterCriteria,
    InProcess,
    Options,
    OptionsRefused,
    TopicMissing,
)
from tests.lambda_adapter.event_source.conftest import AT_ONCE
from tests.lambda_adapter.event_source.handlers import Handler, failures, values_of

pytestmark = pytest.mark.kafka


def numbered(n):
    return [f"{i}".encode() for i in range(n)]


async def test_each_record_is_seen_once_in_its_partitions_order_and_committed(make_topic, publish, run_dry, committed):
    topic = await make_topic(partitions=3)
    await publish(topic, numbered(1_000), partitions=3)
    handler = Handler()

    counters = await run_dry(topic, handler, Options(batch_size=64))

    assert handler.seen == {f"{topic}-{p}": list(range(n)) for p, n in enumerate((334, 333, 333))}
    assert [await committed(topic, p) for p in range(3)] == [334, 333, 333]
    assert (counters.read, counters.settled, counters.executions) == (1_000, 1_000, 1_000)
    assert max(sum(map(len, values_of(event).values())) for event in handler.events) <= 64
    assert any(len(event["records"]) > 1 for event in handler.events)  # one invocation holds several partitions


async def test_a_group_goes_on_where_it_left(make_topic, publish, run_dry):
    topic = await make_topic()
    first, second = Handler(), Handler()
    await publish(topic, numbered(10))
    await run_dry(topic, first)
    await publish(topic, numbered(5))
    await run_dry(topic, second)

    assert (first.seen, second.seen) == ({f"{topic}-0": [*range(10)]}, {f"{topic}-0": [*range(10, 15)]})


async def test_a_partial_failure_replays_its_partition_from_the_lowest_failed_offset(make_topic, publish, run_dry):
    topic = await make_topic(partitions=2)
    await publish(topic, numbered(20), partitions=2)
    once = iter([True])
    handler = Handler(lambda event: failures(event, b"8", b"12") if next(once, False) else None)

    counters = await run_dry(
        topic, handler, Options(batch_size=20, function_response_types=("ReportBatchItemFailures",))
    )

    assert handler.seen == {f"{topic}-0": [*range(10), *range(4, 10)], f"{topic}-1": [*range(10)]}
    assert (counters.partial_failures, counters.invocations, counters.settled) == (1, 2, 20)


async def test_without_report_batch_item_failures_the_answer_is_not_read(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(3))

    counters = await run_dry(topic, Handler(lambda event: failures(event, b"1")), Options())

    assert (counters.partial_failures, counters.settled, counters.executions) == (0, 3, 3)


@pytest.mark.parametrize("answer", ["done", {"batchItemFailures": [{"itemIdentifier": "orders-0-3"}]}, {1, 2}])
async def test_an_answer_that_says_nothing_fails_the_whole_batch(answer, make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(5))
    once = iter([answer])
    handler = Handler(lambda _: next(once, None))

    counters = await run_dry(topic, handler, Options(function_response_types=("ReportBatchItemFailures",)))

    assert handler.seen[f"{topic}-0"] == [*range(5), *range(5)]
    assert (counters.function_errors, counters.settled) == (1, 5)


def raise_on(*values):
    def fault(event):
        if any(value in values for each in values_of(event).values() for value in each):
            raise RuntimeError("poison")

    return fault


@pytest.mark.parametrize("size", [2, 100, 128])
async def test_bisection_isolates_a_poison_within_log2_of_the_batch(size, make_topic, publish, run_dry, committed):
    topic = await make_topic(partitions=2)
    await publish(topic, numbered(size), partitions=2)
    poison = f"{size * 2 // 3}".encode()
    handler, kept = Handler(raise_on(poison)), []

    counters = await run_dry(
        topic, handler, Options(batch_size=size, bisect_batch_on_function_error=True, maximum_retry_attempts=0),
        on_failure=Calls(kept.append),
    )  # fmt: skip

    attempts = handler.attempts_with(poison)
    assert attempts[-1] == 1
    assert len(attempts) <= 1 + math.ceil(math.log2(attempts[0]))
    assert [record.value for group in kept for record in group.records] == [poison]
    assert (counters.settled, counters.given_up, counters.discarded) == (size - 1, 1, 0)
    assert await committed(topic) == size // 2  # past the poison


async def test_without_bisection_a_poison_takes_its_batch_with_it(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(10))
    kept = []

    counters = await run_dry(
        topic, Handler(raise_on(b"4")), Options(maximum_retry_attempts=2), on_failure=Calls(kept.append)
    )

    assert [(group.condition, group.attempts, len(group.records)) for group in kept] == [
        ("RetryAttemptsExhausted", 3, 10)
    ]
    assert "poison" in kept[0].error
    assert (counters.invocations, counters.settled) == (3, 0)


async def test_infinite_retries_with_a_destination_are_ten(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(1))

    counters = await run_dry(topic, Handler(raise_on(b"0")), Options(), on_failure=Calls(lambda _: None))

    assert counters.invocations == 11


async def test_what_is_given_up_without_a_destination_is_discarded_counted_and_said(
    make_topic, publish, run_dry, committed, caplog
):
    topic = await make_topic()
    await publish(topic, numbered(3))

    counters = await run_dry(topic, Handler(raise_on(b"1")), Options(maximum_retry_attempts=0))

    assert (counters.discarded, await committed(topic)) == (3, 3)
    assert f"{topic}-0@0-2: discarded" in caplog.text


async def test_the_failure_topic_gets_the_real_records_and_what_happened(
    make_topic, publish, run_dry, consume_all, kafka
):
    topic, dead = await make_topic(), await make_topic("dead")
    await publish(topic, [b"\xff\x00", None], key=b"k", headers=[("trace", b"\x80")], timestamp_ms=1_700_000_000_000)
    handler = Handler(lambda _: 1 / 0)

    await run_dry(
        topic, handler, Options(maximum_retry_attempts=1), on_failure=FailureTopic(kafka.client_arguments(), dead)
    )

    first, second = await consume_all(dead)
    assert (first.key, first.value, second.value, first.headers[0]) == (b"k", b"\xff\x00", None, ("trace", b"\x80"))
    name, said = second.headers[1]
    assert name == "lambda-failure"
    assert b'"condition": "RetryAttemptsExhausted"' in said
    assert b'"offset": 1' in said
    assert b"ZeroDivisionError" in said


async def test_a_destination_that_fails_is_asked_again_and_nothing_goes_past_it(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(4))
    kept, refusals = [], iter([OSError("full"), OSError("full")])

    def take(group):
        if refusal := next(refusals, None):
            raise refusal
        kept.append(group)

    counters = await run_dry(topic, Handler(raise_on(b"0")), Options(maximum_retry_attempts=0), on_failure=Calls(take))

    assert (len(kept), counters.on_failure_errors, counters.kept_on_failure) == (1, 2, 4)


def test_the_source_topic_is_no_destination(kafka):
    with pytest.raises(OptionsRefused, match="source topic"):
        EventSource(kafka, "a", "g", Handler(), on_failure=FailureTopic(kafka.client_arguments(), "a"))


async def test_records_above_the_age_are_given_up_unseen(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, [b"old"], timestamp_ms=1_700_000_000_000)
    await publish(topic, [b"new"])
    handler, kept = Handler(), []

    counters = await run_dry(topic, handler, Options(maximum_record_age_in_seconds=60), on_failure=Calls(kept.append))

    assert [values_of(event) for event in handler.events] == [{f"{topic}-0": [b"new"]}]
    assert [(group.condition, group.records[0].value) for group in kept] == [("RecordAgeExceeded", b"old")]
    assert counters.expired == 1


async def test_filtered_records_are_skipped_for_good_and_counted(make_topic, publish, run_dry, committed):
    topic = await make_topic()
    await publish(topic, [b'{"risk": %d}' % risk for risk in (10, 80, 20, 90, 30)] + [b"no JSON"])
    handler = Handler()
    criteria = FilterCriteria(('{"value": {"risk": [{"numeric": [">=", 60]}]}}',))

    counters = await run_dry(topic, handler, Options(filter_criteria=criteria))

    assert handler.seen == {f"{topic}-0": [1, 3]}
    assert (counters.filtered, await committed(topic)) == (4, 6)


async def test_an_event_stays_below_six_megabytes(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, [b"x" * 700_000] * 20)
    handler = Handler()

    await run_dry(topic, handler, Options(batch_size=10_000))

    # 700,000 bytes are 933,336 characters of base64: six fit.
    assert [len(event["records"][f"{topic}-0"]) for event in handler.events[:1]] == [6]
    assert handler.seen[f"{topic}-0"] == [*range(20)]


async def test_the_three_starting_positions(make_topic, publish, kafka, prefix):
    topic = await make_topic()
    for i, value in enumerate((b"early", b"middle", b"late")):
        await publish(topic, [value], timestamp_ms=1_700_000_000_000 + i * 1000)

    async def seen_from(position, timestamp=None):
        handler = Handler()
        options = Options(starting_position=position, starting_position_timestamp=timestamp)
        source = EventSource(kafka, topic, f"{prefix}{position}", handler, options)
        await source.run(asyncio.Event(), is_once=True)
        return handler.seen.get(f"{topic}-0", [])

    assert await seen_from("TRIM_HORIZON") == [0, 1, 2]
    assert await seen_from("AT_TIMESTAMP", 1_700_000_001.0) == [1, 2]
    assert await seen_from("LATEST") == []
    await publish(topic, [b"after"])
    assert await seen_from("LATEST") == [3]  # LATEST was that first moment: a restart skips nothing


async def test_a_topic_that_is_not_there_is_said(run_dry, prefix):
    with pytest.raises(TopicMissing, match=f"{prefix}none"):
        await run_dry(f"{prefix}none", Handler())


async def test_a_time_out_fails_the_batch_and_the_next_attempt_gets_it(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, numbered(3))
    released, slow = threading.Event(), iter([True])
    handler = Handler(lambda _: next(slow, False) and released.wait(30))

    counters = await run_dry(topic, InProcess(handler, timeout_s=0.05))
    released.set()

    assert counters.time_outs >= 1  # on a busy machine the next attempt may take 50 ms, too
    assert (counters.settled, counters.executions) == (3, 3 + 3 * counters.time_outs)


async def test_one_stuck_partition_holds_up_no_other(make_topic, publish, kafka, prefix):
    topic = await make_topic(partitions=2)
    await publish(topic, numbered(200), partitions=2)
    stop, handler = asyncio.Event(), Handler(lambda event: failures(event, b"0"))
    loop = asyncio.get_running_loop()

    def until_the_other_is_done(event, context):
        answer = handler(event, context)
        if 99 in handler.seen[f"{topic}-1"] and handler.seen[f"{topic}-0"]:
            loop.call_soon_threadsafe(stop.set)
        return answer

    options = Options(batch_size=20, function_response_types=("ReportBatchItemFailures",))
    source = EventSource(kafka, topic, f"{prefix}group", until_the_other_is_done, options, backoff=AT_ONCE)
    await source.run(stop)

    assert handler.seen[f"{topic}-1"] == [*range(100)]
    assert max(handler.seen[f"{topic}-0"]) < 20


async def test_invocations_run_at_once_up_to_the_concurrency_and_never_for_one_partition(make_topic, publish, run_dry):
    topic = await make_topic(partitions=3)
    await publish(topic, numbered(90), partitions=3)
    two, met, lock, under_way, together = threading.Barrier(2), threading.Event(), threading.Lock(), [], []

    def handler(event, _context):
        with lock:
            under_way.append(set(event["records"]))
            together.append(list(under_way))
        if not met.is_set():  # the first waits for the second to be under way
            two.wait(600)  # a thread outlives a test that failed
            met.set()
        with lock:
            under_way.remove(set(event["records"]))

    counters = await run_dry(topic, handler, Options(batch_size=10), concurrency=2)

    assert max(map(len, together)) == 2
    assert all(not set.intersection(*now) for now in together if len(now) == 2)
    assert counters.settled == 90


async def test_a_stop_ends_a_long_pause_at_once_and_leaves_what_failed_to_the_next(
    make_topic, publish, kafka, prefix, committed
):
    topic = await make_topic()
    await publish(topic, numbered(5))
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def handler(event, _context):
        loop.call_soon_threadsafe(stop.set)
        return failures(event, b"3")

    options = Options(function_response_types=("ReportBatchItemFailures",))
    source = EventSource(kafka, topic, f"{prefix}group", handler, options, backoff=Backoff(3_600, 3_600))
    await source.run(stop)

    assert await committed(topic) == 3


async def test_markers_of_transactions_are_no_lag(make_topic, kafka, run_dry, committed):
    topic = await make_topic()
    async with AIOKafkaProducer(**kafka.client_arguments(), transactional_id=topic) as producer:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"seen", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"aborted", partition=0)
        await producer.abort_transaction()
    handler = Handler()

    await run_dry(topic, handler)

    assert handler.seen == {f"{topic}-0": [0]}
    assert await committed(topic) == 4


async def test_a_second_member_takes_its_share_and_nothing_is_done_twice(make_topic, publish, kafka, prefix, committed):
    topic = await make_topic(partitions=4)
    await publish(topic, numbered(400), partitions=4)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    begun, both = asyncio.Event(), Handler()
    second_has_some = threading.Event()

    def first(event, context):
        both(event, context)
        loop.call_soon_threadsafe(begun.set)
        second_has_some.wait(0.02)  # slow enough for the other to join in the middle

    def second(event, context):
        both(event, context)
        second_has_some.set()

    def source(handler):
        return EventSource(kafka, topic, f"{prefix}group", handler, Options(batch_size=5), backoff=AT_ONCE)

    async with asyncio.TaskGroup() as members:
        members.create_task(source(first).run(stop))
        await begun.wait()
        members.create_task(source(second).run(stop))
        while sum(map(len, both.seen.values())) < 400 or not second_has_some.is_set():
            if sum(map(len, both.seen.values())) >= 400:  # the first was through before the other had joined
                await publish(topic, numbered(4), partitions=4)
            await asyncio.sleep(0.05)
        stop.set()

    assert second_has_some.is_set()
    assert all(offsets == list(range(len(offsets))) for offsets in both.seen.values())
    assert [await committed(topic, p) for p in range(4)] == [len(both.seen[f"{topic}-{p}"]) for p in range(4)]


async def test_records_delivered_twice_by_a_producer_are_two_records(make_topic, publish, run_dry):
    topic = await make_topic()
    await publish(topic, [b"same", b"same"])
    handler = Handler()

    await run_dry(topic, handler)

    assert handler.seen == {f"{topic}-0": [0, 1]}


async def test_a_failure_topic_that_is_not_there_is_said_at_the_start(make_topic, run_dry, kafka, prefix):
    topic = await make_topic()

    with pytest.raises(TopicMissing, match=f"{prefix}dead"):
        await run_dry(topic, Handler(), on_failure=FailureTopic(kafka.client_arguments(), f"{prefix}dead"))
