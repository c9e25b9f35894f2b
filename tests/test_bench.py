"""Each benchmark at a tiny size: a benchmark can't rot, and a faster wrong answer doesn't pass."""

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from bench import (
    backfill,
    cluster,
    decode,
    encode,
    hop,
    latency,
    memory,
    rates,
    recovery,
    score,
    simulate,
    spec_pandas,
    verify,
)
from bench.faults.models import bundles
from bench.open_loop import Flow, Flowed
from bench.void import Seconds
from infra.command import main
from infra.commands.bench import command
from infra.commands.bench.figures import report

MS, S = 1_000_000, 1_000_000_000


def test_each_folder_of_modules_is_a_package(pytestconfig):
    """Else a doctest gives its modules a second name, which numba's cache hands to processes that know the first."""
    packages = {*pytestconfig.getini("testpaths")} - {"tests"}
    folders = {path.parent for package in packages for path in (pytestconfig.rootpath / package).rglob("*.py")}

    assert len(folders) >= len(packages) >= 6
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def quiet_but_for(*stolen, n=10):
    """Seconds of 0.2 s of CPU each; in some the host took 50 ms of the cores."""
    return Seconds(np.isin(np.arange(n), stolen) * 0.05, np.full(n, 0.2))


@pytest.fixture
def bundle(tmp_path):
    """A few trees, in the folders that `linkcast train` makes."""
    return next(bundles(tmp_path, seed=1))


def test_hop_scores_each_event_once_by_the_model(bundle):
    figures = hop.bench(events=20_000, streams=100, sweep=5, model=bundle)

    assert (figures["events"], figures["model"]) == (20_000, bundle.name)
    assert figures["trees"] == {"classifier": 5, "risk": 5}
    assert figures["events_per_s"] > 0
    assert figures["cpu_us_per_event"] > 0


async def test_hop_is_refused_where_another_model_spoke(kafka, topics, monkeypatch):
    monkeypatch.setattr(cluster, "PREFIX", topics)
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        for model in (b"mine", b"rules"):
            await producer.send_and_wait(f"{topics}predictions", b'{"risk":1.0,"model":"%s"}' % model)

    with pytest.raises(cluster.MeasurementFailed, match="2 events gave 2 predictions, 1 of them by mine"):
        await cluster.check_predictions(kafka, "mine", 2)


def test_hop_of_two_workers_scores_each_event_once(bundle):
    figures = hop.bench(events=20_000, streams=100, workers=2, model=bundle)

    assert (figures["events"], figures["workers"]) == (20_000, 2)


def test_latency_times_each_event_to_its_one_prediction(bundle):
    figures = latency.bench(rate=200, seconds=2, streams=100, warm_s=1.0, model=bundle)

    assert 0 < figures["acknowledged"]["p50_ms"] < figures["p50_ms"] <= figures["p99_ms"] <= figures["max_ms"]
    assert figures["cpu_us_per_event"] > 0
    assert figures["max_ms"] <= figures["all_seconds"]["max_ms"]


def test_figures_that_count_are_reported_and_nothing_stands_for_what_voids_them(capsys):
    report({"p50_ms": 3.5, "void": None}, as_json=True)

    assert json.loads(capsys.readouterr().out) == {"p50_ms": 3.5, "void": None}


def test_latency_counts_from_when_an_event_was_due_however_late_it_left():
    due = np.arange(10) * S
    sent, answered = due + 3 * MS, due + 7 * MS

    figures = latency._figures(Flowed(due, sent, sent, answered, np.zeros(10, np.int8), 0), quiet_but_for())

    assert figures["p50_ms"] == 7.0
    assert figures["void"] == "the loader itself was 3.0 ms late at p99, at most 2"


def test_latency_counts_in_the_seconds_that_the_host_left_whole():
    due = np.repeat(np.arange(12), 100) * S
    answered = due + np.where(due == 5 * S, 40 * MS, 4 * MS)
    flowed = Flowed(due, due, due, answered, np.zeros(due.size, np.int8), 0)

    figures = latency._figures(flowed, quiet_but_for(5, n=12))

    assert (figures["max_ms"], figures["all_seconds"]["max_ms"]) == (4.0, 40.0)
    assert (figures["counted_s"], figures["cpu_us_per_event"], figures["void"]) == (11, 2_000.0, None)


def test_latency_is_no_figure_where_the_host_left_too_few_seconds_whole():
    due = np.arange(12) * S

    figures = latency._figures(Flowed(due, due, due, due + MS, np.zeros(12, np.int8), 0), quiet_but_for(1, 5, 7, n=12))

    assert figures["void"] == "the host left the cores alone in 9 of 12 seconds, at least 10"


@pytest.mark.parametrize(
    ("stolen_pct", "void"),
    [(1.0, None), (5.0, "of the backlog the host gave 5 % of the cores' time to others, at most 1")],
)
def test_a_backlog_drained_while_the_host_took_the_cores_is_no_yardstick(monkeypatch, stolen_pct, void):
    monkeypatch.setattr(hop, "bench", lambda **_: {"cpu_us_per_event": 4.0, "stolen_pct": stolen_pct})
    monkeypatch.setattr(latency, "bench", lambda **_: {"cpu_us_per_event": 10.0, "void": None})

    figures = rates.bench(rates=[200])

    assert (figures["times_backlog"], figures["void"]) == ({"200": 2.5}, void)


def test_a_flow_is_due_evenly_and_its_event_time_keeps_pace():
    flow = Flow(rate=10_000, seconds=2.0, streams=5_000)

    _, counts = np.unique(flow.due(), return_counts=True)
    assert set(counts.tolist()) == {50}
    assert (len(counts), flow.period_ms) == (400, 500)


def test_rates_are_beside_the_cost_of_a_backlog(bundle):
    figures = rates.bench(rates=[200], seconds=1, warm_s=1.0, events=20_000, streams=100, model=bundle)

    assert figures["cpu_us_per_event"].keys() == {"200", "backlog"}
    assert figures["times_backlog"].keys() == {"200"}


def test_recovery_goes_on_from_the_snapshot_and_through_a_rebalance(bundle):
    figures = recovery.bench(
        streams=200, events_a_stream=2, rebalance_streams=200, seconds=8.0, warm_s=1.0, model=bundle
    )

    assert figures["snapshot_bytes_per_stream"] > 50
    assert figures["seconds"] > 0
    assert figures["killed_seconds"] > 0
    assert figures["rebalance_pause_s"] > 0


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


def test_verify_finds_no_feature_that_differs_though_a_worker_is_killed(bundle):
    figures = verify.bench(events=20_000, streams=200, kills=1, model=bundle)

    assert figures["events"] >= 20_000
    assert (figures["differing"], figures["missing"], figures["unexplained"]) == (0, 0, 0)


def test_simulate_gives_the_events_of_its_seed():
    assert simulate.bench(ports=8, hours=1.0)["sha256"] == "2d1d509c94d104e5"


def test_score_gives_the_bits_of_xgboost():
    assert score.bench(rows=5_000, trees=10)["differing"] == 0


def test_encode_gives_the_bytes_of_the_way_before():
    figures = encode.bench(rows=(3_000, 24), rounds=1)

    assert figures["differing"] == 0
    assert all(figures[f"{step}_us_{n}"] > 0 for step in ("render", "pack", "features") for n in (3_000, 24))


def test_decode_gives_every_field_that_msgspec_gives():
    figures = decode.bench(events=8_192, rounds=1)

    assert figures["differing"] == 0
    assert figures["us_sweep_64"] > 0


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


def test_a_schedule_that_was_not_held_is_no_figure(monkeypatch):
    monkeypatch.setattr(latency, "bench", lambda **_: {"p50_ms": 3.0, "void": "the loader itself was 9 ms late"})

    result = CliRunner().invoke(main, ["bench", "latency"])

    assert result.exit_code == 1
    assert "don't count: the loader itself was 9 ms late" in result.stderr


@pytest.mark.parametrize("name", command.commands)
def test_outside_a_checkout_it_says_so_in_one_line(name, monkeypatch):
    monkeypatch.setitem(sys.modules, f"bench.{name}", None)  # what an import finds that isn't there
    assert importlib.util.find_spec("bench") is not None

    result = CliRunner().invoke(main, ["bench", name])

    assert result.exit_code == 1
    assert result.stderr == "Error: the benchmarks are in no wheel: run this in a checkout of linkcast ('make setup')\n"
