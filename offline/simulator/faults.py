"""Which faults strike, when, and whom: arrivals by class, frailty by link, and one cause for many ports.

Every class is a Poisson process over the fabric: a seed port is drawn (weak links more often, where the class is
frail) and the incident strikes the group around it. A group of g ports is kept with probability 1 / g, so that the
rate per port is the table's whatever the groups are.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator.draws import MINUTE_MS, arrivals, draws, lognormal_ms
from offline.simulator.load import Schedule
from offline.simulator.parameters import FAULTS, Fault, Parameters
from offline.simulator.topology import Topology

QUIET_MS = 10 * MINUTE_MS  # between two incidents of one port, so that each has a truth of its own
RETURNS_WITHIN_MS = 24 * 3_600_000
RETURN_SHARE = 0.6  # of flapping links that flap again within a day; assumed


class Strike(NamedTuple):
    """An incident, in port numbers. `draw_id` names its own stream of draws."""

    name: str
    draw_id: int
    ports: tuple[int, ...]
    start_ms: int
    end_ms: int
    precursor_start_ms: int | None


def strikes(
    topology: Topology, jobs: Schedule, parameters: Parameters, *, seed: int, start_ms: int, end_ms: int
) -> list[Strike]:
    """Return the incidents that start in [start_ms, end_ms), by start; no port has two at once."""
    n_links = len(topology.links)
    frailty = draws(seed, "frailty").gamma(parameters.frailty_shape, 1 / parameters.frailty_shape, n_links)
    candidates = sorted(
        (
            strike
            for name in FAULTS
            for strike in _candidates(name, topology, jobs, parameters, frailty, seed, start_ms, end_ms)
        ),
        key=lambda strike: (strike.start_ms, strike.name),
    )
    busy_until = np.full(2 * n_links, -1, np.int64)
    kept = []
    for strike in candidates:
        ports = list(strike.ports)
        # The far end is kept free too: a link has one story at a time.
        free_from = int(busy_until[[*ports, *(port ^ 1 for port in ports)]].max()) + QUIET_MS
        placed = _placed(strike, free_from)
        if placed is not None:
            busy_until[ports] = placed.end_ms
            kept.append(placed)
    return kept


def _placed(strike: Strike, free_from: int) -> Strike | None:
    """Return the strike, its precursor cut to where its ports are free; None if they aren't, or it gets too short."""
    precursor = strike.precursor_start_ms
    if precursor is not None and precursor < free_from:
        precursor = free_from
    begins = strike.start_ms if precursor is None else precursor + FAULTS[strike.name].precursor_min[0] * MINUTE_MS
    return strike._replace(precursor_start_ms=precursor) if free_from <= begins <= strike.start_ms else None


def _candidates(
    name: str,
    topology: Topology,
    jobs: Schedule,
    parameters: Parameters,
    frailty: NDArray[np.float64],
    seed: int,
    start_ms: int,
    end_ms: int,
) -> Iterator[Strike]:
    fault = FAULTS[name]
    n_units, weight = _units(fault, topology, frailty)
    if n_units == 0:
        return
    draw = draws(seed, "faults", name)
    per_year = parameters.fault_per_year(name) * n_units
    for i, t in enumerate(arrivals(draw, per_year=per_year, start_ms=start_ms, end_ms=end_ms)):
        own = draws(seed, "strike", name, i)
        seed_port = 2 * int(own.choice(weight.size, p=weight)) + int(own.integers(2))
        ports = _group(fault, seed_port, topology, jobs, own)
        if fault.unit == "port" and own.random() * len(ports) >= 1.0:
            continue
        for start in _starts(name, t, own):
            strike = _strike(name, i, ports, start, jobs, own)
            if strike is not None and strike.start_ms < end_ms:
                yield strike


def _units(fault: Fault, topology: Topology, frailty: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """Return how many units the rate counts, and the chance of each link to hold the seed port."""
    has_host = topology.host[::2] >= 0
    weight = frailty if fault.is_frail else np.ones_like(frailty)
    if fault.scope in ("host", "job"):
        weight = weight * has_host
    n_hosts = len(set(topology.host[::2][has_host].tolist()))
    n_units = {"link": weight.size, "port": 2 * int(np.count_nonzero(weight)), "host": n_hosts}[fault.unit]
    return n_units, weight / max(weight.sum(), 1e-300)


def _group(
    fault: Fault, seed_port: int, topology: Topology, jobs: Schedule, draw: np.random.Generator
) -> tuple[int, ...]:
    """Return the ports struck together with `seed_port`, itself included, ascending."""
    port, host, leaf = seed_port, int(topology.host[seed_port]), int(topology.leaf[seed_port])
    match fault.scope:
        case "end":
            return (port,)
        case "link":
            return (port & ~1, port | 1)
        case "host":
            members = np.flatnonzero(topology.is_adapter & (topology.host == host))
        case "job":
            members = np.flatnonzero(topology.is_adapter & (jobs.slot == jobs.slot[port]))
        case "uplinks":
            links = np.flatnonzero((topology.leaf[::2] == leaf) & (topology.host[::2] < 0))
            links = links[draw.random(links.size) < 0.5]
            members = np.concatenate([2 * links, 2 * links + 1, [port & ~1, port | 1]])
        case _:
            same_node = np.flatnonzero(topology.node == topology.node[port])
            members = np.append(same_node[draw.random(same_node.size) < 0.5], port)
    return tuple(sorted(set(members.tolist())))


def _starts(name: str, t: int, draw: np.random.Generator) -> Iterator[int]:
    yield t
    while name == "connection_instability" and draw.random() < RETURN_SHARE:
        t += int(draw.uniform(0.02, 1.0) * RETURNS_WITHIN_MS)
        yield t


def _strike(
    name: str, i: int, ports: tuple[int, ...], start: int, jobs: Schedule, draw: np.random.Generator
) -> Strike | None:
    fault = FAULTS[name]
    end = start + lognormal_ms(draw, median_min=fault.median_min, sigma=fault.sigma)
    if fault.needs_job:
        job = jobs.job_from(ports[0], start)
        if job is None:
            return None
        if start < job.start_ms:
            shift = int(draw.uniform(job.start_ms, job.end_ms)) - start
            start, end = start + shift, end + shift
        end = min(end, job.end_ms)  # an idle port shows nothing, and the next job gets a mended one
        if end - start < MINUTE_MS:
            return None
    has_precursor = draw.random() < fault.predictable
    precursor = start - int(draw.uniform(*fault.precursor_min) * MINUTE_MS) if has_precursor else None
    return Strike(name, strike_id(i, start), ports, start, end, precursor)


def strike_id(i: int, start_ms: int) -> int:
    """Return the number of a strike within its class: the same cause may strike again later.

    >>> strike_id(3, 1_000) != strike_id(3, 2_000)
    True
    """
    return i * 1_000_003 + start_ms
