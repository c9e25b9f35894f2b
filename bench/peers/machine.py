"""What a run takes of the machine, as /proc tells it: an engine's process tree, the broker, and everything else."""

import time
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]


class Usage(NamedTuple):
    """One sample; CPU and steal in seconds since whenever."""

    at_s: float  # monotonic
    engine_s: float
    broker_s: float
    ours_s: float  # of the harness, feeding and asking
    busy_s: float  # of the whole machine, interrupts left out: nobody can be charged with them
    steal_s: float
    rss_mb: float  # of the engine's tree
    workers: frozenset[tuple[int, float]]  # pid and start time of each process of the tree


class Span(NamedTuple):
    """What lay between two samples."""

    wall_s: float
    engine_s: float
    broker_s: float
    busy_other: float  # cores kept busy by anything but engine, broker and harness
    steal: float  # cores
    rss_mb: float
    lost_workers: int


def usage(engine: psutil.Process, broker: psutil.Process) -> Usage:
    """Take a sample; raises `psutil.NoSuchProcess` where one of the two has ended."""
    tree = [engine, *engine.children(recursive=True)]
    machine = psutil.cpu_times()
    return Usage(
        at_s=time.monotonic(),
        engine_s=sum(map(_cpu_s, tree)),
        broker_s=_cpu_s(broker),
        ours_s=time.process_time(),
        busy_s=machine.user + machine.nice + machine.system,
        steal_s=machine.steal,
        rss_mb=sum(process.memory_info().rss for process in tree) / 1e6,
        workers=frozenset((process.pid, process.create_time()) for process in tree),
    )


def between(a: Usage, b: Usage) -> Span:
    """Return what lay between two samples."""
    wall_s = b.at_s - a.at_s
    engine_s, broker_s, ours_s = b.engine_s - a.engine_s, b.broker_s - a.broker_s, b.ours_s - a.ours_s
    return Span(
        wall_s=wall_s,
        engine_s=engine_s,
        broker_s=broker_s,
        busy_other=max(0.0, b.busy_s - a.busy_s - engine_s - broker_s - ours_s) / wall_s,
        steal=(b.steal_s - a.steal_s) / wall_s,
        rss_mb=b.rss_mb,
        lost_workers=len(a.workers - b.workers),
    )


def _cpu_s(process: psutil.Process) -> float:
    # A child that has ended is charged to its parent: no work of the tree gets lost between two samples.
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)
