"""History to learn from: the events of fabrics through the worker's own kernel, beside what really happened.

Of a long run of near copies a model learns as much from a few: the rows that teach and calibrate are sampled, each with
the number of rows it stands for. The rows that examine are whole, so that calls can be judged as they would be live.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offline.dataset.targets import (
    HORIZON_MS,
    LONGEST_WINDOW_MS,
    TARGET_NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    Incidents,
    Targets,
    targets,
)
from offline.report.calls import Watched
from offline.simulator.fabric import Fabric, Setting
from offline.simulator.parameters import Profile
from offline.simulator.truth import Incident
from offline.training.train import TrainingTable
from streams.contract import FEATURES, METRICS
from streams.features.kernel import Columns
from streams.features.stream_table import StreamTable

PARTS = (*9 * (TRAIN,), *2 * (VALIDATION,), *2 * (TEST,))
"""What each simulated fabric is for, in the order of time. Cut by time and by link, one fabric would teach by a quarter
of its rows only."""
# On a fabric never seen, 10 rows gave the same ROC AUC as 40 (0.806 and 0.805 with 17 fabrics), in a third of the time.
_ROWS_OF_INCIDENT = 20  # of one stream before its start, and as many from then on
_HEALTHY_ONE_IN = 16
_CABLE = ("symbol_errors", "recoveries", "link_downed", "remote_errors", "discards", "stall")  # port counters
# Assumed shares of what sources tell: the simulator probes every port, real fabrics don't. A model that never saw one
# without latency called an idle port at risk 96.
_SOURCES = (
    (0.55, METRICS),
    (0.30, ("utilization", "error_rate", "bandwidth_gbps", "qp_errors", "mr_failures", *_CABLE)),  # sysfs, no prober
    (
        0.10,
        ("utilization", "error_rate", "bandwidth_gbps", *_CABLE),
    ),  # node_exporter; perfquery, its links' rates known
    (0.05, ("utilization", "bandwidth_gbps")),  # the barest
)


class _Rows(NamedTuple):
    features: NDArray[np.float32]  # (n, 24)
    ts: NDArray[np.int64]  # (n,) ms
    stream: NDArray[np.int64]  # (n,) index into the fabric's streams
    targets: Targets

    def at(self, rows: NDArray[np.integer]) -> "_Rows":
        return _Rows(self.features[rows], self.ts[rows], self.stream[rows], self.targets.at(rows))


def simulated_histories(
    setting: Setting, *, time_zone: str = "UTC", progress: Callable[[float], None] = lambda share: None
) -> TrainingTable:
    """Return the table of as many fabrics as `PARTS` names; `progress` is told the share of the work done.

    Each has the ports and hours of `setting` and a seed of its own, from `setting.seed` on. They share no link, and
    follow each other in time a longest window and a horizon apart. Equal settings give equal tables, however many
    processors there are.
    """
    apart_ms = setting.end_ms - setting.start_ms + LONGEST_WINDOW_MS + HORIZON_MS
    settings = [
        replace(setting, seed=setting.seed + i, start_ms=setting.start_ms + i * apart_ms) for i in range(len(PARTS))
    ]
    lived = []
    with ProcessPoolExecutor(min(len(PARTS), os.cpu_count() or 1), get_context("spawn")) as pool:
        for taken in pool.map(_taken, settings, PARTS, [time_zone] * len(PARTS)):
            lived.append(taken)
            progress(len(lived) / len(PARTS))
    rows = [taken for taken, _ in lived]
    examined = [i for i, part in enumerate(PARTS) if part == TEST]
    return TrainingTable(
        features=np.concatenate([of.features for of in rows]),
        ts=np.concatenate([of.ts for of in rows]),
        targets=_one_after_the_other([of.targets for of in rows]),
        part=np.repeat(np.array(PARTS, np.int8), [len(of.ts) for of in rows]),
        weight=np.concatenate([weight for _, weight in lived]),
        source=f"{len(PARTS)} fabrics of the simulator: {_in_words(setting)} and on",
        watched=_watched([Fabric(settings[i]) for i in examined], [rows[i] for i in examined]),
    )


def _watched(fabrics: list[Fabric], rows: list[_Rows]) -> Watched:
    # The fabrics name their streams alike, but never at the same time.
    return Watched(
        stream=np.concatenate(
            [i * fabric.setting.ports + of.stream for i, (fabric, of) in enumerate(zip(fabrics, rows, strict=True))]
        ),
        ts=np.concatenate([of.ts for of in rows]),
        stream_ids=[stream_id for fabric in fabrics for stream_id in fabric.stream_ids],
        incidents=[incident for fabric in fabrics for incident in fabric.incidents],
    )


def _in_words(setting: Setting) -> str:
    return (
        f"profile {setting.profile}, {setting.ports} ports of {setting.topology}, {setting.hours:g} h, "
        f"seed {setting.seed}"
    )


def _taken(setting: Setting, part: int, time_zone: str) -> tuple[_Rows, NDArray[np.float64]]:
    """Return the rows of one fabric that a table takes up, and how many each stands for."""
    rows = _rows(Fabric(setting), time_zone)
    weight = np.ones(len(rows.ts)) if part == TEST else _sampled(rows.targets, setting.seed)
    matured = rows.ts + HORIZON_MS <= setting.end_ms
    kept = np.flatnonzero(matured & (weight > 0.0))
    return rows.at(kept), weight[kept]


def _rows(fabric: Fabric, time_zone: str) -> _Rows:
    table = StreamTable(time_zone=time_zone)
    slot = table.slots(fabric.stream_ids)
    features, ts, stream = [np.empty((0, len(FEATURES)), np.float32)], [], []
    hidden = _hidden(len(slot), fabric.setting.seed)
    for block in fabric.run():
        metrics = np.where(hidden[block.stream], np.nan, block.metrics)
        told = np.flatnonzero(~np.isnan(metrics).all(axis=1))
        unseen = np.zeros(told.size, np.int64)  # no broker, no time of it
        _, rows = table.advance(Columns(slot[block.stream[told]], block.ts[told], metrics[told], unseen))
        event = told[rows.event]
        features.append(rows.features)
        ts.append(block.ts[event])
        stream.append(block.stream[event].astype(np.int64))
    row_ts, row_stream = np.concatenate(ts), np.concatenate(stream)
    truth = incidents_of(fabric.incidents, fabric.stream_ids)
    return _Rows(np.concatenate(features), row_ts, row_stream, targets(row_stream, row_ts, truth))


def _hidden(n_streams: int, seed: int) -> NDArray[np.bool_]:
    """Return which metrics each stream's source doesn't tell, shape (n_streams, 12)."""
    kind = np.random.default_rng([seed, n_streams]).choice(len(_SOURCES), n_streams, p=[share for share, _ in _SOURCES])
    return np.array([[metric not in told for metric in METRICS] for _, told in _SOURCES])[kind]


def _sampled(of: Targets, seed: int) -> NDArray[np.float64]:
    """Return how many rows each row stands for, shape (n,), 0 where it is left out; strata keep their weight."""
    # A stratum is one incident of one stream, before its start or from then on; health is the first one.
    stratum = np.where(of.code > 0, 2 * of.incident + (of.lead_ms > 0) + 1, 0)
    size = np.bincount(stratum)
    quota = np.minimum(size, _ROWS_OF_INCIDENT)
    quota[0] = -(-size[0] // _HEALTHY_ONE_IN)
    order = np.lexsort((np.random.default_rng(seed).random(len(stratum)), stratum))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(size) - size, size)
    weight = np.zeros(len(order))
    weight[order] = np.repeat(np.where(quota > 0, size / np.maximum(quota, 1), 0.0), size)
    weight[order[rank >= np.repeat(quota, size)]] = 0.0
    return weight


def _one_after_the_other(parts: list[Targets]) -> Targets:
    """Return the targets of all parts, their incidents numbered on."""
    sizes = [int(part.incident.max(initial=-1)) + 1 for part in parts]
    before = np.cumsum(sizes) - sizes
    return Targets(
        np.concatenate([part.code for part in parts]),
        np.concatenate(
            [np.where(part.incident >= 0, part.incident + n, -1) for part, n in zip(parts, before, strict=True)]
        ),
        np.concatenate([part.lead_ms for part in parts]),
    )


def incidents_of(truth: Iterable[Incident], stream_ids: Iterable[str]) -> Incidents:
    """Return the truth as arrays, one incident per cause and stream, coded by the stream's place in `stream_ids`."""
    code = {stream_id: i for i, stream_id in enumerate(stream_ids)}
    struck = [
        (code[stream_id], incident.start_ms, incident.end_ms, TARGET_NAMES.index(incident.class_))
        for incident in truth
        for stream_id in incident.streams
    ]
    columns = np.array(struck, np.int64).reshape(-1, 4).T
    return Incidents(columns[0], columns[1], columns[2], columns[3].astype(np.int8))


def base_rate(profile: Profile, *, seed: int, ports: int = 2_000, hours: float = 24.0 * 30) -> float:
    """Return the share of port-time with an incident under way or starting within the horizon, by a profile's rates.

    From the plan of a month alone, some 500 incidents at true rates (0.0023 ± 0.0001 over seeds, in 2 to 4 s; of a year
    of 4,000 ports: 0.0023, in 45 s). No sample is drawn.
    """
    fabric = Fabric(Setting(ports=ports, hours=hours, seed=seed, profile=profile))
    exposed_ms = sum(
        (incident.end_ms - incident.start_ms + HORIZON_MS) * len(incident.streams) for incident in fabric.incidents
    )
    return exposed_ms / (ports * hours * 3_600_000)
