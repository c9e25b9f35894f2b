"""The soak of the benchmark at a small size: thousands of records, every fault, a kill -9."""

import pytest

from bench import edge_soak, soak

pytestmark = pytest.mark.kafka


def test_thousands_of_records_outlive_every_fault_and_a_kill(kafka):
    figures = edge_soak.bench(records=4_000, kills=1, kafka=kafka)

    zeros = ("lost", "given_up_wrongly", "poison_done", "beyond_bound")
    assert {name: figures[name] for name in zeros} == dict.fromkeys(zeros, 0)
    assert figures["executions"] - figures["repeats"] == 4_000 - figures["poison"]
    assert figures["attempts_to_isolate_max"] > 1  # the poison was met among others
    assert figures["last_run"]["time_outs"] + figures["last_run"]["function_errors"] > 0


def test_changes_become_one_insight_and_one_alert_each_whatever_fails(kafka):
    figures = soak.bench(records=1_300, kills=1, time_out_s=17.0, kafka=kafka)

    assert [name for name in soak.failed(figures) if name != "requests_invalid"] == []
    assert figures["poison"] == 1
    assert 1 < figures["attempts_to_isolate_max"] <= figures["bound"]
    assert figures["letters"] == 1
    assert 0 < figures["insights"] < 1_300
    assert figures["incidents"] == 4  # a leaf of each partition
    assert sum(figures["faults"].values()) > 0
    assert figures["fallback_pct"] < 5
