"""Ports from the text of `perfquery -x` (infiniband-diags), one or many ports concatenated.

The text names a port by LID and number. LIDs may change with the subnet manager; a GUID in the file's name, as in
`perfquery_0x506b4b03005c2740.out`, stands for the node where the file has a single LID. The text has no time and no
link rate: a sample is as old as its file, and `utilization` stays missing.
"""

import re
from pathlib import Path

from streams.sources.collect import Oddities, Reading
from streams.sources.counters import COUNTERS

NAMES = {
    "PortXmitData": "port_xmit_data",
    "PortRcvData": "port_rcv_data",
    "PortXmitPkts": "port_xmit_packets",
    "PortRcvPkts": "port_rcv_packets",
    "SymbolErrorCounter": "symbol_error",
    "LinkErrorRecoveryCounter": "link_error_recovery",
    "LinkDownedCounter": "link_downed",
    "PortRcvErrors": "port_rcv_errors",
    "PortRcvRemotePhysicalErrors": "port_rcv_remote_physical_errors",
    "PortXmitDiscards": "port_xmit_discards",
    "LocalLinkIntegrityErrors": "local_link_integrity_errors",
    "ExcessiveBufferOverrunErrors": "excessive_buffer_overrun_errors",
    "PortXmitWait": "port_xmit_wait",
}
"""The counters of the Performance Management class, by the names that sysfs gives them."""

EXTENDED_BITS = {counter.name: 64 for counter in COUNTERS if counter.kind == "stick"}
ADDITIONAL_EXTENDED_COUNTERS = 0x2
"""CapabilityMask2 bit: the error counters of PortCountersExtended are there, and 64 bits wide."""

ALL_PORTS = "255"

_SECTION = re.compile(
    rb"^# Port(?P<x> extended)? counters: Lid (?P<lid>\d+) port (?P<port>\d+)(?:.*CapMask2: (?P<mask>0x[0-9a-fA-F]+))?"
)
_COUNTER = re.compile(rb"^(\w+):\.*(\S+)")
_GUID = re.compile(r"0x[0-9a-f]{16}")


def parse(content: bytes, path: Path, taken_s: float, *, odd: Oddities) -> list[Reading]:
    """Return the ports of one file, streams `guid/port` or `lid-N/port`; `taken_s` is when it was written.

    Other sections (PortRcvErrorDetails) are passed over, as are the sums over all ports of a switch (port 255).
    """
    sections = _sections(content)
    guid = _GUID.search(path.name)
    is_one_node = len({head["lid"] for head, _ in sections}) == 1
    return [
        Reading(
            node=guid[0] if guid and is_one_node else f"lid-{head['lid'].decode()}",
            port=head["port"].decode(),
            ts=int(taken_s * 1000),
            monotonic_s=taken_s,
            counters=_counters(lines, path, odd),
            bits=EXTENDED_BITS if int(head["mask"] or b"0", 16) & ADDITIONAL_EXTENDED_COUNTERS and head["x"] else {},
        )
        for head, lines in sections
        if head["port"].decode() != ALL_PORTS
    ]


def _sections(content: bytes) -> list[tuple[re.Match[bytes], list[bytes]]]:
    sections = []
    lines: list[bytes] = []
    for line in content.splitlines():
        if line.startswith(b"#"):
            lines = []
            if head := _SECTION.match(line):
                sections.append((head, lines))
        else:
            lines.append(line)
    return sections


def _counters(lines: list[bytes], path: Path, odd: Oddities) -> dict[str, int]:
    counters = {}
    for line in lines:
        if (match := _COUNTER.match(line)) is None:
            continue
        name, text = NAMES.get(match[1].decode(errors="replace")), match[2]
        if name is None:
            continue
        if text.isdigit() and len(text) <= 20 and int(text) < 2**64:
            counters[name] = int(text)
        else:
            odd.note(path, f"{name} is no counter value", text)
    return counters
