"""`linkcast bench simulate`: a fabric, without a broker."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@click.option("--ports", type=click.IntRange(2), default=300, show_default=True)
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Of event time.")
@json_option
def command(ports: int, hours: float, as_json: bool) -> None:
    """Simulate a fabric, counters to metrics, on one core.

    Writes nothing. Prints port_samples_per_s, and the hash of the events: the same seed, the same bytes.

    \b
        linkcast bench simulate --json
    """
    simulate = benchmark("simulate")
    report(simulate.bench(ports=ports, hours=hours), as_json)
