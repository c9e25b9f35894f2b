"""UFM telemetry in the forms that it comes in: JSON and CSV, whole and changes only, planes and aggregated ports."""

import json
from pathlib import Path

import pytest

from streams.ingest.sources import ufm
from streams.ingest.sources.collect import Collector, Oddities

START_US = 1_767_261_600_000_000
GUID = "0x0c42a10300000001"
HEADER = "timestamp,source_id,tag,node_guid,port_guid,port_num,PortXmitDataExtended,SymbolErrorCounterExtended\n"


def readings(content, name="telemetry"):
    content = content if isinstance(content, bytes) else content.encode()
    return ufm.parse(content, Path(name), START_US / 1e6 + 5, odd=Oddities())


def row(at_us=START_US, **fields):
    return {"timestamp": at_us, "node_guid": GUID, "port_num": 1, **fields}


@pytest.mark.parametrize("per_s", [1, 1_000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("kind", [int, str])
def test_a_time_of_any_unit_gives_the_same_figures(per_s, kind):
    times = [kind(START_US // 1_000_000 * per_s + s * per_s) for s in (0, 10)]
    rows = [
        row(time, PortXmitDataExtended=words, PortRcvDataExtended=0)
        for time, words in zip(times, (0, 12_500), strict=True)
    ]

    _, last = Collector(period_s=10, odd=Oddities()).events(readings(json.dumps(rows)))

    assert (last.ts, last.bandwidth_gbps) == (START_US // 1000 + 10_000, pytest.approx(4e-5))


def test_a_time_that_is_none_gives_way_to_the_files_and_is_said(caplog):
    ports = readings(json.dumps([row(17), row("noon")]))

    assert [port.ts for port in ports] == [START_US // 1000 + 5_000] * 2
    assert "none from 2000 to 2100" in caplog.text


def test_csv_is_read_as_the_same_json_is():
    (of_csv,) = readings(HEADER + f"{START_US},{GUID},,{GUID},{GUID},1,1000000000,0\r\n")
    (of_json,) = readings(json.dumps([row(PortXmitDataExtended=1_000_000_000, SymbolErrorCounterExtended=0)]))

    assert of_csv == of_json


def test_what_is_empty_or_not_available_is_missing_without_a_word(caplog):
    line = f"{START_US},{GUID},,{GUID},{GUID},1,N/A,\n"
    given = [*readings(HEADER + line), *readings(json.dumps([row(PckIn="N/A", PckOut=None, LinkDowned="")]))]

    assert [port.counters for port in given] == [{}, {}]
    assert not caplog.text


def test_answers_of_ufm_that_were_appended_are_read_each_under_its_own_header():
    second = "Node_GUID,Port_Number,PortRcvErrorsExtended,timestamp\n" + f"{GUID},1,7,{START_US + 10_000_000}\n"
    first = HEADER + f'{START_US},{GUID},"a, ""b""",{GUID},{GUID},1,12,3\n'

    ports = readings(b"\xef\xbb\xbf" + first.encode() + second.encode())

    assert [(port.stream_id, port.ts, port.counters) for port in ports] == [
        (f"{GUID}/1", START_US // 1000, {"port_xmit_data": 12, "symbol_error": 3}),
        (f"{GUID}/1", START_US // 1000 + 10_000, {"port_rcv_errors": 7}),
    ]


def test_an_odd_line_of_csv_blinds_no_other_and_is_said(caplog):
    good = f"{START_US},{GUID},,{GUID},{GUID},1,12,3\n"
    ports = readings("HTTP/1.1 200 OK\n" + HEADER + "1,2\n" + '"never closed\n' + "\n" + good)

    assert [port.counters for port in ports] == [{"port_xmit_data": 12, "symbol_error": 3}]
    assert "line 1" in caplog.text


def test_an_aggregated_port_of_xdr_is_no_port_of_its_planes():
    guid = "0x0c42a10300000009"
    xdr = {"timestamp": START_US, "sys_image_guid": guid, "aport": 3, "PortXmitDataExtended": 1000}
    ports = readings(
        json.dumps(
            [
                {**xdr, "port_type": "aggregated", "node_guid": guid, "port_num": 3},
                {**xdr, "port_type": "plane", "Node_GUID": guid.upper().replace("X", "x"), "Port_Number": 3},
                xdr,
            ]
        )
    )

    assert [port.stream_id for port in ports] == [f"{guid}/aport3", f"{guid}/3", f"{guid}/aport3"]


def test_a_message_of_changes_says_so():
    messages = [{"type": kind, "values": [row(PckIn=1)]} for kind in ("full", "delta")]

    assert [port.is_change for port in readings("\n".join(map(json.dumps, messages)))] == [False, True]


def test_a_name_that_is_not_known_is_handed_on():
    (port,) = readings(json.dumps([row(port_guid=GUID, lid=3, node_description="a", Link_Down=2)]))

    assert (port.counters, port.unknown) == ({}, "Link_Down")
