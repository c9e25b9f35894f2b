"""Ports from what node_exporter's infiniband collector says: Prometheus's text format, OpenMetrics, one scrape or many.

Lines are read by `prometheus_client`, each alone, so that an odd one blinds no other. node_exporter has already
multiplied data counters by 4, whatever the device counts in: they are the device's own again here. What it doesn't say:
whether a port is RoCE (`error_rate` is then that of the port alone), and on most versions the hw_counters.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from streams.ingest.sources.collect import Oddities, Reading
from streams.ingest.sources.counters import WORD_BYTES
from streams.ingest.sources.event_time import event_time_ms

BOOT = "node_boot_time_seconds"
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
RATE = "rate_bytes_per_second"
KNOWN = frozenset((*NAMES, *BYTES, *LEGACY, *STATES, RATE, "info"))

EXEMPLAR = " # "
EXEMPLAR_MARKS_MAX = 16  # as many of them are looked at, in labels too
OF_NODE_EXPORTER = ":9100"
OF_THE_PORT = ("device", "port", "instance")


class Sample(NamedTuple):
    """One line: `name` without the prefix, `ms` since 1970."""

    name: str
    labels: Mapping[str, str]
    value: float
    ms: float


def parse(content: bytes, path: Path, taken_s: float, *, host: str, odd: Oddities) -> list[Reading]:
    """Return the ports of one file by time, streams `node/device:port`, one reading a port and moment.

    `taken_s` is when the file was written; a sample's own time, where it has one, comes first. The node is `host`, or
    `instance` where there is such a label (see `node_of_instance`), with its cluster where that is known.
    """
    samples = list(_samples(content.decode("utf-8-sig", errors="replace"), path, taken_s, odd))
    telling = _telling_labels(samples, path, odd)
    ports: dict[tuple[float, str, str, str], dict[str, float]] = defaultdict(dict)
    boots: dict[str, dict[float, float]] = defaultdict(dict)
    for name, labels, value, ms in samples:
        node = _node(labels, host, telling)
        if name == BOOT:
            boots[node][ms] = value
        else:
            # Of two samples of one series and moment the later one counts.
            ports[ms, node, labels["device"], labels["port"]][name] = value
    return [_reading(at, said, _boot(boots[at[1]], at[0])) for at, said in sorted(ports.items(), key=_moment)]


def node_of_instance(instance: str) -> str:
    """Return the node of a target: its host, with the port unless that is node_exporter's own, 9100.

    So two tunnels to one address are two nodes, and the name of neither depends on whether the other is there.

    >>> [node_of_instance(i) for i in ("gpu7:9100", "127.0.0.1:9101", "[fd00::7]:9100", "fd00::9100")]
    ['gpu7', '127.0.0.1:9101', 'fd00::7', 'fd00::9100']
    """
    is_bare_v6 = instance.count(":") > 1 and not instance.startswith("[")
    host = instance if is_bare_v6 else instance.removesuffix(OF_NODE_EXPORTER)
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _samples(text: str, path: Path, taken_s: float, odd: Oddities) -> Iterator[Sample]:
    is_open_metrics = text.rstrip().endswith("# EOF")
    # Not splitlines: a label may hold one of the other characters that it takes for an end of line.
    for line in text.split("\n"):
        if (PREFIX not in line and BOOT not in line) or line.lstrip().startswith("#"):
            continue
        try:
            name, labels, value, written = _parsed(line)
        except (ValueError, IndexError):  # the parser looks beyond the end of some lines that are cut off
            odd.note(path, "has lines that are no samples", line)
            continue
        if name != BOOT and not (name.startswith(PREFIX) and labels.get("device") and labels.get("port")):
            continue
        if not 0 <= value < 2**64:
            odd.note(path, "has samples that are no counter values", value)
            continue
        usual = "s" if is_open_metrics else "ms"
        ms = None if written is None else event_time_ms(written, path, odd, usual=usual)
        yield Sample(name.removeprefix(PREFIX), labels, value, taken_s * 1000 if ms is None else ms)


def _parsed(line: str) -> tuple[str, dict[str, str], float, float | None]:
    """Return name, labels, value and time as it is written. Raises `ValueError`, or `IndexError` at a cut-off end."""
    # The text format's parser takes an exemplar's value for a time, that of OpenMetrics refuses a gauge with one, and
    # whole files over one odd line. What ends before the first mark outside of a label is a sample of both formats.
    parts = line.split(EXEMPLAR, EXEMPLAR_MARKS_MAX)
    for n in range(1, len(parts)):
        with suppress(ValueError, IndexError):
            return _sample(EXEMPLAR.join(parts[:n]))
    return _sample(line)


def _sample(text: str) -> tuple[str, dict[str, str], float, float | None]:
    (family,) = text_string_to_metric_families(text)
    ((name, labels, value, timestamp, *_),) = family.samples
    # The parser divides by 1000 what may be seconds as well.
    return name, labels, value, None if timestamp is None else float(timestamp) * 1000


def _telling_labels(samples: Sequence[Sample], path: Path, odd: Oddities) -> list[str]:
    """Return the labels that tell ports of one name apart: `cluster`, and those in which two series of a port differ.

    `cluster` counts even where there is one alone: the name of a node doesn't depend on who else is in the file. What
    two replicas of a Prometheus server say is said of the same port.
    """
    first: dict[tuple[str, ...], Mapping[str, str]] = {}
    telling = set()
    for name, labels, _, _ in samples:
        at = (name, *(labels.get(label, "") for label in (*OF_THE_PORT, "cluster")))
        other = first.setdefault(at, labels)
        if other is labels or other == labels:
            continue
        differing = sorted(label for label in other.keys() | labels if other.get(label) != labels.get(label))
        told = {label for label in differing if "replica" not in label}
        outcome = f"nodes of their own, named by {', '.join(sorted(told))}" if told else "one stream"
        odd.note(path, f"has two series of one port that differ in {', '.join(differing)}: {outcome}", at[1])
        telling |= told
    return ["cluster", *sorted(telling)]


def _node(labels: Mapping[str, str], host: str, telling: Sequence[str]) -> str:
    node = node_of_instance(labels.get("instance", "")) or host
    said = ",".join(f"{label}={labels[label]}" for label in telling if labels.get(label))
    return f"{node}{{{said}}}" if said else node


def _boot(boots: Mapping[float, float], ms: float) -> str:
    """Return the boot time that was said last until `ms`, or first where none was."""
    said = [at for at in boots if at <= ms]
    if not boots:
        return ""
    return str(floatToGoString(boots[max(said) if said else min(boots)]))  # type: ignore[no-untyped-call]


def _moment(port: tuple[tuple[float, str, str, str], dict[str, float]]) -> float:
    return port[0][0]


def _reading(at: tuple[float, str, str, str], said: Mapping[str, float], boot: str) -> Reading:
    ms, node, device, port = at
    data = {to: int(said[of]) // WORD_BYTES for of, to in (*LEGACY.items(), *BYTES.items()) if of in said}
    return Reading(
        node=node,
        port=f"{device}:{port}",
        ts=int(ms),
        monotonic_s=ms / 1000,
        counters={**data, **{to: int(said[of]) for of, to in NAMES.items() if of in said}},
        rate_gbps=said[RATE] * 8 / 1e9 if RATE in said else np.nan,
        boot=boot,
        extra={to: said[of] for of, to in STATES.items() if of in said},
        unknown=next((name for name in said if name not in KNOWN), ""),
    )
