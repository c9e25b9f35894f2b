"""`linkcast bench recovery`: how long a worker takes to go on."""

from pathlib import Path

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.commands.bench.options import model_option
from infra.options import json_option


@click.command()
@click.option("--streams", type=click.IntRange(1), default=100_000, show_default=True)
@click.option(
    "--events-a-stream", type=click.IntRange(1), default=24, show_default=True, help="96 fill every pane there is."
)
@click.option(
    "--rebalance-streams", type=click.IntRange(0), default=10_000, show_default=True, help="0 leaves the rebalance out."
)
@model_option
@json_option
def command(streams: int, events_a_stream: int, rebalance_streams: int, model: Path | None, as_json: bool) -> None:
    """Time a worker from the start of its process to its first new prediction, and the pause of a rebalance.

    Fills a worker with streams on a broker of its own, then starts it after a clean stop (seconds) and after kill -9
    later than its snapshot (killed_seconds). Prints snapshot_bytes and stop_s, the stop with its last snapshot; then
    rebalance_pause_s, the longest gap of a partition's predictions while a second worker joins, beside steady_gap_s.

    \b
        linkcast bench recovery --streams 100000 --json
    """
    recovery = benchmark("recovery")
    end_children_on_sigterm()
    sizes = {"streams": streams, "events_a_stream": events_a_stream, "rebalance_streams": rebalance_streams}
    report(recovery.bench(**sizes, model=model), as_json)
