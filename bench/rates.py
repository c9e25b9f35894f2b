"""What an event costs at live rates, where batches are small, beside what it costs of a drained backlog.

A benchmark that only drains a backlog hides the fixed cost of a batch; this one shows it as a ratio.
"""

from collections.abc import Sequence
from pathlib import Path

from bench import hop, latency
from bench.void import stolen

RATES = (5_000, 20_000, 50_000)


def bench(
    *, rates: Sequence[int] = RATES, seconds: int = 30, warm_s: float = latency.WARM_S, events: int = 1_500_000,
    streams: int = 10_000, model: Path | None = None,
) -> dict[str, object]:  # fmt: skip
    """Measure `cpu_us_per_event` at each rate (events/s) and of a backlog of `events`, and each rate's ratio to that.

    `void` names the rates at which what an event costs is no figure, as in `bench.latency`, and a backlog during which
    the host took too much of the cores.
    """
    drained = hop.bench(events=events, streams=streams, model=model)
    backlog_us = float(str(drained["cpu_us_per_event"]))
    us: dict[str, float] = {}
    why = stolen(float(str(drained["stolen_pct"])))
    void = [f"of the backlog {why}"] if why else []
    for rate in rates:
        live = latency.bench(rate=rate, seconds=seconds, streams=streams, warm_s=warm_s, model=model)
        us[str(rate)] = float(str(live["cpu_us_per_event"]))
        if live["void"]:
            void.append(f"at {rate} events/s {live['void']}")
    return {
        "cpu_us_per_event": us | {"backlog": backlog_us},
        "times_backlog": {rate: round(cost / backlog_us, 2) for rate, cost in us.items()},
        "void": "; ".join(void) or None,
        "seconds": seconds,
        "streams": streams,
    }
