"""What a port did in one interval, from the deltas of its counters: the metrics of an event and named extras.

Counters give no latency: `latency_p99` stays missing unless somebody probes. NaN where an operand is unknown; a figure
that can't be is quarantined (missing, and `quarantined` says how many were), never clipped into looking plausible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.ingest.sources.counters import DATA, INDEX, WORD_BYTES, Deltas

COMPLETION_ERRORS = ("req_cqe_error", "resp_cqe_error")
FLUSH_ERRORS = ("req_cqe_flush_error", "resp_cqe_flush_error")
"""Completions flushed at the end of a queue pair, a job's normal end. The completion errors include them: the mlx5_0
of procfs's fixtures says 3481 with 80 flushed of the requester, 8109 with 4708 of the responder, 3401 left on each."""

QP_ERRORS = (
    *COMPLETION_ERRORS,
    "local_ack_timeout_err",
    "packet_seq_err",
    "rnr_nak_retry_err",
    "req_transport_retries_exceeded",
    "req_rnr_retries_exceeded",
    "req_remote_access_errors",
    "resp_remote_access_errors",
)
"""Failed completions and retries of queue pairs; the flushed ones come off again."""

MR_FAILURES = ("req_remote_access_errors", "resp_remote_access_errors")
ROCE_ERRORS = ("out_of_sequence", "rx_icrc_encapsulated")

PACKETS_MIN = 1_000
"""Floor of the packets that errors are divided by: one bad packet of three isn't 33 % loss."""

LINE_RATE_TOLERANCE = 1.05
"""What a port may exceed its line rate by: a sample's time isn't quite its counters' own."""

STALL_TICK_BYTES = 64
"""Transmission lost per tick of `port_xmit_wait` on recent NVIDIA parts (NVIDIA/ib-traffic-monitor#3)."""

FASTEST_GBPS = 1_600.0
"""No link is faster, so neither is one whose rate is unknown (4X GDR)."""

COUNT_PER_MINUTE_MAX = 1e12
"""The bound of the contract; no 32-bit counter gets there in an interval of more than a few milliseconds, but a 64-bit
one may."""

COUNTED = {
    "symbol_errors": "symbol_error",
    "recoveries": "link_error_recovery",
    "link_downed": "link_downed",
    "remote_errors": "port_rcv_remote_physical_errors",
    "discards": "port_xmit_discards",
}
"""The metrics that are one counter per 60 s."""

FloatArray = NDArray[np.float64]


class Operands(NamedTuple):
    """The counters that one metric is made of: all it needs, and those it takes too where a port has them."""

    needed: tuple[str, ...]
    if_present: tuple[str, ...] = ()


JOINT = {
    "bandwidth_gbps": Operands(DATA),
    "error_rate": Operands(
        ("port_rcv_errors", "port_xmit_discards", "port_xmit_packets", "port_rcv_packets"), if_present=ROCE_ERRORS
    ),
    "qp_errors": Operands((), if_present=(*QP_ERRORS, *FLUSH_ERRORS)),
    "mr_failures": Operands((), if_present=MR_FAILURES),
}
"""The metrics that join several counters: what is joined must have been counted over the same time."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """The links of n ports.

    `rate_gbps` (float64, `(n,)`) is the active rate of the whole port, NaN where unknown. A port that `is_bond` (bool)
    may carry more than that, for its legs come and go: then its rate is unknown, and its counters are right.
    `data_bytes` (int64) is what one count of its data counters stands for. The last two may be one value for all.
    """

    rate_gbps: FloatArray
    is_roce: NDArray[np.bool_]
    is_bond: NDArray[np.bool_] | bool = False
    data_bytes: NDArray[np.int64] | int = WORD_BYTES


def metrics(deltas: Deltas, link: LinkState, joint: Mapping[str, Deltas] | None = None) -> dict[str, FloatArray]:
    """Return the metrics of the n ports and their extras by name, float64, each of shape `(n,)`, NaN where unknown.

    `joint` has the deltas of the `JOINT` metrics where these aren't `deltas`: each over one interval for all counters.

    Metrics, in the units of `contract.MetricEvent`: all of its, but for `latency_p99`. Extras: `tx_gbps`, `rx_gbps`,
    `rate_gbps` (Gb/s); `saturated`, `reset`, `quarantined` (how many counters or figures), `gap` (0 or 1).
    """
    by_metric = dict.fromkeys(JOINT, deltas) | dict(joint or {})
    limit_gbps = LINE_RATE_TOLERANCE * np.where(np.isnan(link.rate_gbps) | link.is_bond, FASTEST_GBPS, link.rate_gbps)
    tx, tx_bad = _within(_gbps(deltas, "port_xmit_data", link), limit_gbps)
    rx, rx_bad = _within(_gbps(deltas, "port_rcv_data", link), limit_gbps)
    bandwidth, _ = _within(_bandwidth(by_metric["bandwidth_gbps"], link), limit_gbps)
    error_rate, error_bad = _within(_error_rate(by_metric["error_rate"], link.is_roce), 1.0)
    stall, stall_bad = _within(_stall(deltas, link.rate_gbps), LINE_RATE_TOLERANCE)
    qp_errors, qp_bad = _within(_qp_errors(by_metric["qp_errors"]), COUNT_PER_MINUTE_MAX)
    mr_failures, mr_bad = _within(_mr_failures(by_metric["mr_failures"]), COUNT_PER_MINUTE_MAX)
    counted = {name: _within(_per_minute(deltas, of), COUNT_PER_MINUTE_MAX) for name, of in COUNTED.items()}
    utilization, _ = _within(_ratio(100 * bandwidth, link.rate_gbps), 100 * LINE_RATE_TOLERANCE)
    return {
        "utilization": np.minimum(utilization, 100.0),
        "error_rate": error_rate,
        "bandwidth_gbps": bandwidth,
        "qp_errors": qp_errors,
        "mr_failures": mr_failures,
        **{name: figure for name, (figure, _) in counted.items()},
        "stall": np.minimum(stall, 1.0),
        "tx_gbps": tx,
        "rx_gbps": rx,
        "rate_gbps": link.rate_gbps,
        "saturated": deltas.is_saturated.sum(axis=1, dtype=np.float64),
        "reset": deltas.is_reset.sum(axis=1, dtype=np.float64),
        "gap": deltas.is_gap.astype(np.float64),
        "quarantined": np.sum(
            [tx_bad, rx_bad, error_bad, stall_bad, qp_bad, mr_bad, *(is_bad for _, is_bad in counted.values())],
            axis=0,
            dtype=np.float64,
        ),
    }


def _value(deltas: Deltas, counter: str) -> FloatArray:
    return deltas.value[:, INDEX[counter]]


def _ratio(over: FloatArray, under: FloatArray) -> FloatArray:
    """Divide, NaN where `under` isn't above 0: a port that is down has a rate of 0, an interval may be empty."""
    return np.divide(over, under, out=np.full_like(over, np.nan), where=under > 0)


def _within(figure: FloatArray, limit: FloatArray | float) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return `figure` with NaN in place of what is above `limit`, and where that was."""
    is_bad = figure > limit
    return np.where(is_bad, np.nan, figure), is_bad


def _per_minute(deltas: Deltas, counter: str) -> FloatArray:
    return _ratio(60 * _value(deltas, counter), deltas.elapsed_s[:, INDEX[counter]])


def _gbps(deltas: Deltas, counter: str, link: LinkState) -> FloatArray:
    gigabits: FloatArray = _value(deltas, counter) * (link.data_bytes * 8 / 1e9)
    return _ratio(gigabits, deltas.elapsed_s[:, INDEX[counter]])


def _bandwidth(deltas: Deltas, link: LinkState) -> FloatArray:
    """Return the larger direction, NaN if either is unknown."""
    tx, rx = (_gbps(deltas, counter, link) for counter in DATA)
    return np.maximum(tx, rx)


def _sum_of_present(deltas: Deltas, counters: Sequence[str]) -> FloatArray:
    """Add up those counters that a port has: unknown if one of them is, missing if it has none."""
    at = [INDEX[counter] for counter in counters]
    is_present = deltas.is_present[:, at]
    total: FloatArray = np.where(is_present, deltas.value[:, at], 0.0).sum(axis=1)
    return np.where(is_present.any(axis=1), total, np.nan)


def _qp_errors(deltas: Deltas) -> FloatArray:
    """Failed completions and retries per 60 s, without what a job's end flushes."""
    flushed = _sum_of_present(deltas, FLUSH_ERRORS)
    has_flushed = deltas.is_present[:, [INDEX[counter] for counter in FLUSH_ERRORS]].any(axis=1)
    errors = _sum_of_present(deltas, QP_ERRORS) - np.where(has_flushed, flushed, 0.0)
    # Two counters are read one after the other: a flush in between is in the second one only.
    return _joint_per_minute(np.maximum(errors, 0.0), deltas)


def _mr_failures(deltas: Deltas) -> FloatArray:
    return _joint_per_minute(_sum_of_present(deltas, MR_FAILURES), deltas)


def _joint_per_minute(count: FloatArray, deltas: Deltas) -> FloatArray:
    return _ratio(60 * count, deltas.elapsed_s[:, 0])  # the same for all counters of a joint metric


def _error_rate(deltas: Deltas, is_roce: NDArray[np.bool_]) -> FloatArray:
    """Errors per packet, on RoCE with what the transport saw too, where the device counts that.

    On InfiniBand a gap in the sequence is no error: adaptive routing makes them.
    """
    at = [INDEX[counter] for counter in ROCE_ERRORS]
    transport = np.where(deltas.is_present[:, at] & is_roce[:, np.newaxis], deltas.value[:, at], 0.0).sum(axis=1)
    errors = _value(deltas, "port_rcv_errors") + _value(deltas, "port_xmit_discards") + transport
    packets = _value(deltas, "port_xmit_packets") + _value(deltas, "port_rcv_packets")
    rate: FloatArray = errors / np.maximum(packets, PACKETS_MIN)  # np.maximum keeps the NaN of unknown packets
    return rate


def _stall(deltas: Deltas, rate_gbps: FloatArray) -> FloatArray:
    lost_gigabits = _value(deltas, "port_xmit_wait") * (STALL_TICK_BYTES * 8 / 1e9)
    return _ratio(_ratio(lost_gigabits, deltas.elapsed_s[:, INDEX["port_xmit_wait"]]), rate_gbps)
