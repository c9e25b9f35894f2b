"""How long from published to predicted: an open loop at a fixed rate, every event timed from when it was due.

Coordinated omission can't hide a stall: what is due while worker, broker or loader stand still is late from then on.
"""

from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from bench.cluster import cluster, until_taken
from bench.open_loop import Flow, Flowed, Int64s, flowing
from bench.void import Seconds, each_second, late_loader, too_few
from infra.progress import step

WARM_S = 20.0
"""A fresh broker interprets its Java: for its first seconds it falls behind a load that is easy for it later."""
_QUANTILES = {"p50_ms": 50.0, "p99_ms": 99.0, "p999_ms": 99.9, "max_ms": 100.0}


def bench(
    *, rate: int = 10_000, seconds: int = 60, streams: int = 10_000, warm_s: float = WARM_S,
    model: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Measure `seconds` at `rate` events/s, after `warm_s` of the same, with one worker on one core.

    The figures are of the `counted_s` seconds in which the host took nothing of the cores (`bench.void`), those of
    `all_seconds` stand beside them; `void` says why neither counts: too few such seconds, or a loader that was late
    itself. Each event has to have exactly one prediction, else `MeasurementFailed`.
    """
    # One flow: after a pause between two, the first second of a quiet run held two fifths of its late events.
    flow = Flow(rate, warm_s + seconds, streams)
    with cluster(model) as stage, stage.worker() as worker:
        until_taken(worker)
        process = psutil.Process(worker.process.pid)
        with step(f"{rate:,} events/s for {flow.seconds:g} s"), flowing(stage.kafka, flow) as running:
            each = each_second(process, lambda second: running.until(warm_s + second), seconds)
            flowed = running.finish().at(slice(int(rate * warm_s), None))
    return {
        **_figures(flowed, each),
        "rate": rate,
        "seconds": seconds,
        "streams": streams,
        "model": stage.bundle.name,
    }


def _figures(flowed: Flowed, each: Seconds) -> dict[str, object]:
    is_quiet = each.is_quiet if each.is_quiet.any() else np.ones_like(each.is_quiet)  # void, but not without figures
    counted = flowed.at(is_quiet[(flowed.due - flowed.due[0]) // 1_000_000_000])
    late = _quantiles(counted.sent - counted.due)
    return {
        **_quantiles(counted.answered - counted.due),
        "acknowledged": _quantiles(counted.acknowledged - counted.due),
        "loader_late": late,
        "cpu_us_per_event": round(float(each.used_s[is_quiet].sum()) / len(counted.due) * 1e6, 2),
        "counted_s": int(np.count_nonzero(each.is_quiet)),
        "all_seconds": _quantiles(flowed.answered - flowed.due),
        "stolen_pct": each.stolen_pct,
        "void": too_few(each) or late_loader(late["p99_ms"]),
    }


def _quantiles(ns: Int64s) -> dict[str, float]:
    values = np.percentile(ns, list(_QUANTILES.values())) / 1e6
    return {name: round(float(value), 2) for name, value in zip(_QUANTILES, values, strict=True)}
