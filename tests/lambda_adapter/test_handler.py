"""One invocation from its event to its response, and what it leaves in the table, on the bus and in dead letters."""

import io
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from lambda_adapter import handler
from lambda_adapter.batch import EventRefused
from lambda_adapter.dead_letters import DeadLetterUndelivered
from lambda_adapter.settings import Settings, SettingsRefused
from tests.lambda_adapter.samples import NOW_MS, event, prediction


@pytest.fixture
def logged(monkeypatch):
    """All that the function's logger writes; its stream is the one there was at its import."""
    stream = io.StringIO()
    monkeypatch.setattr(handler.logger.registered_handler, "stream", stream)
    return stream.getvalue


ALL_DONE: dict[str, Any] = {"batchItemFailures": []}


def test_a_change_becomes_one_insight_and_one_alert(adapter, table, bus):
    assert adapter.handle(event(prediction()), None) == ALL_DONE

    (item,) = insights(table)
    assert item["entity_id"] == "alert_leaf-012/17_3:1000:0"
    assert item["timestamp"] == "2026-01-01T00:00:00.000Z"
    assert (item["prediction_type"], item["related_entity"]) == ("latency_spike", "leaf-012/17")
    assert (float(item["risk_score"]), float(item["confidence"])) == (85.5, 0.9312)
    assert (item["model_used"], item["model_version"]) == ("xgboost", "20261123-0123456789ab")
    assert item["expires_at"] == NOW_MS // 1000 + 30 * 86_400
    assert item["recommendations"]
    (detail,) = bus.details
    assert detail["alert_id"] == f"leaf-012/17@{NOW_MS}_8"
    assert detail["explanation"] == item["explanation"]


def test_a_batch_that_comes_again_adds_nothing(adapter, table, bus):
    batch = event(prediction(), prediction(change="worsened", risk=95.0, src="3:1001:0"))
    for _ in range(3):
        assert adapter.handle(batch, None) == ALL_DONE

    assert len(insights(table)) == 2
    assert [detail["alert_id"][-1] for detail in bus.details] == ["8", "9"]


def test_only_opened_and_worsened_from_80_are_alerts(adapter, table, bus):
    low = prediction(stream_id="a/1", risk=79.99, src="0:1:0")
    eased = prediction(stream_id="a/2", change="eased", src="0:2:0")
    closed = prediction(stream_id="a/3", change="closed", risk=10.0, src="0:3:0")
    at_80 = prediction(stream_id="a/4", risk=80, src="0:4:0")
    adapter.handle(event(low, eased, closed, at_80), None)

    assert len(insights(table)) == 4
    assert [detail["stream_id"] for detail in bus.details] == ["a/4"]


def test_a_prediction_without_change_or_episode_costs_no_call(adapter, table, bus):
    adapter.insights = adapter.alerts = None  # type: ignore[assignment]  # any call would raise
    silent = prediction(change="", episode=None, risk=3.0)
    del silent["change"]
    batch = event(silent, prediction(change="", episode=None))
    adapter.alerts = SimpleNamespace(publish=lambda alerts: [])  # type: ignore[assignment]

    assert adapter.handle(batch, None) == ALL_DONE


def test_an_open_episode_is_seen_every_15_minutes_and_costs_no_call_between(adapter, table):
    minute = 60_000
    for minutes in range(0, 46, 5):
        adapter.handle(event(prediction(change="", ts=NOW_MS + minutes * minute, src=f"0:{minutes}:0")), None)
        assert adapter.insights.last_seen(f"leaf-012/17@{NOW_MS}") == (
            NOW_MS + minutes // 15 * 15 * minute if minutes >= 15 else None
        )
    assert insights(table) == []
    adapter.insights._table = None  # any call would raise
    assert adapter.handle(event(prediction(change="", ts=NOW_MS + 46 * minute)), None) == ALL_DONE


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"value": "?not base64?"}, "not_base64"),
        ({"value": "AAA"}, "not_base64"),
        ({"value": "böse"}, "not_base64"),
        ({"value": None}, "tombstone"),
        (b"", "not_json"),
        (b"{", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[" * 30_000, "not_json"),
        (b"x" * 70_000, "too_large"),
        (b"[]", "wrong_type"),
        (b"{}", "wrong_type"),
        (prediction(v=2), "unknown_version"),
        (prediction(v="1"), "unknown_version"),
        (prediction(risk=float("nan")), "out_of_range"),
        (prediction(risk=float("inf")), "out_of_range"),
        (prediction(risk=100.5), "out_of_range"),
        (prediction(risk="85"), "wrong_type"),
        (prediction(confidence=-0.1), "out_of_range"),
        (prediction(ts=NOW_MS * 1000), "out_of_range"),
        (prediction(ts=1.5), "wrong_type"),
        (prediction(stream_id=""), "wrong_type"),
        (prediction(stream_id="a\u0000/1"), "wrong_type"),
        (prediction(stream_id="x" * 300), "wrong_type"),
        (prediction(src="3:1000"), "wrong_type"),
        (prediction(change="exploded"), "wrong_type"),
        (prediction(episode=None), "wrong_type"),
        ({**prediction(), "class": "gremlins"}, "wrong_type"),
        (prediction(drivers=[{"feature": "a", "contribution": float("nan")}]), "out_of_range"),
        ({"stream_id": "a/1", "ts": 1, "src": "0:0:0", "features": {}}, "wrong_type"),
        ({"stream_id": "a/1", "ts": 1, "src": "0:0:0", "features": {"utilization": float("inf")}}, "out_of_range"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_retry_mends_is_a_dead_letter_and_the_batch_goes_on(adapter, table, bus, letters, value, reason):
    assert adapter.handle(event(value, prediction()), None) == ALL_DONE

    assert letters.reasons == {0: reason}
    assert len(insights(table)) == len(bus.entries) == 1


def test_a_dead_letter_holds_the_bytes_that_came(adapter, letters):
    adapter.handle(event(b"{nothing", {"value": "??", "key": None}, {"value": None, "key": "=="}), None)

    assert [(letter.record.key, letter.record.value) for letter in letters.sent] == [
        (b"leaf-012", b"{nothing"),
        (None, b"??"),
        (b"==", None),
    ]


@pytest.mark.parametrize(
    "quirk",
    [
        {"headers": [{"trace": [-1, -128, 127, 0]}, {"": []}, {"trace": [255]}]},
        {"headers": None},
        {"headers": "none"},
        {"key": None},
        {"key": "?"},
        {"key": "//79"},
        {"timestampType": "LOG_APPEND_TIME", "later": {"field": 1}},
    ],
)
def test_headers_and_keys_of_any_bytes_do_no_harm(adapter, table, letters, quirk):
    batch = event(prediction())
    batch["records"]["linkcast.predictions-0"][0] |= quirk

    assert adapter.handle(batch, None) == ALL_DONE
    assert (len(insights(table)), letters.sent) == (1, [])


def test_no_text_of_telemetry_gets_into_a_log_or_a_header(adapter, letters, logged):
    adapter.handle(
        event({**prediction(stream_id="secret-host/1"), "class": "secret-class", "features": {"secret": "x"}}), None
    )

    assert "wrong_type" in logged()
    assert "secret" not in logged()
    assert "secret" not in letters.sent[0].why.detail


def test_an_error_nobody_foresaw_is_reported_without_its_words(adapter, logged):
    def quotes(change, *_rest):
        raise RuntimeError(f"secret {change.stream_id}")

    adapter.insights.put = quotes

    assert adapter.handle(event(prediction(stream_id="secret/1")), None)["batchItemFailures"]
    assert "RuntimeError" in logged()
    assert "test_handler.py" in logged()
    assert "secret" not in logged()


def test_a_change_is_explained_by_the_language_model_where_there_is_one(adapter, table, bus):
    left_ms = []

    def enrich(change, explanation, left):
        left_ms.append(left)
        return explanation.model_copy(update={"source": "llm", "text": "More is said."})

    adapter.enrichment = SimpleNamespace(enrich=enrich, outcomes=Counter(answered=1), tokens=Counter({"in": 9}))
    adapter.handle(event(prediction()), SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000))

    assert [(item["explained_by"], item["explanation"]) for item in insights(table)] == [("llm", "More is said.")]
    assert bus.details[0]["explanation"] == "More is said."
    assert left_ms == [45_000]  # the rest is for alerts and dead letters
    assert not adapter.enrichment.outcomes


@pytest.mark.parametrize("records", [{}, {"t-0": []}], ids=["no partition", "no record"])
def test_an_empty_batch_gets_an_empty_response(adapter, records):
    assert adapter.handle({"eventSource": "SelfManagedKafka", "records": records}, None) == ALL_DONE


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"Records": [{"eventSource": "aws:sqs"}]}, "event source None"),
        ({"eventSource": "aws:sqs", "records": {}}, "event source 'aws:sqs'"),
        ([], "event source None"),
        ({"eventSource": "aws:kafka"}, "no 'records'"),
        ({"eventSource": "aws:kafka", "records": [1]}, "no 'records'"),
        ({"eventSource": "aws:kafka", "records": {"t-0": [{"topic": "t"}]}}, "without topic, partition and offset"),
    ],
)
def test_an_event_of_another_kind_is_an_error_that_says_so(adapter, odd, words):
    with pytest.raises(EventRefused, match=words):
        adapter.handle(odd, None)


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutItem")


@pytest.mark.parametrize(
    "error",
    [
        client_error("ProvisionedThroughputExceededException"),
        client_error("ThrottlingException"),
        client_error("InternalServerError"),
        client_error("ExpiredTokenException"),
        client_error("ResourceNotFoundException"),
        ConnectTimeoutError(endpoint_url="http://x"),
    ],
    ids=str,
)
def test_what_a_retry_may_mend_is_reported_and_its_partition_stops_there(adapter, table, bus, error):
    run, put = [], adapter.insights.put

    def fails_for_the_second(change: Any, *rest: Any) -> bool:
        run.append(change.src)
        if change.src == "0:1:0":
            raise error
        return put(change, *rest)

    adapter.insights.put = fails_for_the_second  # type: ignore[method-assign]
    first = event(*(prediction(src=f"0:{i}:0", stream_id=f"a/{i}") for i in range(4)), partition=0, first=100)
    other = event(prediction(src="1:0:0", stream_id="b/0"), partition=1, first=7)
    first["records"] |= other["records"]

    # The exact response: for AWS anything but "topic-partition" and a whole number is a batch that failed whole.
    assert adapter.handle(first, None) == {
        "batchItemFailures": [{"itemIdentifier": {"partition": "linkcast.predictions-0", "offset": 101}}]
    }
    assert run == ["0:0:0", "0:1:0", "1:0:0"]
    assert len(insights(table)) == len(bus.entries) == 2


def test_a_table_that_is_not_there_is_reported(aws, adapter, table):
    table.delete()

    assert adapter.handle(event(prediction(), first=5), None) == {
        "batchItemFailures": [{"itemIdentifier": {"partition": "linkcast.predictions-0", "offset": 5}}]
    }


def test_a_dead_letter_that_is_not_delivered_comes_again(adapter, letters):
    letters.fails.append(DeadLetterUndelivered("no broker"))
    batch = event(prediction(), b"poison", first=10)

    assert adapter.handle(batch, None) == {
        "batchItemFailures": [{"itemIdentifier": {"partition": "linkcast.predictions-0", "offset": 11}}]
    }
    assert adapter.handle(batch, None) == ALL_DONE
    assert letters.reasons == {11: "not_json"}


def test_a_dead_letter_behind_a_refused_alert_waits_for_its_turn(adapter, bus, letters):
    bus.answer = lambda entries: {"Entries": [{"ErrorCode": "InternalFailure"} for _ in entries]}
    batch = event(b"first", prediction(), b"poison")

    assert adapter.handle(batch, None)["batchItemFailures"][0]["itemIdentifier"]["offset"] == 1
    assert letters.reasons == {0: "not_json"}
    bus.answer = None
    assert adapter.handle(event(prediction(), b"poison", first=1), None) == ALL_DONE
    assert letters.reasons == {0: "not_json", 2: "not_json"}
    assert len(bus.entries) == 1


def test_an_invocation_that_runs_out_of_time_reports_what_it_has_not_begun(adapter, table):
    left = iter([60_000, 60_000, 14_000, 13_000, 12_000])
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: next(left))
    batch = event(*(prediction(src=f"0:{i}:0", stream_id=f"a/{i}") for i in range(5)))

    assert adapter.handle(batch, context) == {
        "batchItemFailures": [{"itemIdentifier": {"partition": "linkcast.predictions-0", "offset": 2}}]
    }
    assert len(insights(table)) == 2


def test_ten_thousand_records_are_one_batch(adapter, table):
    silent = prediction(change="", episode=None)
    batch = event(*[silent] * 9_999, prediction())

    assert adapter.handle(batch, None) == ALL_DONE
    assert len(insights(table)) == 1


CONTEXT = SimpleNamespace(
    function_name="linkcast-adapter",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:123456789012:function:linkcast-adapter",
    aws_request_id="1",
    get_remaining_time_in_millis=lambda: 60_000,
)


def test_the_function_wires_itself_from_its_environment(aws, table, monkeypatch, capsys):
    aws.client("events").create_event_bus(Name="wired")
    for name, value in {"TABLE": table.name, "BUS": "wired", "DEAD_TOPIC": "d", "BOOTSTRAP": "b:9098"}.items():
        monkeypatch.setenv(f"LINKCAST_{name}", value)
    handler.adapter.cache_clear()

    assert handler.lambda_handler(event(prediction()), CONTEXT) == ALL_DONE

    assert len(insights(table)) == 1
    figures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counted = {name: value for figure in figures for name, value in figure.items() if isinstance(value, list)}
    assert (counted["Records"], counted["Insights"], counted["Alerts"]) == ([1.0], [1.0], [1.0])
    assert {figure["_aws"]["CloudWatchMetrics"][0]["Namespace"] for figure in figures} == {"linkcast"}


@pytest.mark.filterwarnings("ignore:No application metrics to publish")
def test_the_function_without_its_environment_says_what_to_set(aws, monkeypatch):
    for name in ("TABLE", "BUS", "DEAD_TOPIC", "BOOTSTRAP"):
        monkeypatch.delenv(f"LINKCAST_{name}", raising=False)
    handler.adapter.cache_clear()

    with pytest.raises(SettingsRefused, match="Set them in the environment of the function"):
        handler.lambda_handler(event(prediction()), CONTEXT)


def test_a_missing_setting_is_named_with_all_the_others():
    with pytest.raises(SettingsRefused, match="LINKCAST_TABLE, LINKCAST_BUS, LINKCAST_DEAD_TOPIC, LINKCAST_BOOTSTRAP"):
        Settings.from_environment({"LINKCAST_TABLE": " "})


@pytest.mark.parametrize("risk", ["high", "nan", "-1", "101"])
def test_an_alert_risk_that_is_none_is_refused(risk):
    given = dict.fromkeys(("LINKCAST_TABLE", "LINKCAST_BUS", "LINKCAST_DEAD_TOPIC", "LINKCAST_BOOTSTRAP"), "x")
    with pytest.raises(SettingsRefused, match=f"LINKCAST_ALERT_RISK='{risk}'"):
        Settings.from_environment(given | {"LINKCAST_ALERT_RISK": risk})


def insights(table: Any) -> list[dict[str, Any]]:
    return [item for item in table.scan()["Items"] if item.get("entity_type") == "insight"]
