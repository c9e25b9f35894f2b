import json
import os
from functools import partial
from pathlib import Path

import pytest

from streams.ingest.sources import perfquery, prometheus, ufm
from streams.ingest.sources.collect import Collector, Oddities, read_files

ODD = Oddities()
AT_S = 1_700_000_000.5


def perfquery_of(content, name="perfquery.out"):
    return perfquery.parse(content, Path(name), AT_S, odd=ODD)


def prometheus_of(content):
    return prometheus.parse(content, Path("metrics.prom"), AT_S, host="gpu7", odd=ODD)


def ufm_of(content):
    return ufm.parse(content, Path("telemetry.json"), AT_S, odd=ODD)


def test_every_port_of_the_perfquery_fixtures_is_read(data):
    files = sorted((data / "treydock").glob("perfquery*.out"))
    ports = {r.stream_id: r for r in read_files(files, partial(perfquery.parse, odd=ODD), ODD)}

    assert list(ports) == [
        "0x506b4b03005c2740/1",
        "0x7cfe9003003b4b96/1",
        "0x7cfe9003009ce5b0/1",
        "0x7cfe9003009ce5b0/2",
    ]
    assert ports["0x506b4b03005c2740/1"].counters["port_xmit_data"] == 178_791_657_177_235
    assert ports["0x506b4b03005c2740/1"].counters["port_xmit_discards"] == 20_046
    # CapMask2 0x2 says that error counters are 64 bits wide; LID 133 hasn't got it.
    assert ports["0x506b4b03005c2740/1"].bits["port_xmit_discards"] == 64
    assert ports["0x7cfe9003003b4b96/1"].bits == {}


def test_a_file_of_many_nodes_names_them_by_lid(data):
    both = b"".join(path.read_bytes() for path in sorted((data / "treydock").glob("perfquery_0x7*.out")))

    assert [r.stream_id for r in perfquery_of(both, "perfquery_0x7cfe9003009ce5b0.out")] == [
        "lid-133/1",
        "lid-1719/1",
        "lid-1719/2",
    ]


def test_sums_over_all_ports_and_what_is_no_counter_are_passed_over():
    head = b"# Port extended counters: Lid 6 port %d (CapMask: 0x5300 CapMask2: 0x0000002)\n"
    lines = b"PortXmitData:....12\nPortRcvData:....N/A\nSymbolErrorCounter:....-1\nnonsense\n\xff\xfe:....3\n"

    (port,) = perfquery_of(head % 255 + lines + head % 3 + lines)

    assert port.stream_id == "lid-6/3"
    assert port.counters == {"port_xmit_data": 12}


def test_classic_counters_keep_the_widths_of_the_standard():
    text = b"# Port counters: Lid 6 port 3 (CapMask: 0x5300 CapMask2: 0x0000002)\nPortRcvErrors:....65535\n"

    bits = perfquery_of(text)[0].bits

    assert bits["port_xmit_data"] == 32
    assert "port_rcv_errors" not in bits  # 16, as in sysfs


MASKED = b"""# Port extended counters: Lid 21 port 1 (CapMask: 0x1600 CapMask2: 0x000000%d)
PortXmitData:....................%d
PortRcvData:.....................%d
PortXmitPkts:....................%d
PortRcvPkts:.....................%d
CounterSelect2:..................0x00000000
SymbolErrorCounter:..............%d
PortRcvErrors:...................0
PortXmitDiscards:................0
PortXmitWait:....................0
"""
CLASSIC = b"""# Port counters: Lid 21 port 1 (CapMask: 0x%x)
PortXmitData:....................4294967295
PortRcvData:.....................4294967295
PortRcvErrors:...................%d
PortXmitDiscards:................0
PortXmitWait:....................%d
"""


def test_zeros_that_no_port_counts_are_left_out_and_said(caplog):
    (uncounted,) = perfquery_of(MASKED % (0, 8, 8, 8, 8, 0))
    (counted,) = perfquery_of(MASKED % (2, 8, 8, 8, 8, 0))

    traffic = dict.fromkeys(("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets"), 8)
    assert uncounted.counters == traffic
    assert counted.counters.keys() - traffic.keys() == {
        "symbol_error",
        "port_rcv_errors",
        "port_xmit_discards",
        "port_xmit_wait",
    }
    assert "zeros that nobody counts" in caplog.text


@pytest.mark.parametrize(("mask", "has_wait"), [(0x4600, False), (0x5600, True)])
def test_a_classic_port_counts_waits_only_where_it_says_so(mask, has_wait):
    (port,) = perfquery_of(CLASSIC % (mask, 1, 0))

    assert ("port_xmit_wait" in port.counters) == has_wait
    assert port.counters["port_rcv_errors"] == 1


@pytest.mark.parametrize("is_classic_first", [True, False])
def test_classic_errors_and_extended_traffic_of_one_file_are_one_sample(is_classic_first):
    collector = Collector(period_s=10, odd=ODD)
    for at_s, done in ((0, 0), (10, 1)):
        both = [CLASSIC % (0x1600, 500 * done, 0), MASKED % (0, *([10**9 * done] * 4), 0)]
        text = b"".join(both if is_classic_first else both[::-1])
        events = collector.events(perfquery.parse(text, Path("a.out"), at_s, odd=ODD))

    (event,) = events
    assert event.bandwidth_gbps == pytest.approx(3.2)
    assert event.error_rate == pytest.approx(2.5e-7)


OLD = b"""# Port counters: Lid 8 port 2
PortSelect:......................2
CounterSelect:...................0x0000
SymbolErrors:....................0
XmtData:.........................1000000
"""


@pytest.mark.parametrize(
    ("content", "parse", "example"),
    [
        (OLD, perfquery.parse, "SymbolErrors"),
        (
            b'node_infiniband_port_data_received_bytes{device="mlx5_0",port="1"} 7\n',
            partial(prometheus.parse, host="gpu7"),
            "port_data_received_bytes",
        ),
    ],
)
def test_a_file_of_counters_by_other_names_says_one_of_them_once(tmp_path, caplog, content, parse, example):
    (tmp_path / "a").write_bytes(content)
    odd = Oddities()

    for _ in range(2):
        read_files([tmp_path / "a"], partial(parse, odd=odd), odd)

    assert [r.getMessage() for r in caplog.records] == [f"{tmp_path}/a: no counter's name is known: {example!r}"]


def test_a_scrape_of_gauges_alone_has_no_unknown_counter(data):
    ports = {r.stream_id: r for r in prometheus_of((data / "node_exporter-infiniband.prom").read_bytes())}

    assert ports["gpu7/i40iw0:1"].unknown == ""


def test_a_ufm_message_of_changes_says_so_and_loses_no_error():
    def message(kind, at_s, **values):
        row = {"timestamp": at_s * 10**6, "node_guid": "0x1", "port_num": 1, **values}
        return json.dumps({"type": kind, "values": [row]}).encode()

    errors = {"SymbolErrorCounterExtended": 0, "PortRcvErrorsExtended": 0, "PortXmitDiscardsExtended": 0}
    packets = [{"PortXmitPktsExtended": n * 10**6, "PortRcvPktsExtended": n * 10**6} for n in range(3)]
    lines = [
        message("full", 0 + 1_767_261_600, **errors, **packets[0]),
        message("delta", 30 + 1_767_261_600, **packets[1]),
        message(
            "delta", 60 + 1_767_261_600, **packets[2], SymbolErrorCounterExtended=6_000, PortRcvErrorsExtended=20_000
        ),
    ]

    events = Collector(period_s=30, odd=ODD).events(ufm_of(b"\n".join(lines)))

    assert [event.error_rate for event in events] == [None, 0, pytest.approx(0.01)]
    assert events[-1].symbol_errors == 12_000


@pytest.mark.parametrize(("device", "gbps"), [("mlx5_0", 40), ("hfi1_0", 80)])
def test_node_exporters_bytes_of_omni_path_are_half_of_what_passed(device, gbps):
    def scrape(steps):
        sides = ("transmitted", "received")
        data = [f"node_infiniband_port_data_{s}_bytes_total" for s in sides]
        rows = {**dict.fromkeys(data, steps * 10**10), "node_infiniband_symbol_error_total": 0}
        rows["node_infiniband_rate_bytes_per_second"] = 1.25e10
        return "".join(f'{name}{{device="{device}",port="1"}} {value}\n' for name, value in rows.items()).encode()

    collector = Collector(period_s=2, odd=ODD)
    for at_s in (0, 2):
        (event,) = collector.events(
            prometheus.parse(scrape(at_s // 2), Path("a.prom"), 1_767_261_600 + at_s, host="gpu7", odd=ODD)
        )

    assert (event.bandwidth_gbps, event.utilization) == (gbps, gbps)
    assert (event.symbol_errors is not None) == (device == "mlx5_0")  # hfi1 says 0 always


def test_a_scrape_has_its_bytes_turned_to_words(data):
    ports = {r.stream_id: r for r in prometheus_of((data / "node_exporter-infiniband.prom").read_bytes())}

    assert list(ports) == ["gpu7/mlx4_0:1", "gpu7/mlx4_0:2", "gpu7/i40iw0:1"]
    first = ports["gpu7/mlx4_0:1"]
    assert first.counters["port_xmit_data"] == 14_933_760 // 4
    assert first.counters["port_xmit_wait"] == 2**32 - 1
    assert first.rate_gbps == 40
    assert ports["gpu7/i40iw0:1"].counters == {}
    assert ports["gpu7/i40iw0:1"].extra == {"state": 4, "phys_state": 5}


def test_scraped_oddities_are_left_out_alone():
    text = b"""
node_infiniband_link_downed_total{device="mlx5_0",port="1"} NaN
node_infiniband_symbol_error_total{device="mlx5_0",port="1"} +Inf
node_infiniband_port_errors_received_total{device="mlx5_0",port="1"} -3
node_infiniband_port_packets_received_total{device="mlx5_0",port="1"} seven
node_infiniband_state_id{device="mlx5_0",port="1"
node_infiniband_legacy_data_received_bytes_total{device="mlx5_0",port="1"} 400
node_infiniband_port_packets_transmitted_total{device="mlx5_0",port="1"} 12
\xff\xfe
"""
    (port,) = prometheus_of(text)

    assert port.counters == {"port_rcv_data": 100, "port_xmit_packets": 12}


def test_an_instance_is_the_node_and_its_boot_time_marks_the_counters_life():
    text = b"""
node_boot_time_seconds{instance="gpu9:9100"} 1.7e+09
node_infiniband_link_downed_total{device="mlx5_0",port="1",instance="gpu9:9100"} 1 1700000001234
"""
    (port,) = prometheus_of(text)

    assert (port.stream_id, port.ts, port.boot) == ("gpu9/mlx5_0:1", 1_700_000_001_234, "1.7e+09")


def test_a_ufm_message_gives_its_ports_at_their_own_time(data):
    ports = {r.stream_id: r for r in ufm_of((data / "ufm-small_telemetry.json").read_bytes())}

    assert list(ports)[:2] == ["0x0c42a103007ab890/1", "0x248a070300ef19a0/1"]
    first = ports["0x0c42a103007ab890/1"]
    assert first.ts == 1_709_652_347_161
    assert first.counters["port_xmit_data"] == 4_086_720 // 4  # bytes, whatever the field's unit says
    assert first.stated == {"utilization": 1.53523e-06}
    assert ports["0x248a070300ef19a0/1"].counters["link_downed"] == 1


def test_extended_ufm_fields_are_64_bit_words():
    (port,) = ufm_of(
        b'[{"node_guid": "0x1", "port_num": 4, "PortXmitDataExtended": 7, "PortRcvErrorsExtended": 65535}]'
    )

    assert port.counters == {"port_xmit_data": 7, "port_rcv_errors": 65_535}
    assert port.bits == {"port_xmit_data": 64, "port_rcv_errors": 64}


def test_odd_ufm_rows_and_lines_blind_no_other():
    rows = [
        5,
        {},
        {"node_guid": 3, "port_num": 1},
        {"node_guid": "0x1", "port_num": 1, "timestamp": "noon", "PckOut": -1, "PckIn": None, "LinkDowned": True},
        {"node_guid": "0x1", "port_num": 2, "timestamp": 10**30, "Normalized_MBOut": 101, "PckIn": 3},
    ]
    lines = b'{"values": 3}\n{broken\n\xff\n' + json.dumps(rows).encode()

    ports = ufm_of(lines)

    assert [(p.stream_id, p.ts, p.counters, p.stated) for p in ports] == [
        ("0x1/1", 1_700_000_000_500, {}, {}),
        ("0x1/2", 1_700_000_000_500, {"port_rcv_packets": 3}, {}),
    ]


@pytest.mark.parametrize("parse", [perfquery_of, prometheus_of, ufm_of])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 50, b"[" * 100_000, b"# Port extended counters: Lid x port"])
def test_what_is_no_such_text_has_no_ports(parse, content):
    assert parse(content) == []


def test_two_scrapes_make_metrics_and_an_unreadable_file_blinds_no_other(tmp_path, data):
    text = (data / "node_exporter-infiniband.prom").read_text()
    sent = 'port_data_transmitted_bytes_total{device="mlx4_0",port="1"} 1.'
    moved = text.replace(sent + "493376e+07", sent + "2514933760e+10")  # 12.5 GB later
    assert moved != text
    for name, content, at_s in (("a", text, 1_000), ("b", moved, 1_010)):
        (tmp_path / name).write_text(content)
        os.utime(tmp_path / name, (at_s, at_s))
    paths = [tmp_path / "a", tmp_path / "missing", tmp_path, tmp_path / "b"]

    readings = read_files(paths, partial(prometheus.parse, host="gpu7", odd=ODD), ODD)
    events = Collector(period_s=10, odd=ODD).events(readings)

    by_time = [(e.ts, e.stream_id, e.bandwidth_gbps) for e in events if e.stream_id == "gpu7/mlx4_0:1"]
    assert by_time == [(1_000_000, "gpu7/mlx4_0:1", None), (1_010_000, "gpu7/mlx4_0:1", pytest.approx(10.0))]
    (last,) = [e for e in events if e.bandwidth_gbps and e.bandwidth_gbps > 0]
    assert last.utilization == pytest.approx(25.0)
    assert last.extra["saturated"] == 1  # its transmit_wait stands at 2^32 - 1
    assert last.stall is None
