"""The command itself: quick to help, settings by flag, variable or file, every failure one line and an exit status."""

import errno
import inspect
import json
import os
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from infra.command import SUBCOMMANDS, load, main
from streams.contract import LinkcastError

HEAVY = ("numpy", "aiokafka", "numba", "pyarrow", "xgboost", "jgo", "psutil", "importlib.metadata", "asyncio")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run `linkcast` from an empty folder, with nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LINKCAST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture
def subcommand(monkeypatch):
    """Put a command in the place of `linkcast doctor`."""

    def place(command):
        monkeypatch.setattr("infra.commands.doctor.command", command)

    return place


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from infra.command import main; main(['--help'], standalone_mode=False); "
        f"sys.exit(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (ran.stderr, ran.returncode) == ("\n", 1)  # sys.exit(''): nothing heavy to name
    assert all(name in ran.stdout for name in SUBCOMMANDS)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommands_line_is_the_first_of_its_own_help(name, run):
    command = load(name)

    assert command.get_short_help_str(limit=200) == SUBCOMMANDS[name]
    assert run(name, "--help").exit_code == 0


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_line_to_paste(name):
    command = load(name)
    for leaf in command.commands.values() if isinstance(command, click.Group) else [command]:
        # A real backspace, not the two characters of a raw docstring: click then leaves the line as it is.
        _words, mark, lines = inspect.cleandoc(leaf.help).partition("\n\b\n")
        assert mark, f"{name} {leaf.name}: no example in the help"
        assert re.search(rf"^    .*linkcast {name}\b", lines, re.MULTILINE)


@pytest.mark.parametrize(
    ("raised", "exit_code", "line"),
    [
        (LinkcastError("no Kafka: start it"), 1, "Error: no Kafka: start it\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "out.parquet"), 1, "Error: the disk is full at out.parquet:"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/etc/linkcast"),
            1,
            "Error: no permission at /etc/linkcast:",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "/proc/no"), 1, "Error: no such file or folder at /proc/no:"),
        (PermissionError(errno.EPERM, "Not permitted", "/sys/no"), 1, "Error: no permission at /sys/no:"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "out"), 1, "Error: a folder stands at out where a file is"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "out"), 1, "Error: the quota is used up at out:"),
        (
            ModuleNotFoundError("No module named 'numba'", name="numba"),
            1,
            "Error: this needs the package numba: in the checkout, 'make setup' installs",
        ),
    ],
)
def test_what_the_world_does_is_one_line_and_a_status(raised, exit_code, line, run, subcommand):
    @click.command()
    def failing():
        raise raised

    subcommand(failing)
    result = run("doctor")

    assert result.exit_code == exit_code
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == bool(line)


def test_a_bug_of_ours_keeps_its_traceback(run, subcommand):
    @click.command()
    def buggy():
        raise ModuleNotFoundError("No module named 'streams.utils'", name="streams.utils")

    subcommand(buggy)
    assert isinstance(run("doctor").exception, ModuleNotFoundError)


def test_a_reader_that_went_away_is_no_failure_worth_words():
    code = "from infra.command import main; main(['--help'])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as ran:
        ran.stdout.close()
        assert ran.stderr.read() == b""


def test_flags_go_before_variables_and_variables_before_the_file(run, subcommand, tmp_path, monkeypatch):
    @click.command()
    @click.option("--prefix", envvar="LINKCAST_PREFIX", default="default.")
    def show(prefix):
        print(prefix)

    subcommand(show)

    assert run("doctor").stdout == "default.\n"
    (tmp_path / "linkcast.toml").write_text('prefix = "shared."\n')
    assert run("doctor").stdout == "shared.\n"
    (tmp_path / "linkcast.toml").write_text('prefix = "shared."\n[doctor]\nprefix = "own."\n')
    assert run("doctor").stdout == "own.\n"
    monkeypatch.setenv("LINKCAST_PREFIX", "variable.")
    assert run("doctor").stdout == "variable.\n"
    assert run("doctor", "--prefix", "flag.").stdout == "flag.\n"


def test_settings_reach_subcommands_of_subcommands(run, tmp_path, monkeypatch):
    (tmp_path / "other.toml").write_text(
        f"home = '{tmp_path / 'shared'}'\n[broker.status]\nhome = '{tmp_path / 'own'}'\n"
    )
    monkeypatch.setenv("LINKCAST_CONFIG", str(tmp_path / "other.toml"))

    status = run("broker", "status", "--json")

    assert json.loads(status.stdout)["data"] == str(tmp_path / "own" / "broker" / "data")
    assert run("broker", "down").stderr == "no broker was up\n"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ('bootsrap = "a:1"', "'bootsrap' is no option"),
        ("[broker]\nprot = 9092", "'prot' is no option"),
        ("[borker]\nport = 9092", "'borker' is no option"),
        ("port = ", "linkcast.toml: "),
        ("bootstrap = 3", "linkcast.toml: bootstrap = 3: give text in quotes"),
        ('bootstrap = ["a"]', "bootstrap = ['a']: give text in quotes"),
        ("home = true", "home = True: give text in quotes"),
        ("[broker.up]\nport = [1]", "port = [1]: give a number, or true or false"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(settings, named, run, tmp_path):
    (tmp_path / "linkcast.toml").write_text(settings)

    result = run("broker", "status")

    assert result.exit_code == 1
    assert named in result.stderr


def test_an_option_that_may_be_repeated_is_a_list_of_texts(run, tmp_path):
    (tmp_path / "linkcast.toml").write_text('[lambda.run]\nfilter = ["{}", "{}"]')
    assert run("lambda", "run", "--help").exit_code == 0
    (tmp_path / "linkcast.toml").write_text("[lambda.run]\nfilter = [1]")
    assert "filter = [1]: give text in quotes" in run("lambda", "run", "--help").stderr


def test_a_settings_file_that_is_named_must_be_there(run, monkeypatch):
    monkeypatch.setenv("LINKCAST_CONFIG", "absent.toml")

    assert "LINKCAST_CONFIG: there is no absent.toml" in run("broker", "status").stderr


def test_without_a_cluster_the_fix_is_told(run):
    result = run("topics", "list")

    assert result.exit_code == 1
    assert "run 'linkcast broker up', or set LINKCAST_BOOTSTRAP" in result.stderr


def test_the_password_comes_from_a_file_or_a_variable_and_no_flag(tmp_path, monkeypatch):
    from infra.options import cluster_options, kafka_settings

    @click.command()
    @cluster_options
    def show(prefix, **options):
        kafka = kafka_settings(options)
        print(kafka.password, kafka.sasl_mechanism, options)

    sasl = [
        "--bootstrap",
        "a:1",
        "--security-protocol",
        "SASL_SSL",
        "--sasl-mechanism",
        "PLAIN",
        "--sasl-username",
        "u",
    ]
    monkeypatch.setenv("LINKCAST_SASL_PASSWORD", "by variable")
    assert CliRunner().invoke(show, sasl).stdout == "by variable PLAIN {}\n"
    (tmp_path / "password").write_text("by file\n")
    named = [*sasl, "--sasl-password-file", str(tmp_path / "password")]
    assert CliRunner().invoke(show, named).stdout == "by file PLAIN {}\n"
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    assert "password: the password is not UTF-8 text" in str(CliRunner().invoke(show, named).exception)


def test_an_address_that_is_none_is_one_line(run):
    result = run("topics", "list", "--bootstrap", "127.0.0.1:notaport")

    assert result.exit_code == 1
    assert "Error: Kafka at '127.0.0.1:notaport': give host:port" in result.stderr


@pytest.mark.parametrize("command", [["train", "--no-publish"], ["simulate", "--out", "out"]])
@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--ports", "7", "a link has two ports: say 8"), ("--seed", "-1", "not in the range")],
)
def test_a_fabric_that_can_not_be_is_a_wrong_option(command, option, value, words, run):
    result = run(*command, option, value)

    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--no-publish", "--key", "garbage"], "garbage: no readable private key"),
        (["--no-publish", "--home", "garbage/home"], "a file stands at garbage"),
        (["--no-publish", "--key", "garbage/signing.key"], "a file stands at garbage"),
        (["--no-publish", "--out", "garbage/models"], "a file stands at garbage"),
        (["--publish", "--bootstrap", "a:1", "--security-protocol", "SSL", "--tls-ca", "garbage"], "TLS files garbage"),
    ],
)
def test_what_training_will_need_at_its_end_is_looked_at_first(options, words, run, tmp_path):
    (tmp_path / "garbage").write_text("garbage")

    result = run("train", "--ports", "6", "--hours", "6", *options)

    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1  # no word of a simulation


def test_a_full_disk_is_a_line_of_its_own_that_says_where(run, monkeypatch):
    def fill(fabric, folder, *, progress, **_):
        progress(12_684)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("offline.simulator.export.export", fill)
    result = run("simulate", "--ports", "8", "--hours", "0.1", "--out", "sim")

    assert result.exit_code == 1
    assert result.stderr.splitlines()[-2:] == [
        "train: 12,684 events",
        "Error: the disk is full at sim: free some space and run this again",
    ]


def test_no_place_for_what_numba_compiles_is_one_line_that_says_what_to_do(run, subcommand, monkeypatch):
    from numba import njit
    from numba.core import caching

    @click.command()
    def compiling():
        njit(cache=True)(lambda: 0)

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    subcommand(compiling)
    result = run("doctor")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Numba finds no place")
    assert "NUMBA_CACHE_DIR" in result.stderr
