"""`linkcast bench verify`: features of killed workers against a replay."""

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.options import json_option


@click.command()
@click.option("--events", type=click.IntRange(1_000), default=1_200_000, show_default=True)
@click.option("--kills", type=click.IntRange(0), default=5, show_default=True, help="Workers ended by kill -9.")
@json_option
def command(events: int, kills: int, as_json: bool) -> None:
    """Kill workers on their way through a backlog, and compare every feature that they wrote with a replay.

    Starts a broker of its own in a temporary folder. Prints how many rows were compared, and how many features differ
    in any bit; exits with 1 if any does.

    \b
        linkcast bench verify --json
    """
    verify = benchmark("verify")
    end_children_on_sigterm()
    report(verify.bench(events=events, kills=kills), as_json)
