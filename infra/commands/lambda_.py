"""`linkcast lambda`: the AWS adapter on this machine."""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infra.options import json_option, kafka_options
from streams.kafka import KafkaSettings

if TYPE_CHECKING:
    from lambda_adapter.event_source import Counters, EventSource, Function

SAY_EVERY_S = 2.0
_OURS = "lambda_adapter.handler:lambda_handler"


@click.group()
def command() -> None:
    """The AWS adapter on this machine: run it behind Kafka as Lambda would."""


# The options of the mapping are named as its settings, so that they pass through as they are.
@command.command()
@kafka_options
@click.option("--topic", help="To read; default: the prefix followed by 'predictions'.")
@click.option(
    "--handler",
    default=_OURS,
    show_default=True,
    metavar="MODULE:FUNCTION",
    help="What to invoke with (event, context).",
)
@click.option("--group", help="Consumer group; default: the prefix followed by 'lambda'.")
@click.option(
    "--in-process/--runtime",
    default=True,
    show_default=True,
    help="Call the handler here; or in processes of AWS' runtime client, killed when they are too slow.",
)
@click.option(
    "--timeout-s", default=30.0, show_default=True, type=click.FloatRange(0.001, 900), help="Of the function."
)
@click.option("--concurrency", default=1, show_default=True, type=click.IntRange(1, 64), help="Invocations at once.")
@click.option("--batch-size", default=100, show_default=True, type=int, help="BatchSize, 1 to 10,000.")
@click.option(
    "--window-s",
    "maximum_batching_window_in_seconds",
    type=int,
    show_default="0.5",
    help="MaximumBatchingWindowInSeconds, 0 to 300.",
)
@click.option(
    "--starting-position",
    default="TRIM_HORIZON",
    show_default=True,
    type=click.Choice(["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"]),
    help="Of a group that committed nothing.",
)
@click.option(
    "--starting-timestamp", "starting_position_timestamp", type=float, help="Seconds since the epoch, for AT_TIMESTAMP."
)
@click.option("--report-failures/--ignore-answers", default=True, show_default=True, help="ReportBatchItemFailures.")
@click.option(
    "--bisect/--no-bisect",
    "bisect_batch_on_function_error",
    default=True,
    show_default=True,
    help="BisectBatchOnFunctionError.",
)
@click.option(
    "--retries",
    "maximum_retry_attempts",
    default=-1,
    show_default=True,
    type=int,
    help="MaximumRetryAttempts, 0 to 10,000; -1 is for ever, or 10 with --on-failure.",
)
@click.option(
    "--record-age-s",
    "maximum_record_age_in_seconds",
    default=-1,
    show_default=True,
    type=int,
    help="MaximumRecordAgeInSeconds, 60 to 604,800; -1 is any age.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="PATTERN",
    help='FilterCriteria, such as {"value": {"risk": [{"numeric": [">=", 80]}]}}; may be repeated.',
)
@click.option("--on-failure", metavar="TOPIC", help="Topic for the records given up, on the same cluster.")
@click.option("--once", is_flag=True, help="Stop when what the topic holds now is done.")
@json_option
def run(
    kafka: KafkaSettings,
    prefix: str,
    topic: str | None,
    handler: str,
    group: str | None,
    in_process: bool,
    timeout_s: float,
    concurrency: int,
    report_failures: bool,
    filters: tuple[str, ...],
    on_failure: str | None,
    once: bool,
    as_json: bool,
    **mapping: Any,
) -> None:
    """Invoke a Lambda handler with the records of a topic, as Lambda's event source mapping would.

    Offsets are committed behind what the handler succeeded with: a run that was killed goes on from there. Says every
    2 s how far it is, and at the end what happened. Stops on SIGTERM and Ctrl-C behind the invocation under way. Exits
    with 1 if records were discarded: given up, and no --on-failure to keep them. What the handler prints is on stderr.

    \b
        linkcast lambda run --handler my_module:my_function --once --json
    """
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what matters of its log we say ourselves

    from lambda_adapter.event_source import (
        EventSource,
        FailureTopic,
        FilterCriteria,
        FilterRefused,
        Options,
        OptionsRefused,
        TopicMissing,
    )

    if handler == _OURS:
        _check_environment(kafka)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # for what the handler prints: stdout has the figures alone
            source = EventSource(
                kafka,
                topic or f"{prefix}predictions",
                group or f"{prefix}lambda",
                _function(handler, in_process=in_process, timeout_s=timeout_s),
                Options(
                    function_response_types=("ReportBatchItemFailures",) if report_failures else (),
                    filter_criteria=FilterCriteria(filters) if filters else None,
                    **mapping,
                ),
                concurrency=concurrency,
                on_failure=FailureTopic(kafka.client_arguments(), on_failure) if on_failure else None,
            )
            asyncio.run(_until_stopped(source, kafka, once=once))
    except (OptionsRefused, FilterRefused) as error:
        raise click.UsageError(str(error)) from error
    except TopicMissing as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(_figures(source.counters)) if as_json else _line(source.counters))
    sys.exit(bool(source.counters.discarded))


def _check_environment(kafka: KafkaSettings) -> None:
    """Raise `SettingsRefused` or `AwsRefused` for what our own handler would fail at in each invocation, for ever.

    Where the environment names no cluster for its dead letters, it is the one that is read.
    """
    from infra.aws import check_login
    from lambda_adapter.settings import Settings

    if not os.environ.get("LINKCAST_BOOTSTRAP"):
        os.environ["LINKCAST_BOOTSTRAP"] = kafka.bootstrap
        os.environ["LINKCAST_SECURITY_PROTOCOL"] = kafka.security_protocol
        os.environ["LINKCAST_SASL_MECHANISM"] = kafka.sasl_mechanism or ""
    Settings.from_environment(os.environ)
    check_login()


def _function(handler: str, *, in_process: bool, timeout_s: float) -> "Function":
    """Return what to invoke; its module is looked for in the current folder first, as Lambda does in its own."""
    from lambda_adapter.event_source.function import InProcess
    from lambda_adapter.event_source.runtime import Runtime, RuntimeMissing

    module, _, name = handler.partition(":")
    if not name:
        raise click.UsageError(f"--handler {handler}: give MODULE:FUNCTION")
    if in_process:
        return InProcess(_imported(module, name), timeout_s=timeout_s)
    try:
        return Runtime(f"{module}.{name}", timeout_s=timeout_s)
    except RuntimeMissing as error:
        raise click.ClickException(str(error)) from error


def _imported(module: str, name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise click.ClickException(f"--handler: no module {error.name}, neither here nor installed") from error
        raise click.ClickException(
            f"--handler {module}:{name} needs the package {error.name}: install it "
            "(linkcast's own handler: pip install -e '.[aws]' in the checkout)"
        ) from error
    if not callable(handler := getattr(imported, name, None)):
        raise click.ClickException(f"--handler: module {module} has no function {name}")
    return handler


async def _until_stopped(source: "EventSource", kafka: KafkaSettings, *, once: bool) -> None:
    from streams.kafka import await_broker

    await await_broker(kafka)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    saying = asyncio.create_task(_say(source))
    try:
        await source.run(stop, is_once=once)
    finally:
        saying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await saying


async def _say(source: "EventSource") -> None:
    while True:
        await asyncio.sleep(SAY_EVERY_S)
        click.echo(_line(source.counters), err=True)


def _line(counters: "Counters") -> str:
    failed = counters.function_errors + counters.partial_failures
    return (
        f"{counters.read} records read, {counters.settled} done in {counters.invocations} invocations "
        f"({failed} failed), {counters.filtered} filtered out, {counters.given_up} given up"
    )


def _figures(counters: "Counters") -> dict[str, int]:
    return asdict(counters) | {"given_up": counters.given_up, "discarded": counters.discarded}
