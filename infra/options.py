"""Options that several subcommands share. Each has a flag, a LINKCAST_* variable and a key in `linkcast.toml`."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from streams.contract import LinkcastError
from streams.kafka import SASL_MECHANISMS, SECURITY_PROTOCOLS, KafkaRefused, KafkaSettings

R = TypeVar("R")


class NoBroker(LinkcastError):
    """No cluster was named, and the embedded broker is not up."""


def default_home() -> Path:
    """Return where linkcast keeps what it makes: `linkcast` in the user's XDG data folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "linkcast"


home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_home,
    envvar="LINKCAST_HOME",
    show_default="the user's data folder",
    help="Where linkcast keeps the embedded broker and its models.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")

time_zone_option = click.option(
    "--time-zone", envvar="LINKCAST_TIME_ZONE", default="UTC", show_default=True, help="Of the fabric, IANA."
)

streams_max_option = click.option(
    "--streams-max", default=200_000, show_default=True, type=click.IntRange(1), help="Streams a partition takes."
)

rules_option = click.option(
    "--rules",
    envvar="LINKCAST_RULES",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rule table in place of linkcast's own (TOML).",
)


def even(_context: click.Context, _option: click.Parameter, value: int) -> int:
    """Refuse an odd number of ports, as an option's callback."""
    if value % 2:
        raise click.BadParameter(f"{value} is odd, and a link has two ports: say {value + 1}")
    return value


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_KAFKA_OPTIONS = (
    click.option(
        "--bootstrap",
        envvar="LINKCAST_BOOTSTRAP",
        metavar="HOST:PORT,…",
        help="The Kafka cluster. Without it: the embedded broker ('linkcast broker up').",
    ),
    click.option(
        "--prefix", envvar="LINKCAST_PREFIX", default="linkcast.", show_default=True, help="Of every topic's name."
    ),
    click.option(
        "--security-protocol",
        envvar="LINKCAST_SECURITY_PROTOCOL",
        type=click.Choice(SECURITY_PROTOCOLS),
        default="PLAINTEXT",
        show_default=True,
        help="How to speak to the cluster.",
    ),
    click.option(
        "--sasl-mechanism",
        envvar="LINKCAST_SASL_MECHANISM",
        type=click.Choice(SASL_MECHANISMS),
        help="How to say who we are.",
    ),
    click.option("--sasl-username", envvar="LINKCAST_SASL_USERNAME", help="For PLAIN and SCRAM."),
    # No flag's value on purpose: other users of the machine read command lines.
    click.option(
        "--sasl-password-file",
        envvar="LINKCAST_SASL_PASSWORD_FILE",
        type=_FILE,
        help="File with the password; or set LINKCAST_SASL_PASSWORD.",
    ),
    click.option("--aws-region", envvar="LINKCAST_AWS_REGION", help="Of the MSK cluster, for AWS_MSK_IAM."),
    click.option("--tls-ca", envvar="LINKCAST_TLS_CA", type=_FILE, help="Authority to trust (PEM)."),
    click.option(
        "--tls-certificate",
        envvar="LINKCAST_TLS_CERTIFICATE",
        type=_FILE,
        help="The client's own certificate (PEM).",
    ),
    click.option("--tls-key", envvar="LINKCAST_TLS_KEY", type=_FILE, help="The certificate's key (PEM)."),
    home_option,
)


def kafka_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of the cluster; it is called with `kafka: KafkaSettings` and `prefix: str`.

    Raises `NoBroker` before the command runs if there is no cluster to speak to.
    """

    @cluster_options
    @functools.wraps(command)
    def with_kafka(*args: Any, **options: Any) -> R:
        return command(*args, kafka=kafka_settings(options), **options)

    return with_kafka


def cluster_options(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of the cluster as they are, for `kafka_settings`."""
    for option in reversed(_KAFKA_OPTIONS):
        command = option(command)
    return command


def kafka_settings(options: dict[str, Any]) -> KafkaSettings:
    """Take what `cluster_options` added but the prefix out of `options`, and return the settings it means.

    Without a bootstrap address these are the embedded broker's, or `NoBroker` is raised if it is down.
    """
    bootstrap, home, password_file = (options.pop(name) for name in ("bootstrap", "home", "sasl_password_file"))
    security = {field: options.pop(option) for option, field in _SECURITY.items()}
    return KafkaSettings(
        bootstrap=bootstrap or _embedded_bootstrap(home), password=_password(password_file), **security
    )


_SECURITY = {
    "security_protocol": "security_protocol",
    "sasl_mechanism": "sasl_mechanism",
    "sasl_username": "username",
    "aws_region": "region",
    "tls_ca": "ca",
    "tls_certificate": "certificate",
    "tls_key": "key",
}


def _password(file: Path | None) -> str | None:
    if not file:
        return os.environ.get("LINKCAST_SASL_PASSWORD")
    try:
        return file.read_text("utf-8").strip()
    except UnicodeDecodeError as error:
        raise KafkaRefused(
            f"{file}: the password is not UTF-8 text. Write it again, as the broker knows it."
        ) from error


def _embedded_bootstrap(home: Path) -> str:
    from infra.broker.process import EmbeddedBroker

    running = EmbeddedBroker(home / "broker").find()
    if running is None:
        raise NoBroker("no Kafka named and none up here: run 'linkcast broker up', or set LINKCAST_BOOTSTRAP=host:port")
    return running.bootstrap
