"""Insights: one item whoever writes it, and readers that see all of it and nothing that has expired."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter.explanations import explain
from lambda_adapter.insights import KEPT_S, Insights, PageRepeated, item_of, timestamp
from lambda_adapter.records import Change
from tests.lambda_adapter.samples import NOW_MS, prediction

HOUR, DAY = 3_600_000, 86_400_000


def write(insights, *, stream_id="leaf/1", ts=NOW_MS, number=0, now_ms=NOW_MS):
    change = Change.model_validate(prediction(stream_id=stream_id, ts=ts, src=f"0:{number}:0"))
    return insights.put(change, explain(change), now_ms)


def every(read, **arguments):
    """All pages of a reader, as the numbers of their insights; each page but the last is full."""
    found, token = [], None
    while True:
        page = read(token=token, **arguments)
        found += [int(item["entity_id"].split(":")[-2]) for item in page.items]
        token = page.token
        if token is None:
            return found
        assert len(page.items) == arguments["limit"]
        token = json.loads(json.dumps(token))  # a dashboard carries it in a URL


def test_one_insight_whoever_writes_it(table):
    insights = Insights(table)

    assert [write(insights), write(insights), write(Insights(table))] == [True, False, False]
    assert write(insights, number=1)
    assert table.scan()["Count"] == 2


def test_two_processes_that_contend_for_the_same_insights_write_each_once(table, aws_url):
    script = (
        "import boto3, json, sys\n"
        "from tests.lambda_adapter.test_insights import write\n"
        "from lambda_adapter.insights import Insights\n"
        "insights = Insights(boto3.resource('dynamodb').Table(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(json.dumps([write(insights, number=n) for n in range(60)]))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, table.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 2
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    first, second = (json.loads(process.communicate()[0]) for process in processes)

    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * 60
    assert table.scan()["Count"] == 60


def test_two_handlers_at_once_alert_once(adapter, table, bus):
    from lambda_adapter.alerts import Alerts
    from lambda_adapter.handler import Adapter
    from lambda_adapter.outbox import Outbox
    from tests.lambda_adapter.samples import BUS, event

    def handler():
        outbox = Outbox(table, bus, clock=lambda: NOW_MS, wait=lambda _s: None)
        return Adapter(
            insights=Insights(table), alerts=Alerts(table, outbox, bus=BUS, clock=lambda: NOW_MS),
            dead_letters=adapter.dead_letters, scorer=adapter.scorer, enrichment=None, clock=lambda: NOW_MS,
        )  # fmt: skip

    batch = event(*(prediction(stream_id=f"n{i}/1", src=f"0:{i}:0") for i in range(20)))
    with ThreadPoolExecutor(2) as threads:
        for held_up in threads.map(lambda h: h.handle(batch, None)["batchItemFailures"], [handler(), handler()]):
            assert len(held_up) <= 1
    assert handler().handle(batch, None) == {"batchItemFailures": []}

    streams = [detail["stream_id"] for detail in bus.details]
    assert sorted(streams) == sorted(f"n{i}/1" for i in range(20))


def test_a_stream_is_read_newest_first_page_by_page(table):
    insights = Insights(table)
    for n in range(7):
        write(insights, ts=NOW_MS - n * HOUR, number=n)
    write(insights, stream_id="leaf/2", number=99)

    assert every(insights.by_stream, stream_id="leaf/1", now_ms=NOW_MS, limit=3) == list(range(7))
    assert every(insights.by_stream, stream_id="leaf/1", now_ms=NOW_MS, since_ms=NOW_MS - 2 * HOUR, limit=3) == [
        0,
        1,
        2,
    ]


def test_time_is_read_newest_first_over_days_page_by_page(table):
    insights = Insights(table)
    for n in range(9):  # three a day, over days of which one is empty
        day = (0, 1, 3)[n // 3]
        write(insights, stream_id=f"leaf/{n}", ts=NOW_MS - day * DAY - n * HOUR, number=n)

    for limit in (1, 2, 3, 4, 9, 50):
        assert every(insights.by_time, now_ms=NOW_MS, since_ms=NOW_MS - 5 * DAY, limit=limit) == list(range(9)), limit
    assert every(insights.by_time, now_ms=NOW_MS, since_ms=NOW_MS - 4 * HOUR, limit=2) == [0, 1, 2]


def test_what_has_expired_is_read_by_nobody_though_the_table_still_holds_it(table):
    insights = Insights(table)
    later = NOW_MS + KEPT_S * 1000
    for n in range(6):  # every other one was written a second later, and is alive
        write(insights, ts=NOW_MS + n, number=n, now_ms=NOW_MS + 1000 * (n % 2))

    assert every(insights.by_stream, stream_id="leaf/1", now_ms=later, limit=2) == [5, 3, 1]
    assert every(insights.by_time, since_ms=0, now_ms=later, limit=2) == [5, 3, 1]
    assert every(insights.by_time, since_ms=0, now_ms=later + 1000, limit=2) == []


@pytest.mark.parametrize("alive", [0, 1, 2], ids=["all expired", "one of two", "none expired"])
@pytest.mark.parametrize("reader", ["by_stream", "by_time"])
def test_a_table_that_ignores_where_to_go_on_is_an_error_and_no_endless_loop(alive, reader):
    calls = iter(range(20))

    def query(*, Limit, **_):
        next(calls)  # raises where the loop has no end
        items = [{"entity_id": f"alert_leaf/1_0:{n}:0"} for n in range(Limit)]
        last = items[-1] | {"timestamp": timestamp(NOW_MS - Limit), "day": "2025-12-31"}  # the newest come first
        return {"Items": items[:alive], "LastEvaluatedKey": last}

    insights = Insights(SimpleNamespace(name="insights", query=query))
    of = {"stream_id": "leaf/1"} if reader == "by_stream" else {"since_ms": 0}
    with pytest.raises(PageRepeated, match=f"table insights, index {reader}"):
        every(getattr(insights, reader), now_ms=NOW_MS, limit=2, **of)


def test_alerts_and_heartbeats_are_in_no_index(adapter, table):
    from tests.lambda_adapter.samples import event

    adapter.handle(event(prediction(), prediction(change="", ts=NOW_MS + HOUR, src="0:1:0")), None)

    assert table.scan()["Count"] == 4  # insight, claim, node's window, episode
    assert table.scan(IndexName="by_time")["Count"] == table.scan(IndexName="by_stream")["Count"] == 1


@given(risk=st.floats(0, 100), confidence=st.floats(0, 1))
def test_any_score_becomes_a_number_that_dynamodb_takes(risk, confidence):
    from boto3.dynamodb.types import TypeSerializer

    change = Change.model_validate(prediction(risk=risk, confidence=confidence))
    item = item_of(change, explain(change), NOW_MS)

    TypeSerializer().serialize(item)  # raises for a float, and for digits that would get lost
    assert float(item["risk_score"]) == pytest.approx(risk, abs=0.00501)


@given(a=st.integers(0, 4_102_444_800_000), b=st.integers(0, 4_102_444_800_000))
def test_timestamps_sort_as_time(a, b):
    assert (timestamp(a) < timestamp(b)) == (a < b)
