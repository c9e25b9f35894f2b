"""Ports from NVIDIA UFM telemetry as JSON: one message, a list of rows, or JSON Lines of either.

Fields come as `Infiniband_SymbolErrors_u_Errors`: a name between the family and the unit. The unit isn't to be trusted:
`MBOut_u_Gb` counts *bytes* (in NVIDIA's own sample 288 a packet, a 256-byte management datagram with its headers). The
`…Extended` fields of newer agents are 64-bit and count words. UFM gives no link rate: utilization is its own
`Normalized_MBOut`, which knows the outbound direction only.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from streams.contract import EVENT_TIME_MS_MAX
from streams.sources.collect import Oddities, Reading
from streams.sources.counters import WORD_BYTES
from streams.sources.perfquery import NAMES as EXTENDED_STEMS

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

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_AROUND = re.compile(r"^infiniband_|(?:_f)?_u_\w+$", re.IGNORECASE)


def parse(content: bytes, path: Path, taken_s: float, *, odd: Oddities) -> list[Reading]:
    """Return the rows of one file, streams `guid/port`; `taken_s` is when it was written, for rows without a time."""
    readings = []
    for index, (row, is_change) in enumerate(_rows(content, path, odd)):
        reading = _reading(row, taken_s, path, odd) if isinstance(row, dict) else None
        if reading is None:
            odd.note(path, "has rows that name no port", f"row {index}")
        else:
            readings.append(replace(reading, is_change=is_change))
    return readings


def _rows(content: bytes, path: Path, odd: Oddities) -> Iterator[tuple[Any, bool]]:
    """Yield each row, and whether its message has only the values that changed."""
    try:
        messages = [msgspec.json.decode(content)]
    except UNDECODABLE:
        messages = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                messages.append(msgspec.json.decode(line))
            except UNDECODABLE as error:
                odd.note(path, "has lines that are no JSON", f"line {number}, {error}")
    for message in messages:
        rows = message.get("values") if isinstance(message, dict) else message
        is_change = isinstance(message, dict) and message.get("type") == "delta"
        yield from ((row, is_change) for row in rows) if isinstance(rows, list) else ()


def _reading(row: dict[str, Any], taken_s: float, path: Path, odd: Oddities) -> Reading | None:
    node, port = row.get("node_guid") or row.get("source_id"), row.get("port_num")
    if not isinstance(node, str) or not isinstance(port, int | str):
        return None
    time_us = row.get("timestamp")
    if not isinstance(time_us, int) or not 0 < time_us // 1000 <= EVENT_TIME_MS_MAX:
        time_us = int(taken_s * 1e6)
    said = {name: value for key, value in row.items() if _is_figure(name := _AROUND.sub("", key), value, path, odd)}
    utilization = said.get("Normalized_MBOut", -1)
    extended = {to: int(said[of]) for of, to in EXTENDED.items() if of in said}
    return Reading(
        node=node,
        port=str(port),
        ts=time_us // 1000,
        monotonic_s=time_us / 1e6,
        counters={
            **{to: int(said[of]) // WORD_BYTES for of, to in BYTES.items() if of in said},
            **{to: int(said[of]) for of, to in NAMES.items() if of in said},
            **extended,
        },
        bits=dict.fromkeys(extended, 64),
        stated={"utilization": utilization} if 0 <= utilization <= 100 else {},
        extra={"congestion_gbps": float(said["CBW"])} if "CBW" in said else {},
    )


def _is_figure(name: str, value: object, path: Path, odd: Oddities) -> bool:
    if name not in BYTES | NAMES | EXTENDED and name not in ("Normalized_MBOut", "CBW"):
        return False
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**64:
        return True
    odd.note(path, f"{name} is no counter value", value)
    return False
