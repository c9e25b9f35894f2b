"""How long from published to predicted: an open loop at a fixed rate, every event timed from when it was due.

Coordinated omission can't hide a stall: what is due while worker, broker or loader stand still is late from then on.
"""

from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from bench.cluster import cluster, cpu_s, stolen_pct, until_taken
from bench.open_loop import Flow, Flowed, Int64s, flowing
from infra.progress import step

LOADER_LATE_MS_MAX = 2.0
STOLEN_PCT_MAX = 1.0
"""Of the cores' time, what the host of a virtual machine may give to others: p99 is of one hundredth of the time.
A convention of ours: p99 rises with it from the start, 11 to 17 ms at 1 to 2 %."""
WARM_S = 20.0
"""A fresh broker interprets its Java: for its first seconds it falls behind a load that is easy for it later."""
_QUANTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}


def bench(
    *, rate: int = 10_000, seconds: float = 30.0, streams: int = 10_000, warm_s: float = WARM_S,
    model: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Measure `seconds` at `rate` events/s, after `warm_s` of the same, with one worker on one core.

    `void` says why the figures don't count: a loader that was late itself, or a host that had given the cores to others
    (`stolen_pct`). Each event has to have exactly one prediction, else `MeasurementFailed`.
    """
    # One flow: after a pause between two, the first second of a quiet run held two fifths of its late events.
    flow = Flow(rate, warm_s + seconds, streams)
    with cluster(model) as stage, stage.worker() as worker:
        until_taken(worker)
        process = psutil.Process(worker.process.pid)
        with step(f"{rate:,} events/s for {flow.seconds:g} s"), flowing(stage.kafka, flow) as running:
            running.until(warm_s)
            before_s, host_before = cpu_s(process), psutil.cpu_times()
            running.until(flow.seconds)
            used_s, host = cpu_s(process) - before_s, psutil.cpu_times()
            flowed = running.finish().since(int(rate * warm_s))
    return {
        **_figures(flowed, stolen_pct(host_before, host)),
        "cpu_us_per_event": round(used_s / (rate * seconds) * 1e6, 2),
        "rate": rate,
        "seconds": seconds,
        "streams": streams,
        "model": stage.bundle.name,
    }


def _figures(flowed: Flowed, stolen_pct: float) -> dict[str, object]:
    late = _quantiles(flowed.sent - flowed.due)
    void = None
    if stolen_pct > STOLEN_PCT_MAX:
        void = f"the host gave {stolen_pct} % of the cores' time to others, at most {STOLEN_PCT_MAX:g}"
    elif late["p99_ms"] > LOADER_LATE_MS_MAX:
        void = f"the loader itself was {late['p99_ms']} ms late at p99, at most {LOADER_LATE_MS_MAX:g}"
    return {
        **_quantiles(flowed.answered - flowed.due),
        "acknowledged": _quantiles(flowed.acknowledged - flowed.due),
        "loader_late": late,
        "stolen_pct": stolen_pct,
        "void": void,
    }


def _quantiles(ns: Int64s) -> dict[str, float]:
    values = np.percentile(ns, list(_QUANTILES.values())) / 1e6
    return {name: round(float(value), 2) for name, value in zip(_QUANTILES, values, strict=True)}
