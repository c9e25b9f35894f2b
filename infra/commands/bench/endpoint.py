"""`linkcast bench endpoint`: one row over HTTP through the endpoint's container."""

from pathlib import Path

import click

from infra.commands.bench.figures import benchmark, end_children_on_sigterm, report
from infra.commands.bench.options import model_option
from infra.options import json_option


@click.command()
@click.option("--rate", type=click.IntRange(1), default=200, show_default=True, help="Rows per second.")
@click.option("--seconds", type=click.FloatRange(1.0), default=20.0, show_default=True, help="After the warm-up.")
@model_option
@json_option
def command(rate: int, seconds: float, model: Path | None, as_json: bool) -> None:
    """Time single rows through the code of the SageMaker endpoint over HTTP, at a fixed rate, on one core.

    An open loop over 16 connections: what waits is late from when it was due. Prints p50_ms, p95_ms, p99_ms, how many
    times faster that is than the specification's LLM call of 500 ms, CPU a request, and rows_per_s of 1, 4 and 16
    connections that never wait. Exits with 1 if an answer differs in any bit from the worker's scorer, if the
    loader was late itself, or if the host of a virtual machine took over 1 % of the cores.

    \b
        linkcast bench endpoint --rate 200 --json
    """
    endpoint = benchmark("endpoint")
    end_children_on_sigterm()
    report(endpoint.bench(rate=rate, seconds=seconds, model=model), as_json)
