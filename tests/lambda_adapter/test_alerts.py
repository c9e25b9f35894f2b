"""Alerts: none lost, none twice, one for a whole node."""

from itertools import pairwise
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter.alerts import Alert, Alerts
from lambda_adapter.explanations import explain
from lambda_adapter.outbox import LEASE_MS, PUBLISHED_WITHIN_MS, EntryHeld, EntryRefused, Outbox, _calls, outbox_key
from lambda_adapter.records import Change
from tests.lambda_adapter.samples import BUS, NOW_MS, Bus, event, prediction

MINUTE = 60_000
ALL_DONE = {"batchItemFailures": []}


def change(**fields):
    return Change.model_validate(prediction(**fields))


def alert(**fields):
    said = change(**fields)
    return Alert(said, explain(said))


def alerts_of(table, events, *, now_ms=NOW_MS, wait=lambda _s: None):
    outbox = Outbox(table, events, clock=lambda: now_ms, wait=wait)
    return Alerts(table, outbox, bus=BUS, clock=lambda: now_ms)


def ports(n, *, node="leaf-012", ts=NOW_MS, risk=85.0, kind="opened", first=0):
    """Predictions of n ports of a node, all of the episode that began at NOW_MS."""
    return [
        prediction(
            stream_id=f"{node}/{i}", ts=ts, risk=risk, change=kind, src=f"0:{ts}:{i}", episode=f"{node}/{i}@{NOW_MS}"
        )
        for i in range(first, first + n)
    ]


def test_an_episode_is_alerted_once_a_band(adapter, bus):
    bands = [("opened", 85.0), ("worsened", 92.0), ("worsened", 88.0), ("worsened", 99.0)]
    for i, (kind, risk) in enumerate(bands):
        adapter.handle(event(prediction(change=kind, risk=risk, src=f"0:{i}:0")), None)

    assert [(detail["change"], detail["risk_score"]) for detail in bus.details] == [
        ("opened", 85.0),
        ("worsened", 92.0),
    ]


def test_a_language_model_s_score_wakes_nobody(adapter, table, bus):
    adapter.handle(event(prediction(model="bedrock:some-model", risk=99.0)), None)

    assert bus.entries == []
    assert [item["model_used"] for item in table.scan()["Items"] if "model_used" in item] == ["bedrock"]


def test_a_refused_entry_has_its_record_come_again_and_the_others_are_not_repeated(adapter, bus):
    refuse = {"leaf/2", "leaf/3"}
    by_stream = lambda entry: any(f'"{stream}"' in entry["Detail"] for stream in refuse)  # noqa: E731
    bus.answer = lambda entries: {
        "Entries": [{"ErrorCode": "ThrottlingException"} if by_stream(entry) else {} for entry in entries]
    }
    batch = ports(5, node="leaf")

    assert adapter.handle(event(*batch), None) == {
        "batchItemFailures": [{"itemIdentifier": {"partition": "linkcast.predictions-0", "offset": 2}}]
    }
    bus.answer = None
    assert adapter.handle(event(*batch[2:], first=2), None) == ALL_DONE
    assert sorted(detail["stream_id"] for detail in bus.details) == [f"leaf/{i}" for i in range(5)]


def test_a_call_holds_ten_entries_at_most(adapter, bus):
    adapter.handle(event(*(prediction(stream_id=f"leaf-{i}/1", src=f"0:{i}:0") for i in range(25))), None)

    assert (bus.calls, len(bus.entries)) == (3, 25)


def test_a_call_holds_256_kib_of_alerts_at_most(table, bus):
    # Ten nodes of 64 ports whose names are as long as they may be, in signs that JSON writes as six: 38 KB an alert.
    nodes = [f"{i}{'ü' * 96}" for i in range(10)]

    opened = [Change.model_validate(port) for node in nodes for port in ports(64, node=node)]

    assert not any(alerts_of(table, bus).publish([Alert(change, explain(change)) for change in opened]))
    assert sorted(detail["node"] for detail in bus.details) == nodes
    assert bus.calls == 2


@given(st.lists(st.integers(1, 4) | st.integers(60_000, 262_143), max_size=40))
def test_calls_hold_all_entries_in_order_and_as_many_as_fit(sizes):
    entries = {str(i): {"Detail": "x" * size} for i, size in enumerate(sizes)}

    calls = [list(call) for call in _calls(entries)]

    assert [entry_id for call in calls for entry_id in call] == list(entries)
    of = [[sizes[int(entry_id)] for entry_id in call] for call in calls]
    assert all(len(call) <= 10 and sum(call) < 256 * 1024 for call in of)
    assert all(len(call) == 10 or sum(call) + after[0] >= 256 * 1024 for call, after in pairwise(of))


def test_an_alert_that_no_call_can_hold_is_a_dead_letter_and_holds_up_nothing(adapter, bus, letters, monkeypatch):
    # No field of a prediction is long enough for that; one that a later release adds may be.
    texts = {"long": "x" * 256 * 1024}
    monkeypatch.setattr(
        "lambda_adapter.handler.explain",
        lambda change: explain(change).model_copy(update={"text": texts.get(change.node, "")}),
    )

    batch = [prediction(stream_id="long/1"), prediction(stream_id="leaf/1", src="0:1:0")]
    assert adapter.handle(event(*batch), None) == ALL_DONE

    assert [detail["stream_id"] for detail in bus.details] == ["leaf/1"]
    assert [(letter.record.offset, letter.why.reason) for letter in letters.sent] == [(0, "too_large")]


def test_a_whole_leaf_is_one_incident_and_64_insights(adapter, table, bus):
    assert adapter.handle(event(*ports(64)), None) == ALL_DONE

    (detail,) = bus.details
    assert bus.entries[0]["DetailType"] == "Node incident predicted"
    assert (detail["node"], detail["ports_opened"], len(detail["ports"])) == ("leaf-012", 64, 64)
    assert sum(item.get("entity_type") == "insight" for item in table.scan()["Items"]) == 64


def test_seven_ports_are_seven_alerts_and_the_eighth_makes_them_an_incident(adapter, bus):
    for i in range(12):
        adapter.handle(event(*ports(1, first=i)), None)

    kinds = [entry["DetailType"] for entry in bus.entries]
    assert kinds == ["Link failure predicted"] * 7 + ["Node incident predicted"]


def test_ports_of_an_incident_that_worsen_later_belong_to_it(adapter, bus):
    adapter.handle(event(*ports(64, risk=65.0)), None)
    assert bus.entries == []  # opened below the risk of an alert
    adapter.handle(event(*ports(64, ts=NOW_MS + 20 * MINUTE, risk=95.0, kind="worsened")), None)

    assert [entry["DetailType"] for entry in bus.entries] == ["Node incident predicted"]


def test_a_replay_counts_no_port_twice(adapter, bus):
    for _ in range(3):
        adapter.handle(event(*ports(7)), None)

    assert [entry["DetailType"] for entry in bus.entries] == ["Link failure predicted"] * 7


def test_a_node_of_more_ports_than_an_item_holds_is_an_incident_all_the_same(adapter, bus, monkeypatch):
    monkeypatch.setattr("lambda_adapter.alerts.PORTS_COUNTED_MAX", 20)

    assert adapter.handle(event(*ports(30)), None) == ALL_DONE
    assert adapter.handle(event(*ports(5, first=30)), None) == ALL_DONE
    assert [detail["ports_opened"] for detail in bus.details] == [20]


def test_an_alert_whose_lambda_died_behind_the_insight_is_sent_by_the_next_try(adapter, bus):
    publish = adapter.alerts.publish

    def killed(_alerts):
        raise SystemExit  # as a time-out would end it: nothing behind runs

    adapter.alerts.publish = killed
    with pytest.raises(SystemExit):
        adapter.handle(event(prediction()), None)
    adapter.alerts.publish = publish

    assert adapter.handle(event(prediction()), None) == ALL_DONE
    assert len(bus.entries) == 1


def test_an_alert_whose_lambda_died_behind_its_claim_is_sent_when_the_claim_lapses(adapter, bus, clock):
    put_events = bus.put_events

    def killed(**_entries):
        raise SystemExit

    bus.put_events = killed
    with pytest.raises(SystemExit):
        adapter.handle(event(prediction()), None)
    bus.put_events = put_events

    assert adapter.handle(event(prediction()), None) == ALL_DONE
    assert len(bus.entries) == 1
    assert clock[0] - NOW_MS == LEASE_MS  # it waited for that, and no longer


def test_an_alert_that_another_lambda_keeps_holding_has_its_record_come_again(table, bus):
    Outbox(table, bus, clock=lambda: NOW_MS + 60 * MINUTE)._claim(f"leaf-012/17@{NOW_MS}_8")
    ours = alerts_of(table, bus)

    (error,) = ours.publish([alert()])

    assert isinstance(error, EntryHeld)
    assert bus.entries == []


def test_an_alert_whose_claim_grew_old_beside_a_slow_one_is_not_sent_on_a_lapsed_lease(table, bus, clock):
    """Another Lambda may claim it from then on, and both would send it."""
    sent_at = []

    def wait(seconds):
        clock[0] += int(seconds * 1000)

    def put_events(**entries):
        sent_at.append(clock[0])
        return Bus.put_events(bus, **entries)

    outbox = Outbox(table, SimpleNamespace(put_events=put_events), clock=lambda: clock[0], wait=wait)
    claim = outbox._claim

    def slow(entry_id):
        claimed = claim(entry_id)
        if clock[0] == NOW_MS:
            clock[0] += LEASE_MS - PUBLISHED_WITHIN_MS + 1
        return claimed

    outbox._claim = slow

    assert outbox.publish({"a": {"Detail": "{}"}}) == {}
    assert sent_at == [NOW_MS + LEASE_MS]


def test_an_alert_that_was_sent_and_could_not_be_marked_is_marked_and_not_sent_again(adapter, table, bus):
    outbox = adapter.alerts._outbox
    settle = outbox._settle

    def throttled(_entry_id, _is_refused):
        raise ClientError({"Error": {"Code": "ThrottlingException"}}, "UpdateItem")

    outbox._settle = throttled
    assert adapter.handle(event(prediction()), None)["batchItemFailures"]
    outbox._settle = settle

    assert adapter.handle(event(prediction()), None) == ALL_DONE
    assert len(bus.entries) == 1
    assert table.get_item(Key=outbox_key(f"leaf-012/17@{NOW_MS}_8"))["Item"]["alert_state"] == "sent"


def test_entries_are_what_eventbridge_takes_and_rules_match(aws, table):
    events, sqs = aws.client("events"), aws.client("sqs")
    events.create_event_bus(Name=BUS)
    queue = sqs.create_queue(QueueName="alerts")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    pattern = '{"source": ["linkcast"], "detail": {"risk_score": [{"numeric": [">=", 90]}]}}'
    events.put_rule(Name="worst", EventBusName=BUS, EventPattern=pattern)
    events.put_targets(Rule="worst", EventBusName=BUS, Targets=[{"Id": "1", "Arn": arn}])
    alerts = alerts_of(table, events)

    worse = alert(stream_id="a/1", risk=95.0)
    assert alerts.publish([alert(), worse]) == [None, None]

    (message,) = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert '"a/1"' in message["Body"]


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalException", "ResourceNotFoundException"])
def test_a_bus_that_fails_or_is_not_there_has_the_records_come_again(aws, table, code):
    events = aws.client("events")
    alerts = alerts_of(table, events)
    with Stubber(events) as stub:
        stub.add_client_error("put_events", code)
        stub.add_response("put_events", {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]})

        (error,) = alerts.publish([alert()])
        assert isinstance(error, ClientError)
        assert alerts.publish([alert()]) == [None]  # at once: a refused claim is given back


def test_a_partial_answer_of_eventbridge_names_the_entry(aws, table):
    events = aws.client("events")
    alerts = alerts_of(table, events)
    with Stubber(events) as stub:
        answer = [{"EventId": "1"}, {"ErrorCode": "InternalFailure", "ErrorMessage": "later"}]
        stub.add_response("put_events", {"FailedEntryCount": 1, "Entries": answer})

        good, refused = alerts.publish([alert(), alert(stream_id="a/1")])

    assert good is None
    assert isinstance(refused, EntryRefused)


def test_expired_credentials_are_an_error_that_comes_again(aws):
    client = boto3.session.Session().resource("dynamodb")
    alerts = alerts_of(client.Table("nowhere"), None)
    with Stubber(client.meta.client) as stub:
        stub.add_client_error("update_item", "ExpiredTokenException")

        (error,) = alerts.publish([alert()])

    assert error.response["Error"]["Code"] == "ExpiredTokenException"
