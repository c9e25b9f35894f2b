"""Ports from the text of `perfquery`, with -x or without (infiniband-diags), one or many ports concatenated.

The text names a port by LID and number. LIDs may change with the subnet manager; a GUID in the file's name, as in
`perfquery_0x506b4b03005c2740.out`, stands for the node where the file has a single LID. The text has no time and no
link rate: a sample is as old as its file, and `utilization` stays missing.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from streams.ingest.sources.collect import Oddities, Reading
from streams.ingest.sources.counters import COUNTERS, TRAFFIC

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
"""CapabilityMask2 bit: the error counters of PortCountersExtended are there, and 64 bits wide. Without it older
versions print them all the same, always 0 (linux-rdma/rdma-core#695)."""

CLASSIC_BITS = dict.fromkeys(TRAFFIC, 32)
XMIT_WAIT_SUPPORTED = 0x1000
"""CapabilityMask bit: the classic counters have PortXmitWait; perfquery prints 0 without it."""

ALL_PORTS = "255"

_SECTION = re.compile(
    rb"^# Port(?P<x> extended)? counters: Lid (?P<lid>\d+) port (?P<port>\d+)"
    rb"(?:.*CapMask: (?P<mask>0x[0-9a-fA-F]+))?(?:.*CapMask2: (?P<mask2>0x[0-9a-fA-F]+))?"
)
_COUNTER = re.compile(rb"^(\w+):\.*(\S+)")
_GUID = re.compile(r"0x[0-9a-f]{16}")


def parse(content: bytes, path: Path, taken_s: float, *, odd: Oddities) -> list[Reading]:
    """Return the ports of one file, streams `guid/port` or `lid-N/port`; `taken_s` is when it was written.

    A port's classic and extended counters are two readings. Other sections (PortRcvErrorDetails) are passed over, as
    are the sums over all ports of a switch (port 255).
    """
    sections = _sections(content)
    guid = _GUID.search(path.name)
    is_one_node = len({head["lid"] for head, _ in sections}) == 1
    readings = []
    for head, lines in sections:
        if head["port"].decode() == ALL_PORTS:
            continue
        said = _said(lines)
        bits, uncounted = _widths(head)
        if head["x"] and uncounted and "SymbolErrorCounter" in said:
            odd.note(
                path, "has no error counters but zeros that nobody counts (CapMask2), left out: ask without -x too"
            )
        readings.append(
            Reading(
                node=guid[0] if guid and is_one_node else f"lid-{head['lid'].decode()}",
                port=head["port"].decode(),
                ts=int(taken_s * 1000),
                monotonic_s=taken_s,
                counters={n: v for n, v in _counters(said, path, odd).items() if n not in uncounted},
                bits=bits,
                unknown=next((name for name in said if name not in NAMES and "Select" not in name), ""),
            )
        )
    return readings


def _widths(head: re.Match[bytes]) -> tuple[Mapping[str, int], Collection[str]]:
    """Return the widths that aren't those of sysfs, and what is printed but not counted."""
    if head["x"]:
        has_errors = int(head["mask2"] or b"0", 16) & ADDITIONAL_EXTENDED_COUNTERS
        return (EXTENDED_BITS, ()) if has_errors else ({}, EXTENDED_BITS)
    has_wait = head["mask"] is None or int(head["mask"], 16) & XMIT_WAIT_SUPPORTED
    return CLASSIC_BITS, () if has_wait else ("port_xmit_wait",)


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


def _said(lines: list[bytes]) -> dict[str, bytes]:
    matches = filter(None, map(_COUNTER.match, lines))
    return {match[1].decode(errors="replace"): match[2] for match in matches}


def _counters(said: dict[str, bytes], path: Path, odd: Oddities) -> dict[str, int]:
    counters = {}
    for name, text in said.items():
        if (counter := NAMES.get(name)) is None:
            continue
        if text.isdigit() and len(text) <= 20 and int(text) < 2**64:
            counters[counter] = int(text)
        else:
            odd.note(path, f"{name} is no counter value", text)
    return counters
