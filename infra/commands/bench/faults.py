"""`linkcast bench faults`: every fault we know against a replay."""

import click

from infra.commands.bench.figures import WrongAnswer, benchmark, end_children_on_sigterm
from infra.options import json_option


@click.command()
@click.option("--seed", type=int, default=20_261_123, show_default=True, help="Of every choice.")
@json_option
def command(seed: int, as_json: bool) -> None:
    """Break real workers on real brokers in every way we know, and compare all that they left with a replay.

    The suite of 'make test-faults', where a single kind can be chosen and bytes that lie follow; takes about half an
    hour. Prints what was tried, lost, wrong and repeated; exits with 1 if an output is lost, any output, state or
    offset wrong, or one repeated where it should come exactly once.

    \b
        linkcast bench faults --json
    """
    import json

    faults = benchmark("faults")
    end_children_on_sigterm()
    figures = faults.bench(seed=seed)
    click.echo(faults.table(figures), err=True)
    if as_json:
        click.echo(json.dumps(figures))
    if faults.failed(figures):
        raise WrongAnswer("a fault did harm: see the table above, and run its kind alone by 'make test-faults'")
