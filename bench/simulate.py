"""A simulated fabric costs little: port-samples a second on one core, counters to metrics included."""

import hashlib
import time

import numpy as np

from offline.simulator.fabric import Fabric, Setting


def bench(*, ports: int, hours: float) -> dict[str, object]:
    """Run a fabric of seed 1 and return its speed (by CPU time, on one core) and the hash of its events."""
    list(Fabric(Setting(ports=2, hours=0.1, seed=1)).run())  # compiled
    start = time.process_time_ns()
    fabric = Fabric(Setting(ports=ports, hours=hours, seed=1))
    planned = time.process_time_ns()
    blocks = list(fabric.run())
    done = time.process_time_ns()
    ts, metrics = (np.concatenate([getattr(block, column) for block in blocks]) for column in ("ts", "metrics"))
    samples = fabric.setting.ports * fabric.setting.n_ticks
    return {
        "port_samples_per_s": round(samples / (done - planned) * 1e9),
        "plan_s": round((planned - start) / 1e9, 3),
        "events": ts.size,
        "incidents": len(fabric.incidents),
        "sha256": hashlib.sha256(ts.tobytes() + metrics.tobytes()).hexdigest()[:16],
    }
