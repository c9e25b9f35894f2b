"""`linkcast bench backfill`: features of a recording, without a broker."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@click.option("--ports", type=click.IntRange(2), default=300, show_default=True, help="Of the simulated fabric.")
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Of its life.")
@json_option
def command(ports: int, hours: float, as_json: bool) -> None:
    """Compute features of a recording, Parquet to Parquet, on one core.

    Simulates a fabric into a temporary folder. Prints events_per_s, the same from JSON Lines and from arrays, how many
    times the specification's pandas is slower on the same rows, from arrays (times_pandas) and file to file
    (file_times_pandas), and how many features differ between the three; exits with 1 if any does.

    \b
        linkcast bench backfill --json
    """
    backfill = benchmark("backfill")
    report(backfill.bench(ports=ports, hours=hours), as_json)
