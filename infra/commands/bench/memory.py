"""`linkcast bench memory`: a million streams in one process."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@click.option(
    "--streams", type=click.IntRange(100), default=1_000_000, show_default=True, help="The most; takes 3 KB each."
)
@click.option(
    "--events", type=click.IntRange(100), default=1_000_000, show_default=True, help="At each number of streams."
)
@json_option
def command(streams: int, events: int, as_json: bool) -> None:
    """Hold a million streams in one process, and give each of them events.

    Writes nothing. Prints bytes_per_stream, rss_bytes of the process at its largest, the kernel's CPU µs an event among
    10², 10³ … streams (us_1e2, us_1e3, …), and the largest of them by the smallest (ratio).

    \b
        linkcast bench memory --json
    """
    memory = benchmark("memory")
    report(memory.bench(streams=streams, events=events), as_json)
