"""Each benchmark at a tiny size: a benchmark can't rot, and a faster wrong answer doesn't pass."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from bench import backfill, hop, memory, score, simulate, spec_pandas
from infra.command import main
from infra.commands.bench import command
from online.bundle import Calibration, Training, write_bundle
from online.keys import load_or_create_key


@pytest.fixture
def bundle(tmp_path):
    """A few trees, in the folders that `linkcast train` makes."""
    rng = np.random.default_rng(1)
    classifier, risk = score.boosters(rng, trees=5, depth=4)
    return write_bundle(
        tmp_path / "models",
        classifier=classifier,
        risk=risk,
        calibration=Calibration(risk_slope=1.0, risk_intercept=0.0, class_scale=1.0, class_offset=(0.0,) * 11),
        training=Training(source="a toy", start=0, end=1, rows=20_000, horizon_ms=3_600_000, base_rate=0.3),
        evaluation={},
        golden_rows=rng.normal(size=(40, 24)).astype(np.float32),
        created_at=hop.START_MS,
        key=load_or_create_key(tmp_path / "keys" / "signing.key"),
    )


def test_hop_scores_each_event_once_by_the_model(bundle):
    figures = hop.bench(events=2_500, streams=100, sweep=5, model=bundle)

    assert (figures["events"], figures["model"]) == (2_500, bundle.name)
    assert figures["trees"] == {"classifier": 5, "risk": 5}
    assert figures["events_per_s"] > 0
    assert figures["cpu_us_per_event"] > 0


async def test_hop_is_refused_where_another_model_spoke(kafka, topics, monkeypatch):
    monkeypatch.setattr(hop, "PREFIX", topics)
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        for model in (b"mine", b"rules"):
            await producer.send_and_wait(f"{topics}predictions", b'{"risk":1.0,"model":"%s"}' % model)

    with pytest.raises(hop.HopFailed, match="2 events gave 2 predictions, 1 of them by mine"):
        await hop._check(kafka, "mine", 2)


def test_backfill_gives_the_same_bits_from_files_and_from_arrays():
    figures = backfill.bench(ports=8, hours=1.0)

    assert figures.items() >= {"events": 960, "rows": 953, "differing": 0}.items()
    assert figures["events_per_s"] > 0


def test_memory_counts_the_bytes_of_a_stream_and_holds_them_all():
    figures = memory.bench(streams=1_000, events=2_000)

    assert figures["bytes_per_stream"] <= 3_000
    assert figures["rss_bytes"] > 1_000 * figures["bytes_per_stream"]
    assert {"us_1e2", "us_1e3"} == {key for key in figures if key.startswith("us_")}


def test_the_yardstick_is_the_specification_s_pandas():
    at = pd.to_datetime([0, 60, 120], unit="s")
    df = pd.DataFrame({"stream_id": "a/1", "timestamp": at, "latency_p99": [4.0, 4.0, 7.0], "utilization": 60.0,
                       "error_rate": 0.0, "bandwidth_gbps": 100.0, "qp_errors": 0.0})  # fmt: skip

    rows = spec_pandas.labels(spec_pandas.features(df))

    assert rows["latency_p99_5m_avg"].tolist() == [4.0, 4.0, 5.0]
    assert rows["latency_p99_delta_pct"].tolist() == [0.0, 0.0, 75.0]
    assert rows["prediction_type"].dropna().tolist() == ["performance_degradation"]
    assert rows["risk_score"].tolist() == [0, 0, 100]


def test_simulate_gives_the_events_of_its_seed():
    assert simulate.bench(ports=8, hours=1.0)["sha256"] == "270bf3de554c6616"


def test_score_gives_the_bits_of_xgboost():
    assert score.bench(rows=5_000, trees=10)["differing"] == 0


def test_figures_are_one_json_object_on_stdout_and_a_table_on_stderr():
    result = CliRunner().invoke(main, ["bench", "simulate", "--ports", "8", "--hours", "1", "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["port_samples_per_s"] > 0
    assert "port_samples_per_s" in result.stderr


def test_a_wrong_answer_is_no_figure(monkeypatch):
    monkeypatch.setattr(score, "bench", lambda: {"us_1": 0.1, "differing": 3})

    result = CliRunner().invoke(main, ["bench", "score"])

    assert result.exit_code == 1
    assert "3 values differ" in result.stderr


@pytest.mark.parametrize("name", command.commands)
def test_outside_a_checkout_it_says_so_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, f"bench.{name}", None)  # what an import finds that isn't there
    assert importlib.util.find_spec("bench") is not None

    result = CliRunner().invoke(main, ["bench", name])

    assert result.exit_code == 1
    assert result.stderr == "Error: the benchmarks are in no wheel: run this in a checkout of linkcast ('make setup')\n"
