"""`linkcast bench soak`: the Lambda's handler behind Kafka while all about it fails."""

import click

from infra.commands.bench.figures import WrongAnswer, benchmark, end_children_on_sigterm, report
from infra.options import json_option


@click.command()
@click.option("--records", default=100_000, show_default=True, type=click.IntRange(1_000), help="To publish.")
@click.option("--kills", default=3, show_default=True, type=click.IntRange(0, 100), help="kill -9 on the way.")
@json_option
def command(records: int, kills: int, as_json: bool) -> None:
    """Let the Lambda's handler take changes from real Kafka while AWS throttles, fails and answers late.

    Writes nothing but temporary folders. Prints what was lost, came twice or should not be there, and how many attempts
    isolated a poison; exits with 1 if any of it is not 0, or above its bound. Needs 'linkcast[aws]' and moto.

    \b
        linkcast bench soak --records 4000 --kills 1 --json
    """
    soak = benchmark("soak")
    end_children_on_sigterm()
    figures = soak.bench(records=records, kills=kills)
    report(figures, as_json)
    if wrong := soak.failed(figures):
        raise WrongAnswer(f"not 0: {', '.join(wrong)}; see the figures above")
