"""The soak of the benchmark at a small size: thousands of records, every fault, a kill -9."""

import json
from collections import Counter

import pytest

from bench import edge_soak, soak, soak_aws
from bench.soak_changes import Due, compared
from lambda_adapter.outbox import outbox_key

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(1_800)
def test_thousands_of_records_outlive_every_fault_and_a_kill(kafka):
    figures = edge_soak.bench(records=4_000, kills=1, kafka=kafka)

    zeros = ("lost", "given_up_wrongly", "poison_done", "beyond_bound")
    assert {name: figures[name] for name in zeros} == dict.fromkeys(zeros, 0)
    assert figures["executions"] - figures["repeats"] == 4_000 - figures["poison"]
    assert figures["attempts_to_isolate_max"] > 1  # the poison was met among others
    assert figures["last_run"]["time_outs"] + figures["last_run"]["function_errors"] > 0


@pytest.mark.timeout(1_800)
def test_changes_become_one_insight_and_one_alert_each_whatever_fails(kafka):
    figures = soak.bench(records=1_300, kills=1, time_out_s=17.0, kafka=kafka)

    assert soak.failed(figures) == []
    assert figures["poison"] == 1
    assert 1 < figures["attempts_to_isolate_max"] <= figures["bound"]
    assert figures["letters"] == 1
    assert 0 < figures["insights"] < 1_300
    assert figures["incidents"] == 4  # a leaf of each partition
    assert sum(figures["faults"].values()) > 0
    assert figures["fallback_pct"] < 5


def test_the_soak_counts_what_is_lost_and_what_came_twice():
    dues = [Due("0:1:0", frozenset()), Due("0:2:0", frozenset({"a_8", "incident_n"})), Due("0:3:0", frozenset({"b_8"}))]
    stored = Counter(due.src for due in dues)
    whole = {"writes": stored, "stored": stored, "alerts": Counter({"incident_n": 1, "b_8": 1}), "twice": Counter()}

    def wrong(**found):
        return {name for name, n in compared(dues, **whole | found).items() if n and name in soak.failed({name: n})}

    assert wrong() == set()
    assert wrong(stored=stored - Counter(["0:1:0"])) == {"insights_lost"}
    assert wrong(writes=stored + Counter(["0:1:0"])) == {"insights_twice"}
    assert wrong(stored=stored + Counter(["9:9:0"])) == {"insights_unwanted"}
    assert wrong(alerts=Counter({"incident_n": 1})) == {"alerts_lost"}
    assert wrong(alerts=Counter({"incident_n": 1, "b_8": 2}), twice=Counter(["b_8"])) == {"alerts_twice"}
    assert wrong(alerts=Counter({"incident_n": 1, "b_8": 1, "c_8": 1})) == {"alerts_unwanted"}
    assert wrong(alerts=Counter({"incident_n": 1, "b_8": 2})) == set()  # again, as nobody knew: it is told apart


def test_an_alert_is_twice_where_it_was_marked_as_sent():
    aws = soak_aws.FaultyAws(edge_soak.SEED)

    def send():
        entries = [{"Detail": json.dumps({"alert_id": "a_8"})}]
        assert aws.answer("AWSEvents.PutEvents", "/", json.dumps({"Entries": entries}).encode()).status == 200

    send()
    send()
    assert (aws.alerts["a_8"], aws.alerts_twice.total()) == (2, 0)
    mark = {name: {"S": part} for name, part in (outbox_key("a_8") | {"alert_state": "sent"}).items()}
    put = json.dumps({"TableName": soak_aws.TABLE, "Item": mark}).encode()
    assert aws.answer("DynamoDB_20120810.PutItem", "/", put).status == 200
    send()
    assert (aws.alerts["a_8"], aws.alerts_twice["a_8"]) == (3, 1)
