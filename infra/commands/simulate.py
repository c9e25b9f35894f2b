"""`linkcast simulate`: a seeded fabric, its events and its truth."""

from datetime import datetime
from pathlib import Path

import click

from infra.options import even

PROFILES = ("true", "train")


def _profiles(_context: click.Context, _option: click.Parameter, value: str) -> list[str]:
    names = list(dict.fromkeys(value.split(",")))
    if not set(names) <= set(PROFILES):
        raise click.BadParameter(f"{value!r} is not one of {', '.join(PROFILES)}, or both with a comma between")
    return names


@click.command()
@click.option("--ports", type=click.IntRange(2), default=300, show_default=True, callback=even, help="An even number.")
@click.option("--hours", type=click.FloatRange(0.1), default=24.0, show_default=True, help="Of event time.")
@click.option(
    "--profile",
    "profiles",
    callback=_profiles,
    default="train",
    show_default=True,
    help="Fault rates: 'true' as on real fabrics, 'train' 30 to 9000 times that, to learn from; or both.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same bytes.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--format", "events_as", type=click.Choice(["parquet", "jsonl"]), default="parquet", show_default=True)
@click.option("--period", type=click.FloatRange(1), default=30.0, show_default=True, help="Seconds between samples.")
@click.option(
    "--topology",
    type=click.Choice(["selene", "tree"]),
    default="selene",
    show_default=True,
    help="A real InfiniBand cluster of up to 15,302 ports, or a RoCE fat tree of any size.",
)
@click.option("--start", type=click.DateTime(), default="2026-01-05", show_default=True, help="First event time, UTC.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
def command(
    ports: int,
    hours: float,
    profiles: list[str],
    seed: int,
    out: Path,
    events_as: str,
    period: float,
    topology: str,
    start: datetime,
    processes: int,
) -> None:
    """Write the events and the truth of a seeded fabric.

    Counters of every port are simulated, and read by the code that reads real ones. Reads nothing, and writes to the
    folder --out: metrics.parquet (or metrics.jsonl.zst) in the order of arrival, outcomes.jsonl, truth.jsonl (which
    incidents, and from when they could be seen coming) and, last, fabric.json (every parameter); with two profiles a
    folder for each. Prints the counts as JSON; exits with 1 if the topology has fewer ports.

    \b
        linkcast simulate --ports 200 --hours 24 --profile true,train --seed 7 --out sim
    """
    import json
    from datetime import UTC

    from offline.simulator.export import export
    from offline.simulator.fabric import Fabric, Setting

    def show(n_events: int) -> None:
        click.echo(f"\r{profile}: {n_events:,} events", nl=False, err=True)

    counts = {}
    for profile in profiles:
        setting = Setting(
            ports=ports,
            hours=hours,
            seed=seed,
            profile=profile,  # type: ignore[arg-type]
            period_s=period,
            start_ms=int(start.replace(tzinfo=UTC).timestamp() * 1_000),
            topology=topology,  # type: ignore[arg-type]
        )
        folder = out / profile if len(profiles) > 1 else out
        fabric = Fabric(setting)
        show(0)
        try:
            counts[profile] = export(fabric, folder, events_as=events_as, processes=processes, progress=show)  # type: ignore[arg-type]
        except OSError as error:
            error.filename = error.filename or str(folder)  # a write names no file
            raise
        finally:
            click.echo("", err=True)
    click.echo(json.dumps(counts))
