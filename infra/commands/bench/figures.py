"""What every benchmark is run with: the checkout, the end of its children, and figures that count or are refused."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from streams.contract import LinkcastError


class NoCheckout(LinkcastError):
    """The benchmarks are not here."""


class WrongAnswer(LinkcastError):
    """What was measured is not what it should compute."""


class NotHeld(LinkcastError):
    """The load was not what it should be, or the machine had others to serve."""


def benchmark(name: str) -> Any:
    """Return a module of `bench` by its name, as nothing of `infra` imports that; raises `NoCheckout` where none is."""
    try:
        return importlib.import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "bench":
            raise
        raise NoCheckout("the benchmarks are in no wheel: run this in a checkout of linkcast ('make setup')") from error


def report(figures: Mapping[str, object], as_json: bool) -> None:
    """Print the figures as a table for people and, if wanted, as JSON.

    Raises `WrongAnswer` where values are `differing`, `NotHeld` where the run was `void`.
    """
    import json

    for name, figure in figures.items():
        rows = figure.items() if isinstance(figure, dict) else [("", figure)]
        for part, value in rows:
            shown = f"{value:,}" if isinstance(value, int | float) else str(value)
            click.echo(f"{f'{name} {part}':<28}{shown:>20}", err=True)
    if as_json:
        click.echo(json.dumps(figures))
    if figures.get("differing"):
        raise WrongAnswer(f"{figures['differing']} values differ in a bit: the figures above are of a wrong answer")
    if figures.get("void"):
        raise NotHeld(f"the figures above don't count: {figures['void']}. Run it again on a quieter machine.")


def end_children_on_sigterm() -> None:
    """Make SIGTERM an exit as any other: the broker and the workers end with it."""
    import signal
    import sys

    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
