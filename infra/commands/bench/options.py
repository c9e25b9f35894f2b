"""Options that several benchmarks share."""

from pathlib import Path

import click

model_option = click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Bundle as 'linkcast train' leaves it, beside its HOME/keys; default: a small one is trained first.",
)
streams_option = click.option(
    "--streams", type=click.IntRange(1), default=10_000, show_default=True, help="Ports that report in turn."
)
