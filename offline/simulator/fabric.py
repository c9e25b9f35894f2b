"""A seeded fabric, and its metric events in the order in which they would be sent.

Everything that will happen is planned first, from the seed (`load`, `faults`, `decoys`), as segments. A run then walks
event time in blocks; each slice of ports is simulated on its own, in this process or another, to the same bytes.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator import decoys as decoy
from offline.simulator import segments as effect
from offline.simulator.collecting import Arrivals, LastRead, arrived, events_of, nothing_read
from offline.simulator.faults import strikes
from offline.simulator.hardware import Collection, collection_of, physics_of, ports_of, state_of
from offline.simulator.load import job_end_segments, job_segments, schedule
from offline.simulator.parameters import PROFILES, Parameters, Profile
from offline.simulator.ports import AT, Ports, State, read
from offline.simulator.segments import columns, painted
from offline.simulator.stories import segments_of
from offline.simulator.topology import TopologyName, topology
from offline.simulator.truth import Incident, outcomes_of
from streams.contract import Outcome

DAY_MS = 86_400_000
START_MS = 1_767_571_200_000  # 2026-01-05T00:00:00Z, a Monday
BLOCK_TICKS = 64
SLICE_PORTS = 64  # 64 x 64 samples keep their counters near the cache: 1.5 times as fast as 256 x 256


class Block(NamedTuple):
    """Events in arrival order, shape (n,), and (n, 12) for `metrics`."""

    stream: NDArray[np.int32]  # index into `Fabric.stream_ids`
    ts: NDArray[np.int64]  # event time, ms, by the node's own clock
    metrics: NDArray[np.float64]  # in the order of `contract.METRICS`; NaN is missing


class _Slice(NamedTuple):
    """What a slice of ports carries from block to block."""

    state: State
    last: LastRead


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a fabric depends on: equal settings give equal bytes."""

    ports: int
    hours: float
    seed: int
    profile: Profile = "train"
    period_s: float = 30.0  # of sampling: 5, 10 or 30 s on real fabrics
    start_ms: int = START_MS
    topology: TopologyName = "selene"
    parameters: Parameters | None = None  # in place of the profile's own

    @property
    def constants(self) -> Parameters:
        return self.parameters or PROFILES[self.profile]

    @property
    def n_ticks(self) -> int:
        return int(self.hours * 3600 / self.period_s)

    @property
    def end_ms(self) -> int:
        return self.start_ms + int(self.hours * 3_600_000)


class Fabric:
    """The fabric of a setting: its streams, its truth, and its events.

    `TopologyTooSmall` if the topology has fewer ports; `ValueError` for an odd number of them or no time at all.

    Examples
    --------
    >>> fabric = Fabric(Setting(ports=8, hours=0.1, seed=1))
    >>> fabric.stream_ids[:2]
    ['luna-0001/mlx5_9:1', 'LG01-08/1']
    >>> sum(block.ts.size for block in fabric.run()) > 80
    True
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        if self.setting.n_ticks < 1:
            raise ValueError(f"{self.setting.hours} h have no sample every {self.setting.period_s} s: ask for more")
        self.parameters = self.setting.constants
        self.topology = topology(self.setting.topology, self.setting.ports)
        self.stream_ids = self.topology.stream_ids
        span = {"seed": self.setting.seed, "start_ms": self.setting.start_ms, "end_ms": self.setting.end_ms}
        self._schedule = schedule(self.topology, self.parameters, **span)
        self._strikes = strikes(self.topology, self._schedule, self.parameters, **span)
        self.decoys = decoy.decoys(self.topology, self.parameters, **span)
        self._jobs = columns(job_segments(self._schedule, self.parameters))
        self._effects = columns(self._segments())
        self._collection = collection_of(self.topology, self.parameters, self.setting.seed)
        self._ports = ports_of(
            self.topology, self._schedule.slot, self._collection.bits, self.parameters, self.setting.seed
        )

    @property
    def incidents(self) -> list[Incident]:
        """The truth: every incident that starts in the run, by start."""
        return [
            Incident(
                incident=f"{self.setting.seed}-{strike.name}-{i}",
                class_=strike.name,
                start_ms=strike.start_ms,
                end_ms=strike.end_ms,
                streams=tuple(self.stream_ids[port] for port in strike.ports),
                precursor_start_ms=strike.precursor_start_ms,
            )
            for i, strike in enumerate(self._strikes)
        ]

    def outcomes(self) -> list[Outcome]:
        """Return the truth as outcomes, one per incident and stream."""
        return outcomes_of(self.incidents)

    def run(self, *, processes: int = 1) -> Iterator[Block]:
        """Yield the events from the start, in blocks of event time; late ones come in the block they arrive in.

        The concatenated blocks are the same for any number of processes.
        """
        n = self.setting.ports
        edges = np.linspace(0, n, max(processes, -(-n // SLICE_PORTS)) + 1).astype(int).tolist()
        spans = [(a, b) for a, b in pairwise(edges) if b > a]
        slices = [self._begin(first, last) for first, last in spans]
        on_their_way: list[Arrivals] = []
        with _simulators(self, processes) as simulate_all:
            for tick in range(0, self.setting.n_ticks, BLOCK_TICKS):
                n_ticks = min(BLOCK_TICKS, self.setting.n_ticks - tick)
                done = simulate_all([(*span, s, tick, n_ticks) for span, s in zip(spans, slices, strict=True)])
                slices = [after for after, _ in done]
                # Half a period past the last sample: no sample of a later block can come before.
                until_ms = int((tick + n_ticks + 0.5) * self.setting.period_s * 1_000)
                ready, late = arrived([*on_their_way, *(events for _, events in done)], until_ms)
                on_their_way = [late]
                yield self._block(ready)
        yield self._block(arrived(on_their_way, np.iinfo(np.int64).max)[0])

    def _block(self, events: Arrivals) -> Block:
        return Block(events.stream, self.setting.start_ms + events.ts, events.metrics)

    def _begin(self, first: int, last: int) -> _Slice:
        state = State._make(column[first:last] for column in state_of(self._ports, self.parameters, self.setting.seed))
        return _Slice(state, nothing_read(state))

    def _segments(self) -> Iterator[effect.Segment]:
        seed, parameters = self.setting.seed, self.parameters
        yield from job_end_segments(self._schedule, self.topology, parameters, seed)
        for strike in self._strikes:
            yield from segments_of(strike, seed=seed, precursor_strength=parameters.precursor_strength)
        for one in self.decoys:
            yield from decoy.segments_of(one, seed=seed, run_end_ms=self.setting.end_ms)

    def simulate(self, first: int, last: int, before: _Slice, tick: int, n_ticks: int) -> tuple[_Slice, Arrivals]:
        """Let ports `first` up to `last` live through `n_ticks` intervals from `tick` on. It uses up `before`."""
        setting, rate_gbps, period_ms = self.setting, self.topology.rate_gbps, int(self.setting.period_s * 1_000)
        when = {"start_ms": setting.start_ms + tick * period_ms, "period_ms": period_ms, "n_ticks": n_ticks}
        jobs = painted(self._jobs, first_row=0, n_rows=len(self._schedule.jobs), **when)[effect.LOAD]
        effects = painted(self._effects, first_row=first, n_rows=last - first, **when)
        ports = Ports._make(column[first:last] for column in self._ports)
        physics = physics_of(self.parameters, period_s=setting.period_s, rate_gbps=rate_gbps)
        readings = read(ports, before.state, jobs, effects, physics, AT, tick)
        last_read, events = events_of(
            readings,
            before.last,
            Collection._make(column[first:last] for column in self._collection),
            rate_gbps * effects[effect.RATE],
            is_roce=self.topology.is_roce,
            period_s=setting.period_s,
            first_port=first,
        )
        return _Slice(before.state, last_read), events


_Task = tuple[int, int, _Slice, int, int]
_Done = list[tuple[_Slice, Arrivals]]


@contextmanager
def _simulators(fabric: Fabric, processes: int) -> Iterator[Callable[[list[_Task]], _Done]]:
    if processes == 1:
        yield lambda tasks: [fabric.simulate(*task) for task in tasks]
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _adopt, (fabric.setting,)) as pool:
        yield lambda tasks: list(pool.map(_simulate_adopted, tasks))


_adopted: list[Fabric] = []


def _adopt(setting: Setting) -> None:
    _adopted[:] = [Fabric(setting)]


def _simulate_adopted(task: _Task) -> tuple[_Slice, Arrivals]:
    return _adopted[0].simulate(*task)
