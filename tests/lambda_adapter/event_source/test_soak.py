"""The soak of the benchmark at a small size: thousands of records, every fault, a kill -9."""

import pytest

from bench import edge_soak

pytestmark = pytest.mark.kafka


def test_thousands_of_records_outlive_every_fault_and_a_kill(kafka):
    figures = edge_soak.bench(records=4_000, kills=1, kafka=kafka)

    zeros = ("lost", "given_up_wrongly", "poison_done", "beyond_bound")
    assert {name: figures[name] for name in zeros} == dict.fromkeys(zeros, 0)
    assert figures["executions"] - figures["repeats"] == 4_000 - figures["poison"]
    assert figures["attempts_to_isolate_max"] > 1  # the poison was met among others
    assert figures["last_run"]["time_outs"] + figures["last_run"]["function_errors"] > 0
