"""`linkcast replay`: recorded metric events onto Kafka."""

import asyncio
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from infra.options import kafka_options
from streams.kafka import KafkaSettings

if TYPE_CHECKING:
    from streams.ingest.replay import Replay


class Speed(click.ParamType[float]):
    """A number above 0, or `max`."""

    name = "speed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the speed, infinity for `max`."""
        try:
            speed = math.inf if value == "max" else float(value)
        except ValueError:
            speed = math.nan
        if not speed > 0:
            self.fail(f"{value!r} is no speed: give a number above 0 (1 is real time), or max", param, ctx)
        return speed


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--speed", type=Speed(), default="max", show_default=True, help="1 is real time, 60 an hour a minute.")
@click.option("--limit", type=click.IntRange(1), help="Events to send at most.")
@click.option("--skip-bad", is_flag=True, help="Exit with 0 though some lines were no events.")
@kafka_options
def command(
    files: tuple[str, ...], speed: float, limit: int | None, skip_bad: bool, kafka: KafkaSettings, prefix: str
) -> None:
    """Publish recorded metric events.

    Reads JSON Lines (plain, .gz, .zst, or - for stdin), CSV or Parquet, one file after the other, and writes to topic
    metrics: order per node and event times unchanged. Waits for the cluster if it is away. Lines that are no events go
    to stderr. Prints {"events_sent", "rejected", "seconds", "events_per_s"}; exits with 1 if a line was no event or
    Kafka did not take one, with 130 after Ctrl-C, which first sends what is under way.

    \b
        linkcast replay monday.jsonl.gz tuesday.parquet --speed 60
    """
    interrupted, rejected = asyncio.run(_replay(files, speed, limit or math.inf, kafka, prefix))
    if interrupted:
        sys.exit(130)
    sys.exit(bool(rejected) and not skip_bad)


async def _replay(
    files: tuple[str, ...], speed: float, limit: float, kafka: KafkaSettings, prefix: str
) -> tuple[bool, int]:
    import json
    import signal
    import time

    from streams.ingest.producer import MetricsProducer
    from streams.ingest.replay import Replay

    replay = Replay(speed=speed, limit=limit, warn=lambda words: click.echo(words, err=True))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        replay.stop.set()
        loop.remove_signal_handler(signal.SIGINT)  # a second Ctrl-C ends it at once

    producer = MetricsProducer(kafka, prefix=prefix)
    start = time.monotonic()
    try:
        async with producer, _progress(replay):
            loop.add_signal_handler(signal.SIGINT, stop)
            start = time.monotonic()
            await replay.publish(files, producer)
    finally:
        seconds = time.monotonic() - start
        for line in replay.bad:
            click.echo(str(line), err=True)
        if replay.rejected > len(replay.bad):
            click.echo(f"and {replay.rejected - len(replay.bad)} more that are no events", err=True)
        figures = {"events_sent": producer.acknowledged, "rejected": replay.rejected, "seconds": round(seconds, 3)}
        click.echo(json.dumps(figures | {"events_per_s": round(producer.acknowledged / seconds)}))
    return replay.stop.is_set(), replay.rejected


@asynccontextmanager
async def _progress(replay: "Replay") -> AsyncIterator[None]:
    """Keep a count on the terminal, if there is one."""

    async def count() -> None:
        while True:
            await asyncio.sleep(0.5)
            click.echo(f"\r{replay.sent:,} events sent, {replay.rejected:,} rejected ", err=True, nl=False)

    counting = asyncio.create_task(count()) if sys.stderr.isatty() else None
    try:
        yield
    finally:
        if counting:
            counting.cancel()
            click.echo(err=True)
