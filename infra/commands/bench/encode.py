"""`linkcast bench encode`: scored rows to Kafka's bytes."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Encode scored rows, in batches of 8,192 and 24, beside the way with an object for each of them.

    Writes nothing. Prints µs of CPU a row of rendering predictions, packing them into record batches, and framing
    features (render_us_…, pack_us_…, features_us_…, before_…), and how many bytes differ; exits with 1 if any does.

    \b
        linkcast bench encode --json
    """
    encode = benchmark("encode")
    report(encode.bench(), as_json)
