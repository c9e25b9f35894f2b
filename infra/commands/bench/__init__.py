"""`linkcast bench`: the figures of docs/benchmarks.md, measured here.

A benchmark is a file in here, with a click command named `command`.
"""

import importlib

import click

BENCHMARKS = (
    "hop",
    "latency",
    "rates",
    "recovery",
    "backfill",
    "simulate",
    "memory",
    "score",
    "endpoint",
    "encode",
    "decode",
    "verify",
    "faults",
    "peers",
    "edge",
    "soak",
)


@click.group()
def command() -> None:
    """Measure the figures of docs/benchmarks.md on this machine.

    Each benchmark has a fixed seed and checks its answer. Needs a checkout of linkcast: bench/ is in no wheel.
    """


for name in BENCHMARKS:
    command.add_command(importlib.import_module(f"infra.commands.bench.{name}").command, name)
