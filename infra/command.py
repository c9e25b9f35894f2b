"""The `linkcast` command: its subcommands by name, its settings file, and every failure as one line.

A subcommand is a file or package in `infra/commands` with a click command or group named `command`. It is imported when
it is run or asked for its own help, and never for the list of all: `linkcast --help` loads click and nothing heavy.
"""

import errno
import importlib
import keyword
import logging
import os
import tomllib
from collections.abc import Container
from pathlib import Path
from typing import Any

import click

from streams.contract import LinkcastError

SUBCOMMANDS = {
    "demo": "Run the main job on this machine, with a live view and a summary.",
    "broker": "The embedded Kafka of this machine: up, down, status.",
    "topics": "The declared topics: make and check them, or list them.",
    "doctor": "Say what is missing on this machine, and the fix.",
    "collect": "Read real port counters and publish metric events.",
    "simulate": "Write the events and the truth of a seeded fabric.",
    "replay": "Publish recorded metric events.",
    "worker": "Score every event of topic metrics, as a member of a consumer group; more members share the partitions.",
    "backfill": "Compute the 24 features and the rule label of each event in FILE…, without a broker.",
    "verify": "Replay topic metrics and compare it with topic features, bit for bit.",
    "train": "Train the two models on a simulated history and write them as one signed bundle.",
    "lambda": "The AWS adapter on this machine: run it behind Kafka as Lambda would.",
    "sagemaker": "Train, serve and promote models in an AWS account, by SageMaker.",
    "bench": "Measure the figures of docs/benchmarks.md on this machine.",
}
"""Each subcommand with the first line of its help, which a test holds it to."""


class SettingsRefused(LinkcastError):
    """The settings file can't be read, or names what there isn't."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported one by one, when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of `SUBCOMMANDS`."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand and read its settings; None for a name that is none."""
        if cmd_name not in SUBCOMMANDS:
            return None
        command = load(cmd_name)
        ctx.default_map = {cmd_name: read_settings(cmd_name, command)}
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUBCOMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand, and turn what the world did to it into one line and an exit status."""
        try:
            return super().invoke(ctx)
        except LinkcastError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            raise _not_installed(error) from error
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            raise click.ClickException(NO_CACHE) from error
        except KeyboardInterrupt:
            ctx.exit(130)  # 128 + SIGINT, as a shell says it
        except OSError as error:
            if error.errno not in _PLACES:
                raise
            at = f" at {error.filename}" if error.filename else ""
            raise click.ClickException(_PLACES[error.errno].format(at=at)) from error


def load(name: str) -> click.Command:
    """Import a subcommand; the module of one that Python has a keyword for ends in an underscore."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    command: click.Command = importlib.import_module(f"infra.commands.{module}").command
    return command


NO_CACHE = (
    "Numba finds no place for what it compiles, neither beside the source nor in the user's cache folder: set "
    "NUMBA_CACHE_DIR to a folder that you may write to"
)

_PLACES = {
    errno.ENOSPC: "the disk is full{at}: free some space and run this again",
    errno.EDQUOT: "the quota is used up{at}: free some space and run this again",
    errno.EACCES: "no permission{at}: name another place, or run this as its owner",
    errno.EPERM: "no permission{at}: name another place, or run this as its owner",
    errno.ENOENT: "no such file or folder{at}: name another place",
    errno.EEXIST: "a file stands{at} where a folder is needed: name another place",
    errno.ENOTDIR: "a file stands{at} where a folder is needed: name another place",
    errno.EISDIR: "a folder stands{at} where a file is needed: name another place",
    errno.EROFS: "the disk is read-only{at}: name another place",
}
"""What a place to read or write may lack, by the system's number; anything else is worth its traceback."""


def _not_installed(error: ModuleNotFoundError) -> Exception:
    if error.name is None or error.name.split(".")[0] in ("streams", "online", "offline", "lambda_adapter", "infra"):
        return error  # a bug of ours: its traceback is wanted
    return click.ClickException(
        f"this needs the package {error.name}: in the checkout, 'make setup' installs what Kafka, worker and models "
        "need, and 'make setup-dev' what the AWS adapter and the tools need as well"
    )


def read_settings(name: str, command: click.Command) -> dict[str, Any]:
    """Return the defaults of one subcommand from `./linkcast.toml`, or the file that LINKCAST_CONFIG names.

    A key is an option's long name. At the top stand those that subcommands share (`infra.options`), in a table of a
    subcommand's name its own, in a table of that table those of `broker up` and the like.
    Raises `SettingsRefused` for a file that can't be read and for a key that is no option.
    """
    path = Path(os.environ.get("LINKCAST_CONFIG", "linkcast.toml"))
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if "LINKCAST_CONFIG" in os.environ:
            raise SettingsRefused(f"LINKCAST_CONFIG: there is no {path}") from error
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsRefused(f"{path}: {error}: mend it, or name another by LINKCAST_CONFIG") from error
    try:
        shared = _by_parameter(settings, _shared_options(), tables=SUBCOMMANDS)
        return _defaults(command, settings.get(name, {}), shared)
    except KeyError as error:
        raise SettingsRefused(f"{path}: {error.args[0]!r} is no option: see 'linkcast {name} --help'") from error
    except TypeError as error:
        raise SettingsRefused(f"{path}: {error}") from error


def _shared_options() -> list[click.Parameter]:
    from infra.options import kafka_options

    return click.command(kafka_options(lambda **_: None)).params


def _defaults(command: click.Command, table: dict[str, Any], inherited: dict[str, Any]) -> dict[str, Any]:
    below = command.commands if isinstance(command, click.Group) else {}
    params = [*command.params, *(param for sub in below.values() for param in sub.params)]
    own = inherited | _by_parameter(table, params, tables=below)
    return own | {name: _defaults(sub, table.get(name, {}), own) for name, sub in below.items()}


def _by_parameter(table: dict[str, Any], params: list[click.Parameter], *, tables: Container[str]) -> dict[str, Any]:
    """Return the table's keys as click names them.

    `KeyError` for one that is neither an option nor one of `tables`, `TypeError` for a value that its option can't be.
    """
    named = {option.removeprefix("--"): param for param in params for option in param.opts}
    values = {}
    for key, value in table.items():
        if not (isinstance(value, dict) and key in tables):
            param = named[key.replace("_", "-")]
            _check_type(key, value, param)
            values[str(param.name)] = value
    return values


_TEXT = (click.types.StringParamType, click.Choice, click.Path, click.DateTime)


def _check_type(key: str, value: Any, param: click.Parameter) -> None:
    # Click would call a text or a number whatever stands there, or break at it.
    wanted, name = (
        (str, "text in quotes") if isinstance(param.type, _TEXT) else (str | int | float, "a number, or true or false")
    )
    is_many = isinstance(param, click.Option) and param.multiple
    for one in value if is_many and isinstance(value, list) else [value]:
        if not isinstance(one, wanted):
            raise TypeError(f"{key} = {value!r}: give {name}")


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "LINKCAST", "help_option_names": ["-h", "--help"]})
@click.version_option(package_name="linkcast")
def main() -> None:
    """Say which InfiniBand or RoCE link is about to fail, minutes ahead.

    Options come from flags, LINKCAST_* variables or linkcast.toml, in that order. Results are on stdout, words for
    people on stderr. Exits with 1 for a failure it can name, 2 for a wrong option, 130 after Ctrl-C (a service: 0).
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


if __name__ == "__main__":
    main()
