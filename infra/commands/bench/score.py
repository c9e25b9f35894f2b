"""`linkcast bench score`: rows to margins."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Score rows by both models, in batches of 1, 24 and 4,096, beside XGBoost's own predictor.

    Writes nothing. Prints µs a row (us_1, us_24, us_4096, native_us_…) and how many margins differ from XGBoost's in
    any bit; exits with 1 if any does.

    \b
        linkcast bench score --json
    """
    score = benchmark("score")
    report(score.bench(), as_json)
