"""A secret comes by a file or the environment: never by a flag, which others read in `ps`, and never back in words."""

import logging
import os
import re
import sys

import click
import pytest
from click.testing import CliRunner

from infra import doctor
from infra.command import SUBCOMMANDS, load, main
from infra.commands.worker import _of_one
from streams.kafka import KafkaRefused, KafkaSettings

SECRET = "hunter2-correct-horse"


def options(command):
    yield from (option for option in command.params if isinstance(option, click.Option))
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from options(below)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_no_flag_has_a_secret_as_its_value(name):
    flags = [flag for option in options(load(name)) for flag in option.opts]

    assert not [flag for flag in flags if re.search(r"password|passphrase|secret|token|credential", flag)
                and not flag.endswith("-file")]  # fmt: skip


def test_neither_the_log_nor_the_answer_shows_a_password(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(doctor, "ANSWER_SECONDS_MAX", 0)
    security = {"SECURITY_PROTOCOL": "SASL_PLAINTEXT", "SASL_MECHANISM": "PLAIN", "SASL_USERNAME": "someone"}
    environment = {f"LINKCAST_{name}": value for name, value in security.items()} | {
        "LINKCAST_SASL_PASSWORD": SECRET, "LINKCAST_HOME": str(tmp_path), "LINKCAST_BOOTSTRAP": "127.0.0.1:1",
    }  # fmt: skip
    with caplog.at_level(logging.DEBUG):
        result = CliRunner().invoke(main, ["doctor"], env=environment)

    assert "127.0.0.1:1" in result.output
    assert SECRET not in result.output + caplog.text


def test_a_password_in_an_address_is_not_said_again():
    with pytest.raises(KafkaRefused, match="kafka:9092'") as refused:
        KafkaSettings(bootstrap=f"someone:{SECRET}@kafka:9092")
    assert SECRET not in str(refused.value)


def test_the_children_of_a_worker_have_the_password_by_their_environment_alone(monkeypatch):
    monkeypatch.setenv("LINKCAST_SASL_PASSWORD", SECRET)
    monkeypatch.setattr(sys, "argv", ["linkcast", "worker", "--sasl-username", "someone", "--processes", "2"])

    arguments = _of_one(1, None, 0)

    assert arguments[:3] == ["worker", "--sasl-username", "someone"]
    assert SECRET not in " ".join(arguments)
    assert os.environ["LINKCAST_SASL_PASSWORD"] == SECRET
