"""`linkcast bench decode`: Kafka's bytes to events."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@click.option("--events", type=click.IntRange(8_192), default=65_536, show_default=True)
@json_option
def command(events: int, as_json: bool) -> None:
    """Decode fetches of metric events and find their slots, beside msgspec with an object an event.

    Writes nothing. Prints the µs of CPU an event for fetches of 8,192 and of 24 records, of JSON sweeps of 32 and 64
    and of Arrow sweeps of 64 (us_…, msgspec_us_…), and how many fields differ; exits with 1 if any does.

    \b
        linkcast bench decode --json
    """
    decode = benchmark("decode")
    report(decode.bench(events=events), as_json)
