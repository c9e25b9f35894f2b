"""Scrapes of the field: what an exporter, a federation or a dump of a range writes, and its right figures."""

import logging
from pathlib import Path

import pytest

from streams.ingest.sources import prometheus
from streams.ingest.sources.collect import Collector, Oddities

HOST = "gpu7"
START_S = 1_767_261_600
START_MS = START_S * 1000


def scrape(moment, *, at="", after="", errors=30, **labels):
    """Return what a port of 100 Gb/s says at `moment` s of a steady 10 Gb/s, with `errors` errors in 10 s.

    `at` is a sample's own time as it is written, `after` what follows it; `labels` are those beside device and port.
    """
    said = ",".join(f'{label}="{value}"' for label, value in {"device": "mlx5_0", "port": "1", **labels}.items())
    ticks = moment // 10
    figures = {
        "port_data_received_bytes_total": 4_000_000_000 + 12_500_000_000 * ticks,
        "port_data_transmitted_bytes_total": 4_000_000_000 + 12_500_000_000 * ticks,
        "port_packets_received_total": 1_000_000 + 3_000_000 * ticks,
        "port_packets_transmitted_total": 1_000_000 + 3_000_000 * ticks,
        "port_errors_received_total": errors * ticks,
        "port_discards_transmitted_total": 0,
        "rate_bytes_per_second": "1.25e+10",
    }
    return "".join(
        " ".join(filter(None, (f"node_infiniband_{name}{{{said}}} {figure}", str(at), after))) + "\n"
        for name, figure in figures.items()
    )


def readings(text, odd=None, taken=0, name="metrics.prom"):
    return prometheus.parse(text.encode(), Path(name), START_S + taken, host=HOST, odd=odd or Oddities())


def events(*scrapes):
    """Return the events of scrapes 10 s apart, by stream; the first of each has nothing to compare with."""
    odd = Oddities()
    collector = Collector(period_s=10, odd=odd)
    found = {}
    for i, text in enumerate(scrapes):
        for event in collector.events(readings(text, odd, taken=10 * i)):
            found.setdefault(event.stream_id, []).append(event)
    return found


def figures(event):
    return event.ts, event.bandwidth_gbps, event.utilization, event.error_rate


STEADY = pytest.approx((START_MS + 10_000, 10.0, 10.0, 5e-6))


@pytest.mark.parametrize(
    ("one", "other", "end"),
    [
        ("", "", ""),
        (START_MS, START_MS + 10_000, ""),  # the text format has ms
        (START_S, START_S + 10, "# EOF\n"),  # OpenMetrics has seconds
        (f"{START_S}.000", f"{START_S + 10}.000", "# EOF\n"),
        (f"{START_S:.6e}".replace("1.767262e+09", "1.7672616e+09"), f"{(START_S + 10):.8e}", "# EOF\n"),
        (START_S, START_S + 10, ""),  # OpenMetrics that went through a filter
        (START_MS * 1_000_000, (START_MS + 10_000) * 1_000_000, ""),
    ],
)
def test_a_time_of_any_unit_gives_the_same_figures(one, other, end):
    ((_, last),) = events(scrape(0, at=one) + end, scrape(10, at=other) + end).values()

    assert figures(last) == STEADY


def test_fractions_of_a_second_are_kept():
    (first, *_) = readings(scrape(0, at=f"{START_S}.125") + "# EOF\n")

    assert (first.ts, first.monotonic_s) == (START_MS + 125, START_S + 0.125)


def test_a_time_that_is_none_gives_way_to_the_files_and_is_said(caplog):
    (port,) = readings(scrape(0, at=17))

    assert port.ts == START_MS
    assert "none from 2000 to 2100" in caplog.text


@pytest.mark.parametrize("time", ["", START_S])
@pytest.mark.parametrize(
    "exemplar", ['# {trace_id="ab"} 5', '# {trace_id="a # } \\"b",x="1"} 5 1767261599.5', "# {} 0.1"]
)
def test_an_exemplar_is_no_part_of_the_value(exemplar, time):
    first = scrape(0, at=time, after=exemplar) + "# EOF\n"
    ((_, last),) = events(first, scrape(10, at=time and time + 10, after=exemplar) + "# EOF\n").values()

    assert figures(last) == STEADY
    assert last.extra["rate_gbps"] == 100.0


@pytest.mark.parametrize("order", [(0, 10, 20), (20, 0, 10)])
def test_a_range_in_one_file_is_its_samples_in_order_of_time(order):
    text = "".join(scrape(moment, at=START_MS + 1_000 * moment) for moment in order)

    ((first, *rest),) = events(text).values()

    assert first.bandwidth_gbps is None
    assert [figures(event) for event in rest] == [STEADY, pytest.approx((START_MS + 20_000, 10.0, 10.0, 5e-6))]


def test_each_moment_of_a_range_has_the_boot_time_of_its_time():
    boots = "".join(f"node_boot_time_seconds {boot} {START_MS + at}\n" for boot, at in ((1.7e9, 0), (1.8e9, 10_000)))
    ports = readings(boots + "".join(scrape(0, at=START_MS + at) for at in (0, 5_000, 10_000)))

    assert [port.boot for port in ports] == ["1.7e+09", "1.7e+09", "1.8e+09"]


@pytest.mark.parametrize(
    ("bad", "good"),
    [("127.0.0.1:9100", "127.0.0.1:9101"), ("fd00::7", "fd00::8"), ("[fd00::7]:9100", "[fd00::8]:9100"), ("a", "b:1")],
)
def test_two_instances_are_two_nodes(bad, good):
    sweep = [scrape(at, errors=60_000, instance=bad) + scrape(at, errors=0, instance=good) for at in (0, 10)]
    with_errors, without = events(*sweep).values()

    assert [event.error_rate for event in with_errors] == [None, pytest.approx(0.01)]
    assert [event.error_rate for event in without] == [None, 0.0]


def test_a_node_has_the_same_name_whoever_else_is_in_the_file():
    alone = readings(scrape(0, instance="127.0.0.1:9101", cluster="a"))
    among = readings(
        scrape(0, instance="127.0.0.1:9100", cluster="a")
        + scrape(0, instance="127.0.0.1:9101", cluster="b")
        + scrape(0, instance="127.0.0.1:9101", cluster="a")
    )

    assert [port.stream_id for port in alone] == ["127.0.0.1:9101{cluster=a}/mlx5_0:1"]
    assert alone[0].stream_id in [port.stream_id for port in among]
    assert len({port.stream_id for port in among}) == 3


def test_an_empty_instance_is_none():
    assert [port.node for port in readings(scrape(0, instance=""))] == [HOST]


@pytest.mark.parametrize("label", ["job", "datacenter", "cluster"])
def test_two_series_of_one_port_are_two_streams_and_said(label, caplog):
    sweep = [scrape(at, errors=60_000, **{label: "a"}) + scrape(at, errors=0, **{label: "b"}) for at in (0, 10)]
    found = events(*sweep)

    assert {stream: last.error_rate for stream, (_, last) in found.items()} == {
        f"{HOST}{{{label}=a}}/mlx5_0:1": pytest.approx(0.01),
        f"{HOST}{{{label}=b}}/mlx5_0:1": 0.0,
    }
    assert (f"differ in {label}" in caplog.text) == (label != "cluster")


def test_what_two_replicas_say_is_one_port_whose_newer_sample_wins(caplog):
    both = scrape(0, prometheus_replica="a") + scrape(10, prometheus_replica="b")

    (port,) = readings(both)

    assert port.counters["port_rcv_packets"] == 4_000_000
    assert "differ in prometheus_replica" in caplog.text


def test_an_odd_line_blinds_no_other_and_is_said(caplog):
    caplog.set_level(logging.WARNING)
    odd = [
        'node_infiniband_link_downed_total{device="mlx5_0",port="1"',
        'node_infiniband_link_downed_total{device="mlx5_0",port=1} 3',
        "node_infiniband_link_downed_total{",
        'node_infiniband_link_downed_total{device="mlx5_0",port="1"} 3 noon',
    ]
    for line in odd:
        caplog.clear()
        (port,) = readings(scrape(0) + line + "\n" + "node_infiniband_other 1\n# node_infiniband_\n")

        assert len(port.counters) == 6
        assert "no samples" in caplog.text


def test_labels_may_hold_whatever_text_they_like():
    text = scrape(0, instance='a"b\\{}, # {\u2028'.replace("\\", "\\\\").replace('"', '\\"'))

    assert [port.node for port in readings(text)] == ['a"b\\{}, # {\u2028']


def test_names_may_be_quoted_among_the_labels():
    text = '{"node_infiniband_link_downed_total",device="mlx5_0",port="1"} 3\n'
    dump = '{__name__="node_infiniband_symbol_error_total",device="mlx5_0",port="1"} 4\n'

    assert [port.counters for port in readings(text + dump)] == [{"link_downed": 3, "symbol_error": 4}]


def test_counters_beyond_the_precision_of_a_float_are_exact():
    text = 'node_infiniband_port_packets_received_total{device="mlx5_0",port="1"} 9007199254740993\n'

    assert readings(text)[0].counters["port_rcv_packets"] == 9_007_199_254_740_993


def test_a_name_that_is_not_known_is_handed_on():
    (port,) = readings('node_infiniband_link_downed{device="mlx5_0",port="1"} 3\n')

    assert (port.counters, port.unknown) == ({}, "link_downed")
