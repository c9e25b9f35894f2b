"""`linkcast verify`: live features against a replay of their log."""

from datetime import UTC, datetime

import click

from infra.options import json_option, kafka_options, streams_max_option, time_zone_option
from streams.kafka import KafkaSettings


@click.command()
@kafka_options
@click.option("--from", "begin", type=click.DateTime(), help="Of the events to compare, by the broker's clock, UTC.")
@click.option("--until", "end", type=click.DateTime(), help="The first to leave out.")
@time_zone_option
@streams_max_option
@json_option
def command(
    kafka: KafkaSettings,
    prefix: str,
    begin: datetime | None,
    end: datetime | None,
    time_zone: str,
    streams_max: int,
    as_json: bool,
) -> None:
    """Replay topic metrics and compare it with topic features, bit for bit.

    Reads metrics and features, writes nothing. A span needs the 25 hours of metrics before it, too. Rows that a crash
    made the worker repeat are compared as well. Exits with 1 if a bit differs, a row is missing or none of the log
    explains it, and shows the first differences. --time-zone and --streams-max are to be those of the workers.

    \b
        linkcast verify --json | jq .differing
        linkcast verify --from 2026-11-28T02:00:00 --until 2026-11-28T03:00:00
    """
    if begin and end and begin >= end:
        raise click.UsageError(f"--until {end} is not later than --from {begin}: nothing lies between")
    import asyncio
    import sys

    import msgspec

    from infra.progress import compiling, step
    from offline.verify import verify
    from streams.features.stream_table import compile_kernel

    with compiling():
        compile_kernel()
    with step("replaying") as tell:
        found = asyncio.run(
            verify(
                kafka, prefix=prefix, time_zone=time_zone, streams_max=streams_max,
                from_ms=_ms(begin) if begin else 0, until_ms=_ms(end) if end else None, progress=tell,
            )
        )  # fmt: skip
    for difference in found.differences:
        click.echo(
            f"{difference.source} {difference.stream_id} {difference.feature}: live {difference.live!r}, "
            f"replayed {difference.replayed!r}",
            err=True,
        )
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(
            f"{found.events} rows compared: {found.differing} differ, {found.missing} missing, "
            f"{found.unexplained} without an event"
        )
    sys.exit(bool(found.differing or found.missing or found.unexplained))


def _ms(utc: datetime) -> int:
    return int(utc.replace(tzinfo=UTC).timestamp() * 1000)
