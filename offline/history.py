"""History to learn from: the events of a fabric through the worker's own kernel, beside what really happened."""

from collections.abc import Callable, Iterable

import numpy as np

from offline.simulator.fabric import Fabric, Setting
from offline.simulator.parameters import Profile
from offline.simulator.truth import Incident
from offline.targets import HORIZON_MS, TARGET_NAMES, Incidents, targets
from offline.train import TrainingTable
from streams.contract import FEATURES
from streams.features import Columns, StreamTable


def simulated_history(
    fabric: Fabric, *, time_zone: str = "UTC", progress: Callable[[float], None] = lambda share: None
) -> TrainingTable:
    """Return the rows of a simulated fabric with their targets; `progress` is told the share of the work done."""
    table = StreamTable(time_zone=time_zone)
    slot = table.slots(fabric.stream_ids)
    features, ts, stream = [], [], []
    n_expected = fabric.setting.n_ticks * len(fabric.stream_ids)
    n = 0
    for block in fabric.run():
        _, rows = table.advance(Columns(slot[block.stream], block.ts, block.metrics))
        features.append(rows.features)
        ts.append(block.ts[rows.event])
        stream.append(block.stream[rows.event].astype(np.int64))
        n += len(block.ts)
        progress(min(1.0, n / n_expected))
    row_ts, row_stream = np.concatenate(ts), np.concatenate(stream)
    setting = fabric.setting
    return TrainingTable(
        features=np.concatenate(features) if n else np.empty((0, len(FEATURES)), np.float32),
        ts=row_ts,
        link=row_stream // 2,  # the simulator numbers the two ends of a link one after the other
        targets=targets(row_stream, row_ts, incidents_of(fabric.incidents, fabric.stream_ids)),
        known_until=setting.end_ms,
        source=f"simulator, profile {setting.profile}, {setting.ports} ports of {setting.topology}, "
        f"{setting.hours:g} h, seed {setting.seed}",
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


def base_rate(profile: Profile, *, seed: int, ports: int = 4_000, hours: float = 24.0 * 365) -> float:
    """Return the share of port-time with an incident under way or starting within the horizon, by a profile's rates.

    From the plan of a year alone; no sample is drawn.
    """
    fabric = Fabric(Setting(ports=ports, hours=hours, seed=seed, profile=profile))
    exposed_ms = sum(
        (incident.end_ms - incident.start_ms + HORIZON_MS) * len(incident.streams) for incident in fabric.incidents
    )
    return exposed_ms / (ports * hours * 3_600_000)
