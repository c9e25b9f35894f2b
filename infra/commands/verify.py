"""`linkcast verify`: live features against a replay of their log."""

import click

from infra.options import json_option, kafka_options, time_zone_option
from streams.kafka import KafkaSettings


@click.command()
@kafka_options
@time_zone_option
@json_option
def command(kafka: KafkaSettings, prefix: str, time_zone: str, as_json: bool) -> None:
    """Replay topic metrics and compare it with topic features, bit for bit.

    Reads metrics and features, writes nothing. Rows that a crash made the worker repeat are compared as well. Exits
    with 1 if a bit differs, a row is missing or none of the log explains it, and shows the first differences.

    \b
        linkcast verify --json | jq .differing
    """
    import asyncio
    import sys

    import msgspec

    from infra.progress import compiling
    from offline.verify import verify
    from streams.stream_table import compile_kernel

    with compiling():
        compile_kernel()
    found = asyncio.run(verify(kafka, prefix=prefix, time_zone=time_zone))
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
