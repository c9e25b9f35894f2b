"""Ports from the text that node_exporter's infiniband collector writes (Prometheus exposition format).

It has already multiplied data counters by 4: they are bytes there, and words again here. What it doesn't say: whether
a port is RoCE (`error_rate` is then that of the port alone), and on most versions the hw_counters.
"""

import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

from streams.contract import EVENT_TIME_MS_MAX
from streams.sources.collect import Oddities, Reading
from streams.sources.counters import WORD_BYTES

PREFIX = "node_infiniband_"
NAMES = {
    "port_packets_transmitted_total": "port_xmit_packets",
    "port_packets_received_total": "port_rcv_packets",
    "port_errors_received_total": "port_rcv_errors",
    "port_discards_transmitted_total": "port_xmit_discards",
    "port_transmit_wait_total": "port_xmit_wait",
    "port_receive_remote_physical_errors_total": "port_rcv_remote_physical_errors",
    "symbol_error_total": "symbol_error",
    "link_error_recovery_total": "link_error_recovery",
    "link_downed_total": "link_downed",
    "local_link_integrity_errors_total": "local_link_integrity_errors",
    "excessive_buffer_overrun_errors_total": "excessive_buffer_overrun_errors",
    "local_ack_timeout_errors_total": "local_ack_timeout_err",
    "packet_sequence_errors_total": "packet_seq_err",
    "rnr_nak_retry_packets_received_total": "rnr_nak_retry_err",
    "out_of_sequence_packets_received_total": "out_of_sequence",
    "rx_icrc_encapsulated_errors_total": "rx_icrc_encapsulated",
    "req_cqes_errors_total": "req_cqe_error",
    "req_cqes_flush_errors_total": "req_cqe_flush_error",
    "resp_cqes_errors_total": "resp_cqe_error",
    "resp_cqes_flush_errors_total": "resp_cqe_flush_error",
    "req_remote_access_errors_total": "req_remote_access_errors",
    "resp_remote_access_errors_total": "resp_remote_access_errors",
}
BYTES = {
    "port_data_transmitted_bytes_total": "port_xmit_data",
    "port_data_received_bytes_total": "port_rcv_data",
}
LEGACY = {
    "legacy_data_transmitted_bytes_total": "port_xmit_data",
    "legacy_data_received_bytes_total": "port_rcv_data",
}
"""From `counters_ext` of kernels before 4.5; they stand in where the port's own are missing."""

STATES = {"state_id": "state", "physical_state_id": "phys_state"}
KNOWN = {*NAMES, *BYTES, *LEGACY, *STATES, "rate_bytes_per_second", "info"}

_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+(?P<ts>\d+))?\s*$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(content: bytes, path: Path, taken_s: float, *, host: str, odd: Oddities) -> list[Reading]:
    """Return the ports of one scrape, streams `host/device:port`; an `instance` label takes the place of `host`.

    `taken_s` is when the file was written; a sample's own time, where it has one, comes first.
    """
    ports: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    times: dict[tuple[str, str, str], int] = {}
    boots: dict[str, str] = {}
    for line in content.decode(errors="replace").splitlines():
        if not line.startswith((PREFIX, "node_boot_time_seconds")) or (sample := _SAMPLE.match(line)) is None:
            continue
        labels = dict(_LABEL.findall(sample["labels"] or ""))
        node = re.sub(r":\d+$", "", labels.get("instance", host))
        if not sample["name"].startswith(PREFIX):
            boots[node] = sample["value"]
        elif "device" in labels and "port" in labels:
            at = (node, labels["device"], labels["port"])
            ports[at][sample["name"].removeprefix(PREFIX)] = _number(sample["value"], path, odd)
            if sample["ts"] and int(sample["ts"]) <= EVENT_TIME_MS_MAX:
                times[at] = int(sample["ts"])
    return [
        _reading(at, said, times.get(at, int(taken_s * 1000)), boot=boots.get(at[0], "")) for at, said in ports.items()
    ]


def _number(text: str, path: Path, odd: Oddities) -> float:
    """Return a sample's value, NaN where it is no number from 0 to below 2^64."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 <= value < 2**64:
        return value
    odd.note(path, "has samples that are no counter values", text)
    return math.nan


def _reading(at: tuple[str, str, str], said: dict[str, float], ts: int, *, boot: str) -> Reading:
    node, device, port = at
    said = {name: value for name, value in said.items() if not math.isnan(value)}
    words = {to: int(said[of]) // WORD_BYTES for of, to in (*LEGACY.items(), *BYTES.items()) if of in said}
    return Reading(
        node=node,
        port=f"{device}:{port}",
        ts=ts,
        monotonic_s=ts / 1000,
        counters={**words, **{to: int(said[of]) for of, to in NAMES.items() if of in said}},
        rate_gbps=said["rate_bytes_per_second"] * 8 / 1e9 if "rate_bytes_per_second" in said else np.nan,
        boot=boot,
        extra={to: said[of] for of, to in STATES.items() if of in said},
        unknown=next((name for name in said if name not in KNOWN), ""),
    )
