"""`linkcast collect`: real port counters to metric events."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from infra.options import cluster_options, kafka_settings

if TYPE_CHECKING:
    from streams.ingest.sources.collect import Oddities, Reading

R = TypeVar("R")


class Duration(click.ParamType[float]):
    """A length of time in seconds, given as 500ms, 10s or 1m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, more than 0."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", str(value))
        seconds = float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0}[match[2]] if match else 0.0
        if not 0 < seconds <= 86_400:
            self.fail(f"{value!r} is no length of time from 1ms to a day: say 500ms, 10s or 1m", param, ctx)
        return seconds


def _collecting(subcommand: Callable[..., R]) -> Callable[..., R]:
    """Give a subcommand --out and the options of the cluster, which are looked at only where there is no --out."""
    out = click.option("--out", metavar="FILE", help="JSON Lines file in place of Kafka; - for stdout.")
    return out(cluster_options(subcommand))


_every = click.option(
    "--every",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Time between two samples; three times it is a gap.",
)
_files = click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
_passes = click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, help="How often to read FILE…."
)
_host = click.option("--host", show_default="this machine's short name", help="The node in the streams' names.")


@click.group()
def command() -> None:
    """Read real port counters and publish metric events.

    One event per port and sample. What a port can't say is missing from its event, never 0; a port that says no
    metric at all is in --out with its `extra` alone, and isn't published to Kafka. A counter that a sample lacks is
    told by the next that has it, over the time since its last reading. Oddities go to stderr, once each.
    """


@command.command()
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default="/sys/class/infiniband",
    show_default=True,
    help="Folder that holds the devices.",
)
@_every
@click.option("--count", type=click.IntRange(min=1), show_default="for ever", help="Samples to take.")
@_host
@_collecting
def sysfs(root: Path, every: float, count: int | None, host: str | None, out: str | None, **cluster: Any) -> None:
    """Read the ports of this machine, streams host/device:port.

    Reads the counters under --root once as a base and then every --every, and publishes each sample to `metrics` (or
    writes it to --out). A RoCE bond's rate is that of its legs together, as the interfaces in `net` beside --root have
    it. Ends after --count samples, or cleanly on SIGINT and SIGTERM. Exits with 1 if no port can be read at first.

    \b
        linkcast collect sysfs --every 1s --count 3 --out -
    """
    from streams.ingest.sources.collect import Oddities
    from streams.ingest.sources.sysfs import Sysfs

    odd = Oddities()
    source = Sysfs(root, host=host or _short_hostname(), odd=odd)
    _run(source.read, odd, every=every, count=count, has_base=True, out=out, cluster=cluster)


@command.command()
@_files
@_every
@_passes
@_collecting
def perfquery(files: tuple[Path, ...], every: float, count: int, out: str | None, **cluster: Any) -> None:
    """Read the output of `perfquery -x`, streams guid/port (the GUID from FILE's name) or lid-N/port.

    FILE… in order are successive samples of the ports they name, each taken when its file was last written; the
    first one of a port has nothing to compare with. Where a port's extended counters have no errors, add the output
    of `perfquery` without -x to its FILE. With --count N they are read anew every --every. The text has no
    link rate: utilization stays missing. Exits with 1 if no port can be read.

    \b
        linkcast collect perfquery 10h00/perfquery_0x*.out 10h05/perfquery_0x*.out --out events.jsonl
    """
    from functools import partial

    from streams.ingest.sources.collect import Oddities, read_files
    from streams.ingest.sources.perfquery import parse

    odd = Oddities()
    read = partial(read_files, files, partial(parse, odd=odd), odd)
    _run(read, odd, every=every, count=count, has_base=False, out=out, cluster=cluster)


@command.command()
@_files
@_every
@_passes
@_host
@_collecting
def prometheus(
    files: tuple[Path, ...], every: float, count: int, host: str | None, out: str | None, **cluster: Any
) -> None:
    """Read what node_exporter writes of InfiniBand ports, streams host/device:port.

    FILE… in order are successive scrapes (or ranges) in the text format or OpenMetrics, each taken when its file was
    last written or at the time its samples carry. An `instance` label takes the place of --host: `gpu7:9100` is gpu7,
    any other port stays in the name, as does a `cluster` label. With --count N FILE… are read anew every --every.
    Exits with 1 if no port can be read.

    \b
        curl -s gpu7:9100/metrics > gpu7.prom; linkcast collect prometheus gpu7.prom --host gpu7 --out -
    """
    from functools import partial

    from streams.ingest.sources.collect import Oddities, read_files
    from streams.ingest.sources.prometheus import parse

    odd = Oddities()
    read = partial(read_files, files, partial(parse, host=host or _short_hostname(), odd=odd), odd)
    _run(read, odd, every=every, count=count, has_base=False, out=out, cluster=cluster)


@command.command()
@_files
@_every
@_passes
@_collecting
def ufm(files: tuple[Path, ...], every: float, count: int, out: str | None, **cluster: Any) -> None:
    """Read telemetry of NVIDIA UFM (JSON, JSON Lines or CSV), streams guid/port, of XDR's aggregated ports guid/aportN.

    Rows carry their own time; rows of the same port are successive samples. Utilization is UFM's own, of the outbound
    direction, for it gives no link rate. With --count N FILE… are read anew every --every. Exits with 1 if no port can
    be read.

    \b
        linkcast collect ufm telemetry.json --out -
    """
    from functools import partial

    from streams.ingest.sources.collect import Oddities, read_files
    from streams.ingest.sources.ufm import parse

    odd = Oddities()
    read = partial(read_files, files, partial(parse, odd=odd), odd)
    _run(read, odd, every=every, count=count, has_base=False, out=out, cluster=cluster)


def _short_hostname() -> str:
    import socket

    return socket.gethostname().partition(".")[0]


def _run(
    read: "Callable[[], list[Reading]]",
    odd: "Oddities",
    *,
    every: float,
    count: int | None,
    has_base: bool,
    out: str | None,
    cluster: dict[str, Any],
) -> None:
    import asyncio
    import json

    from streams.ingest.sources.collect import collect, to_file, to_kafka

    prefix = cluster.pop("prefix")
    sink = to_file(out) if out else to_kafka(kafka_settings(cluster), prefix)
    done = asyncio.run(collect(read, sink, every_s=every, count=count, has_base=has_base, odd=odd))
    if done.without_metric:
        what = "written with their extra alone" if out else "not published: the contract wants one"
        why = "a port's first sample has nothing to compare with, the lines above say what else is missing"
        click.echo(f"{done.without_metric} events had no metric, {what}: {why}", err=True)
    if out != "-":
        click.echo(json.dumps({"samples": done.samples, "events": done.events, "without_metric": done.without_metric}))
