"""What must not alarm: drains, reboots, cleared counters, firmware waves, new cables, gaps, a prober's own noise."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator import segments as effect
from offline.simulator.draws import arrivals, draws, lognormal_ms
from offline.simulator.parameters import DECOYS, Parameters
from offline.simulator.segments import Segment
from offline.simulator.topology import Topology

WAVE_MS = 86_400_000  # a firmware rollout reaches every port within a day; assumed


class Decoy(NamedTuple):
    """One event that looks like a fault: no truth names it, so an alarm on it is false."""

    name: str
    draw_id: int
    ports: tuple[int, ...]
    start_ms: int
    end_ms: int


def decoys(topology: Topology, parameters: Parameters, *, seed: int, start_ms: int, end_ms: int) -> list[Decoy]:
    """Return the decoys that start in [start_ms, end_ms), by start."""
    found = []
    for name, decoy in DECOYS.items():
        groups = _groups(decoy.unit, topology)
        draw = draws(seed, "decoys", name)
        per_year = parameters.decoy_per_year(name) * len(groups)
        for i, t in enumerate(arrivals(draw, per_year=per_year, start_ms=start_ms, end_ms=end_ms)):
            own = draws(seed, "decoy", name, i)
            ports = groups[int(own.integers(len(groups)))]
            lasts = lognormal_ms(own, median_min=decoy.median_min, sigma=decoy.sigma)
            found.append(Decoy(name, i, tuple(ports.tolist()), t, t + lasts))
    return sorted(found, key=lambda decoy: (decoy.start_ms, decoy.name))


def _groups(unit: str, topology: Topology) -> list[NDArray[np.int64]]:
    match unit:
        case "host":
            return [
                np.flatnonzero(topology.is_adapter & (topology.host == h)) for h in np.unique(topology.host) if h >= 0
            ]
        case "leaf":
            return [np.flatnonzero(topology.node == leaf) for leaf in np.unique(topology.leaf)]
        case "port":
            return list(np.arange(topology.node.size)[:, np.newaxis])
        case _:
            return [np.arange(topology.node.size)]


def segments_of(decoy: Decoy, *, seed: int, run_end_ms: int) -> Iterator[Segment]:
    """Yield what `decoy` does to its ports and their cables."""
    draw = draws(seed, "decoy story", decoy.name, decoy.draw_id)
    start, end = decoy.start_ms, decoy.end_ms
    noise = float(draw.uniform(1.5, 4.0))
    for port in decoy.ports:
        match decoy.name:
            case "prober_noise":
                yield Segment(port, effect.LATENCY, start, end, noise)
            case "drain":
                for cable_end in (port, port ^ 1):
                    yield Segment(cable_end, effect.BANDWIDTH, start, end, 0.0)
            case "reboot":
                yield Segment(port, effect.SILENT, start, end, 1.0)
                yield Segment(port, effect.BOOTED, end, end + 1, 1.0)
                for cable_end in (port, port ^ 1):
                    yield Segment(cable_end, effect.DOWN, start, end, 1.0)
            case "cable_burn_in":
                yield Segment(port, effect.SYMBOL, start, end, 5.0)
                yield Segment(port, effect.ERROR, start, end, 1e-7)
            case "counter_clear":
                yield Segment(port, effect.CLEARED, start, start + 1, 1.0)
            case "firmware_wave":
                reached = start + int(draw.integers(WAVE_MS))
                yield Segment(port, effect.LATENCY, reached, max(reached + 1, run_end_ms), draw.uniform(0.92, 1.08))
            case _:
                yield Segment(port, effect.SILENT, start, end, 1.0)
