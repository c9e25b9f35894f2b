"""`linkcast bench hop`: the whole way of an event through one worker, flat out."""

from pathlib import Path

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.commands.bench.options import model_option
from infra.options import json_option


@click.command()
@click.option("--events", type=click.IntRange(1_000), default=300_000, show_default=True)
@click.option("--streams", type=click.IntRange(1), default=1_024, show_default=True, help="Ports that report in turn.")
@click.option("--sweep", type=click.IntRange(1, 64), default=1, show_default=True, help="Events of a node in a record.")
@click.option("--arrow", is_flag=True, help="Sweeps as Arrow record batches, not JSON.")
@click.option("--workers", type=click.IntRange(1, 2), default=1, show_default=True, help="Of one group; two: no pin.")
@model_option
@json_option
def command(
    events: int, streams: int, sweep: int, arrow: bool, workers: int, model: Path | None, as_json: bool
) -> None:
    """Take events from topic metrics to predictions, on a real broker and one core.

    Starts a broker of its own in a temporary folder, fills it, and pins one worker to one core (Linux): decode, 24
    features, label, two models, a prediction per event. Prints events_per_s, cpu_us_per_event and the µs of each
    stage; exits with 1 unless each event has one prediction by the model.

    \b
        linkcast bench hop --events 1000000 --json
        linkcast bench hop --events 8000000 --streams 1000000
    """
    bench = benchmark("hop").bench
    end_children_on_sigterm()
    report(bench(events=events, streams=streams, sweep=sweep, as_arrow=arrow, workers=workers, model=model), as_json)
