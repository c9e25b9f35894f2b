"""Jobs: which ports carry traffic when, and how much.

Hosts stand in *slots* of one or more, as a scheduler hands them out; one job after another runs on a slot, with idle
time between, and all ports of the slot's hosts move together. An uplink carries the flows of one slot under its leaf,
as static routing has it. How much a job moves comes from the distribution measured on Seren.
"""

import csv
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.simulator import segments as effect
from offline.simulator.draws import MINUTE_MS, draws, lognormal_ms
from offline.simulator.parameters import Parameters
from offline.simulator.segments import Segment
from offline.simulator.topology import Topology

WARM_UP_MS = 2 * 86_400_000  # jobs begin this long before the run, so that it starts in the steady state
DAY_MS = 86_400_000


class Job(NamedTuple):
    """One job on one slot."""

    start_ms: int
    end_ms: int
    load: float  # fraction of line rate


class Schedule(NamedTuple):
    """Who runs when. `slot` has shape (ports,); `jobs[s]` are the jobs of slot s, by start, none overlapping."""

    slot: NDArray[np.int64]
    jobs: list[list[Job]]

    def job_from(self, port: int, t: int) -> Job | None:
        """Return the job over `port` at `t`, else the next one that starts."""
        jobs = self.jobs[self.slot[port]]
        return next(
            (job for job in jobs[max(0, bisect_right(jobs, t, key=lambda j: j.start_ms) - 1) :] if job.end_ms > t), None
        )


def schedule(topology: Topology, parameters: Parameters, *, seed: int, start_ms: int, end_ms: int) -> Schedule:
    """Return the jobs of every slot that touch [start_ms, end_ms)."""
    slot = _slots(topology, parameters, seed)
    jobs = [
        [job for job in _jobs(parameters, seed, s, start_ms - WARM_UP_MS, end_ms) if job.end_ms > start_ms]
        for s in range(int(slot.max()) + 1)
    ]
    return Schedule(slot, jobs)


def _slots(topology: Topology, parameters: Parameters, seed: int) -> NDArray[np.int64]:
    draw = draws(seed, "slots")
    hosts = list(dict.fromkeys(topology.host[topology.host >= 0].tolist()))
    slot_of: dict[int, int] = {}
    n_slots = 0
    while len(slot_of) < len(hosts):
        size = min(int(draw.choice(parameters.job_hosts)), max(1, int(parameters.job_share_max * len(hosts))))
        slot_of.update(dict.fromkeys(hosts[len(slot_of) : len(slot_of) + size], n_slots))
        n_slots += 1
    slot = np.array([slot_of.get(host, -1) for host in topology.host.tolist()], np.int64)
    under: dict[int, list[int]] = {}
    for leaf, s in zip(topology.leaf.tolist(), slot.tolist(), strict=True):
        if s >= 0:
            under.setdefault(leaf, []).append(s)
    for lower in np.flatnonzero(slot < 0)[::2]:
        slot[lower : lower + 2] = draw.choice(sorted(set(under[int(topology.leaf[lower])])))
    return slot


def _jobs(parameters: Parameters, seed: int, slot: int, start_ms: int, end_ms: int) -> Iterator[Job]:
    draw = draws(seed, "jobs", slot)
    idle_per_busy = parameters.idle_share / (1 - parameters.idle_share)

    def length_ms() -> int:
        drawn = lognormal_ms(draw, median_min=parameters.job_median_min, sigma=parameters.job_sigma)
        return min(drawn, int(parameters.job_max_min * MINUTE_MS))

    t = start_ms - int(draw.uniform(0, 60) * MINUTE_MS)
    while (t := t + int(idle_per_busy * length_ms())) < end_ms:
        job = Job(t, t + length_ms(), _load(draw.uniform(parameters.idle_share, 1.0), t, parameters))
        yield job
        t = job.end_ms


def _load(quantile: float, t: int, parameters: Parameters) -> float:
    day = 1.0 + parameters.day_swing * np.cos(2 * np.pi * (t / DAY_MS - 15 / 24))
    is_weekend = (t // DAY_MS + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    share = float(np.interp(quantile, *seren()))
    return float(np.clip(share * day * (1.0 - parameters.weekend_drop * is_weekend), 0.011, 0.95))


@cache
def seren() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the measured distribution of a port's send rate: cumulative fraction, and fraction of line rate."""
    with (files("offline.simulator") / "data" / "acme-seren-ib-cdf.csv").open() as text:
        rows = [(float(row["cdf"]) / 100, float(row["send_frac_of_max"])) for row in csv.DictReader(text)]
    cdf, share = np.array(rows).T
    return cdf, share


def job_segments(jobs: Schedule, parameters: Parameters) -> Iterator[Segment]:
    """Yield the load of every slot (rows are slots), with its checkpoints."""
    every = int(parameters.checkpoint_every_min * MINUTE_MS)
    for slot, of_slot in enumerate(jobs.jobs):
        for job in of_slot:
            yield Segment(slot, effect.LOAD, job.start_ms, job.end_ms, job.load)
            burst = min(0.95, job.load * parameters.checkpoint_factor)
            for t in range(job.start_ms + every, job.end_ms, every):
                until = min(job.end_ms, t + int(parameters.checkpoint_s * 1_000))
                yield Segment(slot, effect.LOAD, t, until, burst)


def job_end_segments(jobs: Schedule, topology: Topology, parameters: Parameters, seed: int) -> Iterator[Segment]:
    """Yield the ACK timeouts that some ends of jobs leave on adapters (rows are ports). Flush errors don't count."""
    adapters: dict[int, list[int]] = {}
    for port in np.flatnonzero(topology.is_adapter).tolist():
        adapters.setdefault(int(jobs.slot[port]), []).append(port)
    for slot, of_slot in enumerate(jobs.jobs):
        for job in of_slot:
            draw = draws(seed, "job end", slot, job.end_ms)
            if draw.random() < parameters.job_end_share:
                per_minute = 6.0 * float(draw.integers(1, 51))  # 1 to 50 of them within 10 s
                for port in adapters.get(slot, []):
                    yield Segment(port, effect.QP, job.end_ms, job.end_ms + 10_000, per_minute)
