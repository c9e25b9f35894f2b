"""Each benchmark at a tiny size: a benchmark can't rot, and a faster wrong answer doesn't pass."""

import importlib
import json
import sys

import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from bench import backfill, hop, peers, score, simulate
from bench.peers.figures import NoPlace, ratios, table, write_into
from bench.peers.job import PERIOD_MS, START_MS, TICKS_CHECKED_MIN, Check, Job
from bench.peers.machine import Usage, between
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


def test_simulate_gives_the_events_of_its_seed():
    assert simulate.bench(ports=8, hours=1.0)["sha256"] == "270bf3de554c6616"


def test_score_gives_the_bits_of_xgboost():
    assert score.bench(rows=5_000, trees=10)["differing"] == 0


def test_peers_checks_every_value_before_it_says_a_figure():
    figures = peers.bench(quick=True)

    assert figures["engines"].keys() == {"bare", "linkcast"}
    for engine in figures["engines"].values():
        assert engine["checked"] >= 16 * TICKS_CHECKED_MIN
        assert engine["cpu_us"]["median"] > 0
    assert figures["bare"] > 0
    assert "| linkcast (linkcast " in table(figures)


def outputs(job):
    """The right record of each event, in the order of the input."""
    for key, value in job.records():
        i = job.ids.index(key.decode())
        ts = json.loads(value)["ts"]
        tick = (ts - START_MS) // PERIOD_MS
        means = dict(zip(("mean_5m", "mean_15m", "mean_60m"), job.means[i, tick].tolist(), strict=True))
        yield json.dumps({"stream_id": key.decode(), "ts": ts} | means).encode()


def test_the_reference_of_the_peers_is_the_mean_over_panes_by_brute_force():
    job = Job(events=4 * 400, streams=4)
    events = [json.loads(value) for _, value in job.records()]

    for i in (0, 3):
        mine = [event for event in events if event["stream_id"] == job.ids[i]]
        for tick in (0, 1, 29, 30, 31, 90, 91, 361, 399):
            pane = mine[tick]["ts"] // 20_000
            for w, panes in enumerate((15, 45, 180)):
                inside = [e["latency_us"] for e in mine[: tick + 1] if e["ts"] // 20_000 > pane - panes]
                assert job.means[i, tick, w] == pytest.approx(sum(inside) / len(inside), rel=1e-12)


def test_the_check_of_the_peers_counts_what_is_lost_repeated_and_wrong():
    job = Job(events=4 * 50, streams=4)
    sent = list(outputs(job))
    assert Check(job).verdict().outputs == 0
    whole = Check(job)
    whole.add(sent)
    assert whole.verdict() == (200, 0, 0, 0, 50)

    check = Check(job)
    check.add(sent[:100])
    check.add(sent[101:])  # one is lost
    check.add(sent[7:9])  # two are repeated
    check.add([sent[9].replace(b'"mean_60m": ', b'"mean_60m": 1')])  # one is wrong, and repeated
    check.add([b'{"stream_id":"no/1","ts":0,"mean_5m":1,"mean_15m":1,"mean_60m":1}'])  # one is of no event

    verdict = check.verdict()
    assert (verdict.lost, verdict.repeated, verdict.wrong) == (1, 3, 2)


def test_a_ratio_is_resolved_only_where_the_ranges_lie_apart():
    def cpu(least, median, most, rounds=3):
        return {"rounds": rounds, "cpu_us": {"min": least, "median": median, "max": most}}

    found = ratios(
        {"linkcast": cpu(4, 5, 6), "faust": {"failed": "ended"}, "quix": cpu(7, 8, 9), "flink": cpu(6, 7, 9)}
    )

    assert found == {"quix": 1.6, "quix_resolved": True, "flink": 1.4, "flink_resolved": False}
    assert not ratios({"linkcast": cpu(4, 5, 6, 2), "quix": cpu(7, 8, 9, 2)})["quix_resolved"]  # two are no range


def test_what_neither_engine_nor_broker_nor_harness_used_is_noise():
    a = Usage(0.0, 1.0, 1.0, 1.0, 10.0, 0.0, 90.0, frozenset({(1, 0.0), (2, 0.0)}))
    b = Usage(10.0, 6.0, 3.0, 2.0, 20.0, 0.5, 95.0, frozenset({(1, 0.0)}))

    span = between(a, b)

    assert (span.engine_s, span.broker_s, span.lost_workers) == (5.0, 2.0, 1)
    assert (span.busy_other, span.steal) == (0.2, 0.05)


def test_the_table_takes_the_place_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- peers begin -->\nold\n<!-- peers end -->\nb\n")

    write_into(page, "new\n")

    assert page.read_text() == "a\n<!-- peers begin -->\nnew\n<!-- peers end -->\nb\n"
    page.write_text("no marks")
    with pytest.raises(NoPlace, match="no lines"):
        write_into(page, "new")


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
