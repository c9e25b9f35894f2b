"""Ports from NVIDIA UFM telemetry: JSON (one message, a list of rows, or JSON Lines of either), or CSV with a header.

Fields come as `Infiniband_SymbolErrors_u_Errors`: a name between the family and the unit. The unit isn't to be trusted:
`MBOut_u_Gb` counts *bytes* (in NVIDIA's own sample 288 a packet, a 256-byte management datagram with its headers). The
`…Extended` fields of newer agents are 64-bit and count words. UFM gives no link rate: utilization is its own
`Normalized_MBOut`, which knows the outbound direction only. What is empty or `N/A` isn't there.
"""

import csv
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streams.ingest.sources.collect import Oddities, Reading
from streams.ingest.sources.counters import WORD_BYTES
from streams.ingest.sources.event_time import event_time_ms
from streams.ingest.sources.perfquery import NAMES as EXTENDED_STEMS

BYTES = {"MBOut": "port_xmit_data", "MBIn": "port_rcv_data"}
NAMES = {
    "PckOut": "port_xmit_packets",
    "PckIn": "port_rcv_packets",
    "SymbolErrors": "symbol_error",
    "LinkRecovers": "link_error_recovery",
    "LinkDowned": "link_downed",
    "RcvErrors": "port_rcv_errors",
    "RcvRemotePhysErrors": "port_rcv_remote_physical_errors",
    "XmtDiscards": "port_xmit_discards",
    "LinkIntegrityErrors": "local_link_integrity_errors",
    "ExcBufOverrunErrors": "excessive_buffer_overrun_errors",
    "XmitWait": "port_xmit_wait",
}
EXTENDED = {f"{name}Extended": counter for name, counter in EXTENDED_STEMS.items()}

FIGURES = frozenset((*BYTES, *NAMES, *EXTENDED, "Normalized_MBOut", "CBW"))

NODES = ("node_guid", "Node_GUID", "source_id")
PORTS = ("port_num", "Port_Number")
SYSTEMS = ("sys_image_guid",)
AGGREGATED_PORTS = ("aport",)
"""XDR's ports of several planes; their planes have rows of their own."""
NO_COUNTERS = frozenset((*NODES, *PORTS, *SYSTEMS, *AGGREGATED_PORTS, "timestamp", "tag", "lid", "Device_ID"))

ABSENT = ("", "N/A", None)
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_AROUND = re.compile(r"^infiniband_|(?:_f)?_u_\w+$", re.IGNORECASE)


class Row(NamedTuple):
    """One port's fields; where it `is_change`, those that it leaves out are as they were."""

    fields: Mapping[str, Any]
    is_change: bool = False


def parse(content: bytes, path: Path, taken_s: float, *, odd: Oddities) -> list[Reading]:
    """Return the rows of one file, streams `guid/port`; `taken_s` is when it was written, for rows without a time.

    An aggregated port of XDR is `guid/aportN`: one of its system's planes may have a port N too.
    """
    readings = []
    for index, row in enumerate(_rows(content.removeprefix(BOM_UTF8), path, odd)):
        reading = _reading(row, taken_s, path, odd)
        if reading is None:
            odd.note(path, "has rows that name no port", f"row {index}")
        else:
            readings.append(reading)
    return readings


def _rows(content: bytes, path: Path, odd: Oddities) -> Iterator[Row]:
    try:
        yield from _of_message(msgspec.json.decode(content))
        return
    except UNDECODABLE:
        pass
    header: list[str] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.lstrip()[:1] in (b"{", b"["):
            try:
                yield from _of_message(msgspec.json.decode(line))
            except UNDECODABLE as error:
                odd.note(path, "has lines that are no JSON", f"line {number}, {error}")
        elif line.strip():
            cells = _cells(line)
            if {*NODES, *SYSTEMS} & set(cells):
                header = cells  # the file's first, or one in its middle where answers of UFM were appended
            elif header and len(cells) == len(header):
                yield Row(dict(zip(header, cells, strict=True)))
            else:
                odd.note(path, "has lines that are neither JSON nor CSV under a header", f"line {number}, {line!r}")


def _of_message(message: Any) -> list[Row]:
    rows = message.get("values") if isinstance(message, dict) else message
    is_change = isinstance(message, dict) and message.get("type") == "delta"
    rows = rows if isinstance(rows, list) else []
    return [Row(row if isinstance(row, dict) else {}, is_change) for row in rows]


def _cells(line: bytes) -> list[str]:
    """Return the cells of one line of CSV, none where it is none: an open quote would swallow the lines after it."""
    try:
        (cells,) = csv.reader([line.decode(errors="replace")], strict=True, skipinitialspace=True)
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _reading(row: Row, taken_s: float, path: Path, odd: Oddities) -> Reading | None:
    fields = {key: value for key, value in row.fields.items() if value not in ABSENT}
    if (port := _port(fields)) is None:
        return None
    said = _figures(fields, path, odd)
    written = fields.get("timestamp")
    ms = None if written is None else event_time_ms(_number(written), path, odd, usual="µs")
    ms = taken_s * 1000 if ms is None else ms
    utilization = said.get("Normalized_MBOut", -1)
    extended = {to: int(said[of]) for of, to in EXTENDED.items() if of in said}
    return Reading(
        node=port[0],
        port=port[1],
        ts=int(ms),
        monotonic_s=ms / 1000,
        counters={
            **{to: int(said[of]) // WORD_BYTES for of, to in BYTES.items() if of in said},
            **{to: int(said[of]) for of, to in NAMES.items() if of in said},
            **extended,
        },
        bits=dict.fromkeys(extended, 64),
        stated={"utilization": utilization} if 0 <= utilization <= 100 else {},
        extra={"congestion_gbps": float(said["CBW"])} if "CBW" in said else {},
        is_change=row.is_change,
        unknown=next((key for key, value in fields.items() if _is_unknown(key, value)), ""),
    )


def _port(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return node and port of a row, None where it names none."""
    single = _named(fields, NODES, PORTS)
    aggregated = _named(fields, SYSTEMS, AGGREGATED_PORTS, prefix="aport")
    return aggregated or single if fields.get("port_type") == "aggregated" else single or aggregated


def _named(
    fields: Mapping[str, Any], nodes: Sequence[str], ports: Sequence[str], prefix: str = ""
) -> tuple[str, str] | None:
    node = next((fields[key] for key in nodes if key in fields), None)
    port = next((fields[key] for key in ports if key in fields), None)
    if not isinstance(node, str) or not isinstance(port, int | str) or isinstance(port, bool):
        return None
    return node.lower(), f"{prefix}{port}"


def _figures(fields: Mapping[str, Any], path: Path, odd: Oddities) -> dict[str, float]:
    figures = {}
    for key, value in fields.items():
        if (name := _AROUND.sub("", key)) not in FIGURES:
            continue
        if 0 <= (figure := _number(value)) < 2**64:
            figures[name] = figure
        else:
            odd.note(path, f"{name} is no counter value", value)
    return figures


def _number(value: object) -> float:
    """Return the number of a field or of a cell, an integer as one, NaN where it is none."""
    if isinstance(value, str):
        for of_text in (int, float):
            try:
                return of_text(value)
            except ValueError:
                pass
    return value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _is_unknown(key: str, value: object) -> bool:
    return key not in NO_COUNTERS and _AROUND.sub("", key) not in FIGURES and not math.isnan(_number(value))
