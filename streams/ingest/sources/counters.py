"""Deltas of hardware counters, over arrays: width, wrap, stick, reset, gap, boot marker.

A port's counters are 4 to 64 bits wide. Traffic and transport counters wrap; the classic error counters *stick* at
their maximum, and a stuck counter says nothing more: its delta is unknown, never 0. Widths are those of the kernel's
PORT_PMA_ATTR (drivers/infiniband/core/sysfs.c) and of mlx5's Q counters (hw/mlx5/counters.c).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

GAP_PERIODS = 3
"""An interval longer than this many periods is a gap: samples were missed in it."""

WORD_BYTES = 4
"""Data counters count 4-byte words, on every link width (Documentation/ABI/stable/sysfs-class-infiniband); some
devices count otherwise (`streams.ingest.sources.devices`)."""

DATA = ("port_xmit_data", "port_rcv_data")
TRAFFIC = (*DATA, "port_xmit_packets", "port_rcv_packets")


class Counter(NamedTuple):
    """One counter: its name in sysfs, its width there, and what it does at its maximum."""

    name: str
    bits: int
    kind: Literal["wrap", "stick"]


COUNTERS = (
    Counter("port_xmit_data", 64, "wrap"),
    Counter("port_rcv_data", 64, "wrap"),
    Counter("port_xmit_packets", 64, "wrap"),
    Counter("port_rcv_packets", 64, "wrap"),
    Counter("port_rcv_errors", 16, "stick"),
    Counter("port_rcv_remote_physical_errors", 16, "stick"),
    Counter("port_xmit_discards", 16, "stick"),
    Counter("symbol_error", 16, "stick"),
    Counter("link_error_recovery", 8, "stick"),
    Counter("link_downed", 8, "stick"),
    Counter("local_link_integrity_errors", 4, "stick"),
    Counter("excessive_buffer_overrun_errors", 4, "stick"),
    Counter("port_xmit_wait", 32, "stick"),
    # hw_counters: mlx5 reads its Q counters as 32 bits and widens them, so they wrap at 2^32.
    Counter("req_cqe_error", 32, "wrap"),
    Counter("req_cqe_flush_error", 32, "wrap"),
    Counter("resp_cqe_error", 32, "wrap"),
    Counter("resp_cqe_flush_error", 32, "wrap"),
    Counter("local_ack_timeout_err", 32, "wrap"),
    Counter("packet_seq_err", 32, "wrap"),
    Counter("rnr_nak_retry_err", 32, "wrap"),
    Counter("req_transport_retries_exceeded", 32, "wrap"),
    Counter("req_rnr_retries_exceeded", 32, "wrap"),
    Counter("req_remote_access_errors", 32, "wrap"),
    Counter("resp_remote_access_errors", 32, "wrap"),
    Counter("out_of_sequence", 32, "wrap"),
    Counter("rx_icrc_encapsulated", 64, "wrap"),
)
"""The counters that the metrics need, in the order of every counter array here; C of them."""

INDEX = {counter.name: at for at, counter in enumerate(COUNTERS)}
"""The place of a counter, by name, in the last axis of every counter array."""

BITS = np.array([counter.bits for counter in COUNTERS], np.uint8)
"""Widths in sysfs, shape `(C,)`."""

_STICKS = np.array([counter.kind == "stick" for counter in COUNTERS])


@dataclass(frozen=True, slots=True)
class Samples:
    """The counters of n ports, each read once.

    `values` (uint64, `(n, C)`) as read, meaningless where `is_read` (bool, `(n, C)`) is false; `monotonic_s` (float64)
    is the time of the reading on a clock that never steps; `boot` (int64) is a marker of the counters' life: any other
    value than before means that they began anew. Both have shape `(n,)`, or `(n, C)` where the counters of a port were
    read at times of their own.
    """

    values: NDArray[np.uint64]
    is_read: NDArray[np.bool_]
    monotonic_s: NDArray[np.float64]
    boot: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Deltas:
    """What n ports counted between two samples.

    `value` (float64, `(n, C)`) is NaN where unknown. Where `is_saturated` (bool, `(n, C)`) the counter stands at its
    maximum: the value, if any, is a lower bound. `is_reset` (bool, `(n, C)`): it began anew at an unknown moment.
    `is_present` (bool, `(n, C)`): the port has such a counter, for it was read at least once of the two times.
    `elapsed_s` (float64, `(n, C)`) is each counter's real interval; `is_gap` (bool, `(n,)`) says that samples were
    missed in one of them.
    """

    value: NDArray[np.float64]
    is_saturated: NDArray[np.bool_]
    is_reset: NDArray[np.bool_]
    is_present: NDArray[np.bool_]
    elapsed_s: NDArray[np.float64]
    is_gap: NDArray[np.bool_]


def deltas(previous: Samples, current: Samples, *, period_s: float, bits: NDArray[np.uint8] | None = None) -> Deltas:
    """Return what was counted from `previous` to `current`, of the same n ports in the same order.

    `bits` are the widths of this source where they aren't those of sysfs (2 to 64, `(C,)` or `(n, C)`): `perfquery -x`
    has 64-bit error counters, a classic source has 32-bit data. A wrap counter that goes back has wrapped if it came
    from the top quarter of its range to the lowest one; anything else that goes back was reset, as is everything when
    `boot` changes. An interval that isn't longer than 0 leaves all unknown. Arrays of other shapes are a `ValueError`.

    Examples
    --------
    >>> def errors(value, at):
    ...     one = np.zeros((1, len(COUNTERS)), np.uint64)
    ...     one[0, INDEX["port_rcv_errors"]] = value
    ...     return Samples(one, np.ones_like(one, bool), np.array([at]), np.array([7]))
    >>> stuck = deltas(errors(65_535, 0.0), errors(65_535, 10.0), period_s=10)
    >>> at = INDEX["port_rcv_errors"]
    >>> stuck.value[0, at], stuck.is_saturated[0, at]
    (np.float64(nan), np.True_)
    """
    shape = (len(current.monotonic_s), len(COUNTERS))
    if not previous.values.shape == current.values.shape == shape:
        raise ValueError(
            f"samples have shapes {previous.values.shape} and {current.values.shape}: pass the same ports twice, "
            f"{len(COUNTERS)} counters each"
        )
    before, now = previous.values, current.values
    quarter = np.uint64(1) << ((BITS if bits is None else bits).astype(np.uint64) - np.uint64(2))
    top = quarter * np.uint64(4) - np.uint64(1)  # modulo 2^64, which is right for 64 bits

    elapsed_s = _columns(current.monotonic_s) - _columns(previous.monotonic_s)
    is_read_twice = previous.is_read & current.is_read
    is_restarted = _columns(current.boot) != _columns(previous.boot)
    is_back = now < before
    # A value above the top proves that the source is wider than declared: then it can't have wrapped there.
    is_wrapped = is_back & ~_STICKS & (before > quarter * np.uint64(3)) & (before <= top) & (now < quarter)
    is_reset = is_read_twice & (is_restarted | (is_back & ~is_wrapped))
    # Modulo the width only where it wrapped: a value wider than declared keeps its upper bits.
    counted = np.where(is_wrapped, (now - before) & top, now - before).astype(np.float64)
    is_known = is_read_twice & ~is_reset & ~(_STICKS & (before == top) & (now == top)) & (elapsed_s > 0)
    return Deltas(
        value=np.where(is_known, counted, np.nan),
        is_saturated=current.is_read & _STICKS & (now == top),
        is_reset=is_reset,
        is_present=previous.is_read | current.is_read,
        elapsed_s=np.broadcast_to(elapsed_s, shape),  # a view where all counters of a port have one interval
        is_gap=(elapsed_s > GAP_PERIODS * period_s).any(axis=1),
    )


def _columns(of_ports: NDArray[Any]) -> NDArray[Any]:
    return of_ports if of_ports.ndim == 2 else of_ports[:, np.newaxis]
