"""One loop over ports and samples: what each port's counters show, and what a prober sees, from the effects on it.

Counters first: the loop moves counters as hardware does (widths, wraps, stuck maxima, resets), and the metrics come
from them by the same code that reads real ports (`streams.ingest.sources`). Randomness is counter-based: draw d of
port p at tick k is a hash of the three (splitmix64: Steele, Lea, Flood, OOPSLA 2014), so no cut of time or ports
changes it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator import segments as effect
from streams.compiled import inlined, kernel
from streams.ingest.sources.counters import INDEX


class Ports(NamedTuple):
    """What a port is, shape (n,), and (n, C) for the counters. Keys are the roots of its draws."""

    key: NDArray[np.uint64]
    link_key: NDArray[np.uint64]
    slot_key: NDArray[np.uint64]
    node_key: NDArray[np.uint64]
    slot: NDArray[np.int64]
    latency_us: NDArray[np.float64]  # base, of an idle port
    bit_error_rate: NDArray[np.float64]
    send_ratio: NDArray[np.float64]  # of the job's load that goes out here
    receive_ratio: NDArray[np.float64]
    is_adapter: NDArray[np.bool_]
    top: NDArray[np.uint64]  # highest value of each counter
    sticks: NDArray[np.bool_]


class State(NamedTuple):
    """Where the ports stand, shape (n,) and (n, C): advance it in place."""

    counters: NDArray[np.uint64]
    latency_noise: NDArray[np.float64]
    boot: NDArray[np.int64]


class Physics(NamedTuple):
    """The constants of `Parameters` that the loop reads, and the sampling period."""

    period_s: float
    jitter: float
    rate_gbps: float
    job_noise: float
    rail_noise: float
    packet_bytes: float
    background_packets_s: float
    background_bytes: float
    latency_phi: float  # per period
    latency_noise: float
    latency_queue: float
    qp_error_share: float
    qp_error_mean: float
    missing_share: float
    repeat_share: float
    late_share: float
    late_mean_s: float
    very_late_share: float
    very_late_max_s: float


class Readings(NamedTuple):
    """What n ports showed at T samples, shape (n, T), and (n, T, C) for `counters`."""

    counters: NDArray[np.uint64]
    boot: NDArray[np.int64]
    time_s: NDArray[np.float64]  # since the start of the run, on a clock that never steps
    latency_us: NDArray[np.float64]
    is_sampled: NDArray[np.bool_]
    is_repeated: NDArray[np.bool_]
    delay_s: NDArray[np.float64]


class At(NamedTuple):
    """Places of the counters that the loop moves."""

    port_xmit_data: int
    port_rcv_data: int
    port_xmit_packets: int
    port_rcv_packets: int
    port_rcv_errors: int
    port_rcv_remote_physical_errors: int
    symbol_error: int
    link_error_recovery: int
    link_downed: int
    port_xmit_wait: int
    local_ack_timeout_err: int
    packet_seq_err: int
    req_remote_access_errors: int


AT = At(*(INDEX[name] for name in At._fields))

# Numbers of the draws of one port and tick. A normal takes two.
_JITTER, _MISSED, _REPEATED, _LATE, _DELAY, _SYMBOLS, _RECOVERIES, _HAS_QP, _N_QP, _QP, _MR, _ERRORS = range(12)
_REMOTES, _JOB, _RAIL, _LATENCY = 14, 16, 18, 20
_DRAWS = 64


@inlined
def _uniform(key: int, tick: int, draw: int) -> float:
    """Return a uniform number in (0, 1)."""
    z = np.uint64(key) + np.uint64(tick * _DRAWS + draw + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (float(z >> np.uint64(11)) + 0.5) * 2.0**-53


@inlined
def _normal(key: int, tick: int, draw: int) -> float:
    """Return a standard normal number (Box and Muller, 1958)."""
    radius = np.sqrt(-2.0 * np.log(_uniform(key, tick, draw)))
    return float(radius * np.cos(2.0 * np.pi * _uniform(key, tick, draw + 1)))


@inlined
def _poisson(mean: float, key: int, tick: int, draw: int) -> float:
    """Return a Poisson number: by inversion, or its normal limit from a mean of 12 on."""
    if mean <= 0.0:
        return 0.0
    if mean >= 12.0:
        return float(max(0.0, np.rint(mean + np.sqrt(mean) * _normal(key, tick, draw))))
    u, n, p = _uniform(key, tick, draw), 0, np.exp(-mean)
    while u > p and n < 100:
        u -= p
        n += 1
        p *= mean / n
    return float(n)


@inlined
def _count(row: NDArray[np.uint64], at: int, amount: float, top: NDArray[np.uint64], sticks: NDArray[np.bool_]) -> None:
    add = np.uint64(amount)
    if sticks[at]:
        row[at] = top[at] if add >= top[at] - row[at] else row[at] + add
    else:
        row[at] = (row[at] + add) & top[at]


@inlined
def _sample_time(node_key: int, tick: int, physics: Physics) -> float:
    """Return when the node's sample of `tick` is taken: at the end of its interval, give or take the jitter, s."""
    shift = physics.jitter * (2.0 * _uniform(node_key, tick, _JITTER) - 1.0) if tick >= 0 else 0.0
    return float((tick + 1 + shift) * physics.period_s)


@kernel
def read(
    ports: Ports,
    state: State,
    jobs: NDArray[np.float64],
    effects: NDArray[np.float64],
    physics: Physics,
    at: At,
    first_tick: int,
) -> Readings:
    """Let n ports live through T intervals from `first_tick` on and sample each at its end.

    `jobs` has the load of each slot, shape (slots, T); `effects` is what `segments.painted` gives, shape
    (N_EFFECTS, n, T). `state` moves on with them.
    """
    _, n, n_ticks = effects.shape
    counters = np.empty((n, n_ticks, state.counters.shape[1]), np.uint64)
    boot = np.empty((n, n_ticks), np.int64)
    time_s, latency_us, delay_s = np.empty((n, n_ticks)), np.empty((n, n_ticks)), np.zeros((n, n_ticks))
    is_sampled, is_repeated = np.empty((n, n_ticks), np.bool_), np.empty((n, n_ticks), np.bool_)
    for p in range(n):
        key = ports.key[p]
        for k in range(n_ticks):
            tick, e = first_tick + k, effects[:, p, k]
            if e[effect.CLEARED] > 0 or e[effect.BOOTED] > 0:
                state.counters[p] = 0
                state.boot[p] += 1 if e[effect.BOOTED] > 0 else 0
            time_s[p, k] = _sample_time(ports.node_key[p], tick, physics)
            elapsed_s = time_s[p, k] - _sample_time(ports.node_key[p], tick - 1, physics)
            load = _traffic(ports, state.counters[p], p, jobs[ports.slot[p], k], e, elapsed_s, physics, at, tick)
            if ports.is_adapter[p]:
                _transport(ports, state.counters[p], p, e, elapsed_s, physics, at, tick)
            latency_us[p, k] = _probe(ports, state, p, load / e[effect.RATE], e, physics, tick)
            counters[p, k] = state.counters[p]
            boot[p, k] = state.boot[p]
            is_sampled[p, k] = e[effect.SILENT] < 0.5 and _uniform(key, tick, _MISSED) > physics.missing_share
            is_repeated[p, k] = _uniform(key, tick, _REPEATED) < physics.repeat_share
            lateness, how_late = _uniform(key, tick, _LATE), _uniform(key, tick, _DELAY)
            if lateness < physics.very_late_share:
                delay_s[p, k] = physics.very_late_max_s * how_late
            elif lateness < physics.late_share:
                delay_s[p, k] = -physics.late_mean_s * np.log(how_late)
    return Readings(counters, boot, time_s, latency_us, is_sampled, is_repeated, delay_s)


@inlined
def _traffic(
    ports: Ports,
    row: NDArray[np.uint64],
    p: int,
    job: float,
    e: NDArray[np.float64],
    elapsed_s: float,
    physics: Physics,
    at: At,
    tick: int,
) -> float:
    """Count one interval's packets and what befell them; return the load, as a fraction of the full line rate."""
    key, top, sticks = ports.key[p], ports.top[p], ports.sticks[p]
    noise = physics.job_noise * _normal(ports.slot_key[p], tick, _JOB)
    noise += physics.rail_noise * _normal(ports.link_key[p], tick, _RAIL)
    down = min(1.0, e[effect.DOWN])
    load = max(job * np.exp(noise), e[effect.LOAD]) * e[effect.BANDWIDTH] * (1.0 - down)
    load = min(load, 0.995 * e[effect.RATE])
    line_bytes = physics.rate_gbps * 1e9 / 8 * elapsed_s
    quiet = physics.background_packets_s * elapsed_s * (1.0 - down)
    sent, received = load * ports.send_ratio[p] * line_bytes, load * ports.receive_ratio[p] * line_bytes
    packets_sent, packets_received = sent / physics.packet_bytes + quiet, received / physics.packet_bytes + quiet
    _count(row, at.port_xmit_data, (sent + quiet * physics.background_bytes) / 4, top, sticks)
    _count(row, at.port_rcv_data, (received + quiet * physics.background_bytes) / 4, top, sticks)
    _count(row, at.port_xmit_packets, packets_sent, top, sticks)
    _count(row, at.port_rcv_packets, packets_received, top, sticks)
    # The metric divides by packets of both directions, and ERROR is what the metric shall show.
    share = min(1.0, e[effect.ERROR] + ports.bit_error_rate[p] * 8 * physics.packet_bytes)
    errors = _poisson(share * (packets_sent + packets_received), key, tick, _ERRORS)
    _count(row, at.port_rcv_errors, errors, top, sticks)
    remotes = _poisson(e[effect.REMOTE] * packets_received, key, tick, _REMOTES)
    _count(row, at.port_rcv_remote_physical_errors, remotes, top, sticks)
    _count(row, at.symbol_error, _poisson(e[effect.SYMBOL] * elapsed_s, key, tick, _SYMBOLS), top, sticks)
    flaps = 1.0 if 0.0 < down < 1.0 else 0.0
    retrained = flaps + _poisson(e[effect.RECOVERY] * elapsed_s / 60, key, tick, _RECOVERIES)
    _count(row, at.link_error_recovery, retrained, top, sticks)
    _count(row, at.link_downed, flaps, top, sticks)
    _count(row, at.port_xmit_wait, min(1.0, e[effect.STALL] + 0.02 * load * load) * line_bytes / 64, top, sticks)
    return float(load)


@inlined
def _transport(
    ports: Ports,
    row: NDArray[np.uint64],
    p: int,
    e: NDArray[np.float64],
    elapsed_s: float,
    physics: Physics,
    at: At,
    tick: int,
) -> None:
    """Count one interval's queue-pair errors of an adapter."""
    key, top, sticks, minutes = ports.key[p], ports.top[p], ports.sticks[p], elapsed_s / 60
    errors = _poisson(e[effect.QP] * minutes, key, tick, _QP)
    if _uniform(key, tick, _HAS_QP) < physics.qp_error_share * minutes:
        errors += 1 + np.floor(np.log(_uniform(key, tick, _N_QP)) / np.log(1 - 1 / physics.qp_error_mean))
    timeouts = np.ceil(0.7 * errors)
    _count(row, at.local_ack_timeout_err, timeouts, top, sticks)
    _count(row, at.packet_seq_err, errors - timeouts, top, sticks)
    _count(row, at.req_remote_access_errors, _poisson(e[effect.MR] * minutes, key, tick, _MR), top, sticks)


@inlined
def _probe(
    ports: Ports, state: State, p: int, utilization: float, e: NDArray[np.float64], physics: Physics, tick: int
) -> float:
    """Return the p99 of the interval's probes, µs, to the nanosecond of a time stamp; NaN if none came back."""
    innovation = physics.latency_noise * np.sqrt(1 - physics.latency_phi**2)
    noise = physics.latency_phi * state.latency_noise[p] + innovation * _normal(ports.key[p], tick, _LATENCY)
    state.latency_noise[p] = noise
    if e[effect.DOWN] > 0.5:
        return np.nan
    busy = min(utilization, 0.97)
    queued = 1.0 + physics.latency_queue * busy / (1.0 - busy)
    return float(np.rint(1000.0 * ports.latency_us[p] * np.exp(noise) * queued * e[effect.LATENCY]) / 1000.0)
