"""`linkcast bench latency`: how long a prediction takes at a fixed rate."""

from pathlib import Path

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.commands.bench.options import model_option, streams_option
from infra.options import json_option


@click.command()
@click.option("--rate", type=click.IntRange(1), default=10_000, show_default=True, help="Events per second.")
@click.option("--seconds", type=click.IntRange(10), default=60, show_default=True, help="After the warm-up.")
@streams_option
@model_option
@json_option
def command(rate: int, seconds: int, streams: int, model: Path | None, as_json: bool) -> None:
    """Time events from when they are due to when their prediction is read, at a fixed rate, on one core.

    An open loop on a broker of its own: a stall is never hidden, since the schedule doesn't wait. Prints p50_ms,
    p99_ms, p999_ms and max_ms, the same of the broker's acknowledgement and of the loader's own lateness, and
    cpu_us_per_event. On a virtual machine these are of counted_s, the seconds in which its host took nothing of the
    cores; all_seconds and stolen_pct show the rest. Exits with 1 unless each event has exactly one prediction, and if
    fewer than 10 seconds count or the loader was late itself.

    \b
        linkcast bench latency --rate 10000 --json
    """
    latency = benchmark("latency")
    end_children_on_sigterm()
    report(latency.bench(rate=rate, seconds=seconds, streams=streams, model=model), as_json)
