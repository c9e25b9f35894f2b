"""What each port is from the start: its latency, its bit errors, its counters' widths and values, its node's clock."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator.draws import draws
from offline.simulator.parameters import Parameters
from offline.simulator.ports import Physics, Ports, State
from offline.simulator.topology import Topology
from streams.ingest.sources.counters import BITS, COUNTERS, INDEX

STICKS = np.array([counter.kind == "stick" for counter in COUNTERS])
_IS_NARROW = STICKS & (BITS <= 16)
_IS_HW = np.arange(len(COUNTERS)) >= INDEX["req_cqe_error"]


class Collection(NamedTuple):
    """How each port is read, shape (n,), and (n, C) for the counters."""

    bits: NDArray[np.uint8]
    is_read: NDArray[np.bool_]  # a switch port has no hw_counters
    clock_s: NDArray[np.float64]  # offset of the node's clock, until its correction
    corrected_at_s: NDArray[np.float64]  # since the start of the run
    corrected_clock_s: NDArray[np.float64]


def ports_of(
    topology: Topology, slot: NDArray[np.int64], bits: NDArray[np.uint8], parameters: Parameters, seed: int
) -> Ports:
    """Return every port, the two ends of a link in its shared load."""
    n, draw = topology.node.size, draws(seed, "ports")
    link, is_upper = np.arange(n) // 2, np.arange(n) % 2 == 1
    base = parameters.latency_roce_us if topology.is_roce else parameters.latency_ib_us
    back = draw.uniform(0.85, 1.0, n // 2)[link]  # of the load upwards that comes down; assumed
    return Ports(
        key=_keys(draw, n),
        link_key=_keys(draw, n)[link],
        slot_key=_keys(draw, n)[slot],
        node_key=_keys(draw, 2 * n)[topology.node],
        slot=slot,
        latency_us=base * np.exp(parameters.latency_port_sigma * draw.standard_normal(n)),
        bit_error_rate=10 ** draw.uniform(*parameters.ber_log10, n),
        send_ratio=np.where(is_upper, back, 1.0),
        receive_ratio=np.where(is_upper, 1.0, back),
        is_adapter=topology.is_adapter,
        top=np.uint64(2**64 - 1) >> (np.uint64(64) - bits.astype(np.uint64)),
        sticks=np.tile(STICKS, (n, 1)),
    )


def _keys(draw: np.random.Generator, n: int) -> NDArray[np.uint64]:
    return draw.integers(0, 2**64, n, np.uint64)


def collection_of(topology: Topology, parameters: Parameters, seed: int) -> Collection:
    """Return how each node is read: narrow counters or wide, and by which clock."""
    n, nodes, draw = len(topology.nodes), topology.node, draws(seed, "collection")
    is_classic = (draw.random(n) < parameters.classic_share)[nodes]
    # `perfquery -x` and UFM read the error counters 64 bits wide; sysfs has them 4 to 16 bits wide.
    bits = np.where(~is_classic[:, np.newaxis] & _IS_NARROW, 64, BITS).astype(np.uint8)
    clock_s = parameters.clock_sigma_s * draw.standard_normal(n)
    far_s = draw.choice([-1.0, 1.0], n) * draw.uniform(1, 120, n)
    clock_s = np.where(draw.random(n) < parameters.clock_far_share, far_s, clock_s)
    return Collection(
        bits=bits,
        is_read=topology.is_adapter[:, np.newaxis] | ~_IS_HW,
        clock_s=clock_s[nodes],
        corrected_at_s=(draw.exponential(86_400 * parameters.clock_step_days, n))[nodes],
        corrected_clock_s=(parameters.clock_sigma_s * draw.standard_normal(n))[nodes],
    )


def state_of(ports: Ports, parameters: Parameters, seed: int) -> State:
    """Return the ports before the run: counters as a life of unknown length left them, some near or at their top."""
    shape, draw = ports.top.shape, draws(seed, "counters")
    values = np.where(STICKS, draw.integers(0, 3, shape), draw.integers(0, 1 << 30, shape)).astype(np.uint64)
    values[:, :4] += draw.integers(0, 1 << 50, (shape[0], 4), np.uint64)  # traffic
    extreme = draw.random(shape)
    near_top = ports.top - draw.integers(0, 100, shape, np.uint64)
    wraps_soon = ~STICKS & (ports.top < 2**33) & (extreme < parameters.near_wrap_share)
    is_stuck = STICKS & (ports.top < 2**33) & (extreme < parameters.stuck_share)
    noise: NDArray[np.float64] = parameters.latency_noise * draw.standard_normal(shape[:1])
    return State(
        counters=np.where(is_stuck, ports.top, np.where(wraps_soon, near_top, values)),
        latency_noise=noise,
        boot=np.zeros(shape[0], np.int64),
    )


def physics_of(parameters: Parameters, *, period_s: float, rate_gbps: float) -> Physics:
    """Return the constants of the loop at this sampling period."""
    own = {"period_s": period_s, "rate_gbps": rate_gbps, "latency_phi": parameters.latency_phi ** (period_s / 30)}
    same = {name: float(getattr(parameters, name)) for name in Physics._fields if name not in own}
    return Physics(**own, **same)
