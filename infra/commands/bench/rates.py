"""`linkcast bench rates`: what an event costs at a fixed rate."""

from pathlib import Path

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.commands.bench.options import model_option, streams_option
from infra.options import json_option


@click.command()
@click.option("--seconds", type=click.IntRange(10), default=30, show_default=True, help="At each rate.")
@streams_option
@model_option
@json_option
def command(seconds: int, streams: int, model: Path | None, as_json: bool) -> None:
    """Compare what an event costs at 5,000, 20,000 and 50,000 events/s with what it costs of a backlog.

    Prints cpu_us_per_event of each and its ratio to the backlog's, one worker on one core. Exits with 1 unless each
    event has exactly one prediction, and if a rate was not held, fewer than 10 seconds count at it (as in 'linkcast
    bench latency'), or the host of a virtual machine took over 1 % of the cores from the backlog.

    \b
        linkcast bench rates --json
    """
    rates = benchmark("rates")
    end_children_on_sigterm()
    report(rates.bench(seconds=seconds, streams=streams, model=model), as_json)
