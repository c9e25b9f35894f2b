"""`linkcast bench edge`: the Lambda beside what it calls."""

import click

from infra.commands.bench.figures import benchmark, report
from infra.options import json_option


@click.command()
@click.option(
    "--package", "with_package", is_flag=True, help="Build the Lambda's package as well (from a package index)."
)
@json_option
def command(with_package: bool, as_json: bool) -> None:
    """Run the Lambda's handler over batches of 100, without AWS.

    Writes nothing but a temporary folder. Prints ms of a batch in which 2 records are changes (…_few) or all are
    (…_all): of our own code, with the AWS clients' work, and with 4 ms waited for each of its calls; how often records
    run with 1 poison and 1 flaky in 300; seconds of a cold start. Needs 'linkcast[aws]'.

    \b
        linkcast bench edge --package --json
    """
    import tempfile
    from pathlib import Path

    edge = benchmark("edge")
    figures = edge.bench()
    if with_package:
        with tempfile.TemporaryDirectory() as folder:
            figures |= edge.package(Path(folder) / "package")
    report(figures, as_json)
