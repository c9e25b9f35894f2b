"""`linkcast worker`: the stream processor."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import click

from infra.options import kafka_options, rules_option, streams_max_option, time_zone_option
from streams.kafka import KafkaSettings


@click.command()
@kafka_options
@click.option("--group", envvar="LINKCAST_GROUP", help="Consumer group; default: the prefix followed by 'worker'.")
@time_zone_option
@rules_option
@streams_max_option
@click.option(
    "--trusted-keys",
    envvar="LINKCAST_TRUSTED_KEYS",
    type=click.Path(exists=True, path_type=Path),
    help="Public key, or a folder of them, that a model must be signed with; default: the home's own.",
)
@click.option(
    "--instance",
    envvar="LINKCAST_INSTANCE",
    help="Name of this member, unlike any other's: after a crash it takes its partitions back without waiting.",
)
@click.option(
    "--exactly-once",
    is_flag=True,
    help="Outputs and offsets in one transaction per partition: no repeats for readers with read_committed, later.",
)
@click.option("--accept-gap", is_flag=True, help="Go on where retention has passed records that the state needs.")
@click.option(
    "--processes",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Workers to run, one a core: member NAME-0, NAME-1 … of --instance, health on --health-port, the next one …",
)
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Where /metrics and /healthz listen.")
@click.option("--health-port", default=0, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free one.")
def command(
    kafka: KafkaSettings,
    prefix: str,
    group: str | None,
    time_zone: str,
    rules: Path | None,
    streams_max: int,
    trusted_keys: Path | None,
    instance: str | None,
    exactly_once: bool,
    accept_gap: bool,
    processes: int,
    health_host: str,
    health_port: int,
) -> None:
    """Score every event of topic metrics, as a member of a consumer group; more members share the partitions.

    Reads metrics and models, writes predictions, features and metrics.dead. Until a model is published the ten rules
    speak, with "model": "rules". Offsets are committed once the outputs are acknowledged; the windows are kept on topic
    state, and a restart goes on from there. Stops cleanly on SIGTERM and Ctrl-C, with exit status 0.

    \b
        linkcast worker --health-port 9464
        curl localhost:9464/healthz
    """
    import logging
    import signal

    from infra.progress import compiling
    from infra.supervisor import supervise

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters of its log we say ourselves

    from online.models.keys import load_trusted_keys
    from online.worker.prediction_json import compile_encoder
    from online.worker.service import WorkerSettings, run_worker
    from streams.features.calendar import transitions
    from streams.features.labels import DEFAULT_RULES, load_rules
    from streams.features.stream_table import compile_kernel

    # Before the group is joined: what is wrong here would be told there by another cause, or by the log alone.
    transitions(time_zone)
    keys = trusted_keys or click.get_current_context().params["home"] / "keys"
    if keys.is_file() or any(keys.glob("*.pub")):  # a key may come later: they are read anew with each model
        load_trusted_keys(keys)
    with compiling():
        compile_kernel()
        compile_encoder()
    settings = WorkerSettings(
        prefix=prefix,
        group=group or f"{prefix}worker",
        time_zone=time_zone,
        rules=load_rules(rules or DEFAULT_RULES),
        streams_max=streams_max,
        trusted_keys=keys,
        instance=instance,
        exactly_once=exactly_once,
        accept_gap=accept_gap,
        health_host=health_host,
        health_port=health_port,
    )

    async def main() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if processes > 1:
            await supervise([_of_one(i, instance, health_port) for i in range(processes)], stop)
        else:
            await run_worker(
                kafka,
                settings,
                stop,
                ready=lambda port: click.echo(f"health: http://{health_host}:{port}/healthz", err=True),
            )

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main())


def _of_one(i: int, instance: str | None, health_port: int) -> list[str]:
    """Return the arguments of one worker of several: those of this command, and its own."""
    own = ["--processes", "1", "--health-port", str(health_port and health_port + i)]
    return [*sys.argv[1:], *own, *(["--instance", f"{instance}-{i}"] if instance else [])]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's event loop where there is one."""
    try:
        from infra.event_loop import Loop
    except ImportError:  # no wheel for Windows
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = Loop
    return factory
