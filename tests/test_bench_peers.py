"""The comparison with the peers at a tiny size: its reference, its check of values, its figures."""

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import peers
from bench.peers import engines
from bench.peers.figures import NoPlace, ratios, table, write_into
from bench.peers.job import PERIOD_MS, START_MS, TICKS_CHECKED_MIN, Check, Job
from bench.peers.linkcast_job import WindowedPartition
from bench.peers.machine import Usage, between
from bench.peers.means_json import MeansWriter
from infra.command import main
from infra.commands.bench.peers import command
from streams.features.snapshot import Manifest


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
                inside = [e["latency_p99"] for e in mine[: tick + 1] if e["ts"] // 20_000 > pane - panes]
                assert job.means[i, tick, w] == pytest.approx(sum(inside) / len(inside), rel=1e-12)


class Fetched(NamedTuple):
    """A Kafka record, as far as an owner reads it."""

    key: bytes
    value: Any
    offset: int = 0
    timestamp: int = 1_800_000_000_000
    headers: tuple[()] = ()


def test_linkcast_gives_the_reference_also_across_a_snapshot():
    job = Job(events=4 * 800, streams=4)  # two hours and more: the ring of panes has gone round
    records = [Fetched(key, value) for key, value in job.records()]
    owner, check, kept = WindowedPartition("out"), Check(job), dict[str, bytes]()
    for first in range(0, len(records), 500):
        if first in (500, 2_000):  # the second one holds only what changed since the first
            chunks, about = owner.snapshot()
            kept |= chunks
        if first == 2_000:
            owner = WindowedPartition("out")
            owner.restore(Manifest(next_offset=first, crc={}, **about), kept)
        messages = owner.advance(records[first : first + 500]).messages["out"]
        check.add([message.value for message in messages])
        assert [message.key for message in messages] == [record.key for record in records[first : first + 500]]

    assert check.verdict() == (3_200, 0, 0, 0, 800)


def test_linkcast_gives_no_mean_for_what_is_no_event_or_has_no_latency():
    bad = [b"{", b'{"v":1,"stream_id":"a/1","ts":1763900040000,"utilization":5.0}', None]
    good = b'{"v":1,"stream_id":"a/1","ts":1763900060000,"latency_p99":5.0}'

    outputs = WindowedPartition("out").advance([Fetched(b"a/1", value) for value in (*bad, good)])

    [message] = outputs.messages["out"]
    assert json.loads(message.value) == {
        "stream_id": "a/1", "ts": 1_763_900_060_000, "mean_5m": 5.0, "mean_15m": 5.0, "mean_60m": 5.0,
    }  # fmt: skip
    assert (outputs.became, outputs.dead) == ({"row": 1, "dead": 3}, {"not_json": 1, "tombstone": 1})


MEANS = st.floats(0.0, 1e12) | st.floats(0.0, 1e-2) | st.sampled_from([0.0, 1e-3, 0.999999999999, 1e9, 5e-324])


@given(st.lists(st.tuples(MEANS, MEANS, MEANS), min_size=1))
def test_means_are_written_to_a_millionth_of_themselves(means):
    writer = MeansWriter()
    writer.extend(["a/1"])
    n = len(means)

    packed = writer.write(np.zeros(n, np.int64), np.arange(n), np.array(means))

    for i, message in enumerate(packed):
        stream_id, ts, *written = json.loads(message.value).values()
        assert (stream_id, ts) == ("a/1", i)
        assert np.allclose(written, means[i], rtol=1e-6, atol=0.0)


def test_the_peers_are_a_command():
    with pytest.raises(SystemExit) as ended:
        main(["bench", "peers", "--help"])

    assert ended.value.code == 0


def test_the_command_compares_every_engine_unless_told_otherwise():
    [option] = [param for param in command.params if param.name == "engines"]

    assert tuple(option.default.split(",")) == peers.ENGINES


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """The projects that Maven was asked for; it gives each an empty jar."""
    asked = []

    def build(name, command):
        asked.append(name)
        jar = command[command.index("-f") + 1].parent / "target" / "app.jar"
        jar.parent.mkdir()
        jar.touch()

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engines.shutil, "which", lambda name: name)
    monkeypatch.setattr(engines, "_run", build)
    return asked


def test_both_rows_of_flink_are_one_jar_and_one_argument_apart(builds):
    documented, chained = engines.install("flink"), engines.install("flink-chained")

    assert builds == ["flink"]
    assert chained.command == (*documented.command, "--chained", "true")
    assert (documented.version.split(", ")[1], chained.version.split(", ")[1]) == ("keyBy", "tuned by hand")


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


def test_the_table_says_who_took_part_in_fewer_rounds():
    spread = {"min": 4, "median": 5, "max": 6}
    keys = ("cpu_us", "events_per_s", "rss_mb", "first_output_s", "broker_cpu_us")
    engines = {name: {"rounds": n, **dict.fromkeys(keys, spread)} for name, n in (("linkcast", 5), ("faust", 3))}
    about = {"date": "2026-11-25", "machine": "one", "kafka": "4.3.1", "python": "3.11", "rounds": 5}

    assert "of 5 rounds, 3 of faust." in table(about | {"engines": engines})


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
