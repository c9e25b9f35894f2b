"""`linkcast lambda run`: its figures and exit status, a wrong handler in one line, and a kill that loses nothing."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from infra.command import main

pytestmark = pytest.mark.kafka

HANDLER = """
import itertools, json, os

calls = itertools.count()

def note(event, context):
    print("a handler's own words")
    with open(os.environ["NOTES"], "a") as notes:
        for records in event["records"].values():
            notes.writelines(f"{record['partition']} {record['offset']}\\n" for record in records)

def refuse(event, context):
    raise ValueError("never")

def slowly(event, context):
    with open(f'{os.environ["GATE"]}{next(calls)}') as gate:  # a pipe: opening it waits until the test opens it, too
        gate.read()
    note(event, context)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "handlers_of_test.py").write_text(HANDLER)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("GATE", str(tmp_path / "gate"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def predictions(kafka, topics):
    """300 records on topic predictions, 150 a partition."""
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        for i in range(300):
            await producer.send(f"{topics}predictions", b"%d" % i, partition=i % 2)
    return {(p, offset) for p in range(2) for offset in range(150)}


async def start(kafka, prefix, *arguments):
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.command", "lambda", "run", "--bootstrap", kafka.bootstrap, "--prefix", prefix,
        *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


async def finish(process):
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def noted(folder):
    return [tuple(map(int, line.split())) for line in (folder / "notes").read_text().splitlines()]


@pytest.mark.parametrize("how", ["--in-process", "--runtime"])
async def test_it_invokes_the_handler_with_every_prediction_and_says_so(how, kafka, topics, predictions, folder):
    arguments = ("--handler", "handlers_of_test:note", how, "--once", "--json")
    status, out, err = await finish(await start(kafka, topics, *arguments))

    assert status == 0, err
    assert Counter(noted(folder)) == dict.fromkeys(predictions, 1)
    figures = json.loads(out)  # and nothing of what the handler prints
    assert "a handler's own words" in err
    assert (figures["read"], figures["settled"], figures["discarded"]) == (300, 300, 0)


async def test_records_that_are_discarded_are_a_failure_of_the_run(kafka, topics, predictions, folder):
    arguments = ("--handler", "handlers_of_test:refuse", "--retries", "0", "--no-bisect", "--once")
    status, out, err = await finish(await start(kafka, topics, *arguments))

    assert status == 1
    assert "300 given up" in out
    assert "ValueError: never" in err


@pytest.mark.parametrize("how", ["--in-process", "--runtime"])
async def test_a_kill_in_the_middle_of_a_batch_loses_nothing(how, kafka, topics, predictions, folder):
    gates = [folder / f"gate{i}" for i in range(3)]
    for gate in gates:
        os.mkfifo(gate)
    arguments = ("--handler", "handlers_of_test:slowly", how, "--batch-size", "40")
    killed = await start(kafka, topics, *arguments)
    for gate in gates[:2]:  # two batches pass, the third is under way
        await asyncio.to_thread(gate.write_text, "")
    gate = await asyncio.to_thread(open, gates[2], "w")
    killed.send_signal(signal.SIGKILL)
    gate.close()  # the process of the runtime client outlives its parent by this, and holds its pipes
    await finish(killed)
    assert 80 <= len(noted(folder)) < len(predictions)

    arguments = ("--handler", "handlers_of_test:note", how, "--once")
    status, _, err = await finish(await start(kafka, topics, *arguments))

    assert status == 0, err
    assert set(noted(folder)) == predictions


async def test_sigterm_ends_it_cleanly_behind_the_invocation_under_way(kafka, topics, predictions, folder):
    os.mkfifo(folder / "gate0")
    process = await start(kafka, topics, "--handler", "handlers_of_test:slowly", "--batch-size", "40", "--json")
    gate = await asyncio.to_thread(open, folder / "gate0", "w")
    process.send_signal(signal.SIGTERM)
    gate.close()

    status, out, err = await finish(process)
    assert status == 0, err
    assert json.loads(out)["settled"] == len(noted(folder))


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("none_such:handler", "no module none_such"),
        ("handlers_of_test:missing", "has no function missing"),
        ("handlers_of_test", "give MODULE:FUNCTION"),
    ],
)
def test_a_handler_that_is_not_there_is_one_line(handler, words, folder):
    result = CliRunner().invoke(main, ["lambda", "run", "--bootstrap", "127.0.0.1:1", "--handler", handler])

    assert result.exit_code in (1, 2)
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_linkcasts_own_handler_without_its_settings_is_one_line_and_no_invocation(monkeypatch):
    for name in ("TABLE", "BUS", "DEAD_TOPIC", "BOOTSTRAP", "SECURITY_PROTOCOL", "SASL_MECHANISM"):
        monkeypatch.setenv(f"LINKCAST_{name}", "")
    monkeypatch.setenv("LINKCAST_BUS", "alerts")

    result = CliRunner().invoke(main, ["lambda", "run", "--bootstrap", "127.0.0.1:1"])

    assert result.exit_code == 1
    # The cluster of its dead letters is the one that is read.
    assert "Error: not set: LINKCAST_TABLE, LINKCAST_DEAD_TOPIC. Set them" in result.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no AWS region: set AWS_DEFAULT_REGION"),
        ({"AWS_DEFAULT_REGION": "eu-central-1"}, "no AWS credentials here"),
    ],
)
def test_linkcasts_own_handler_without_a_login_to_aws_is_one_line_and_no_invocation(given, words, no_aws, monkeypatch):
    settings = {"LINKCAST_TABLE": "insights", "LINKCAST_BUS": "alerts", "LINKCAST_DEAD_TOPIC": "predictions.dead"}
    for name, value in (settings | given).items():
        monkeypatch.setenv(name, value)

    result = CliRunner().invoke(main, ["lambda", "run", "--bootstrap", "127.0.0.1:1"])

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert words in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch-size", "10001", "BatchSize 10001: AWS takes 1 to 10,000"),
        ("--record-age-s", "5", "MaximumRecordAgeInSeconds 5: AWS takes -1 or 60 to 604,800"),
        ("--filter", '{"key": ["a"]}', "the key 'value' alone"),
    ],
)
def test_a_setting_that_aws_would_refuse_is_refused(option, value, words, folder):
    arguments = ["lambda", "run", "--bootstrap", "127.0.0.1:1", "--handler", "handlers_of_test:note", option, value]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 2
    assert words in result.stderr


async def test_a_topic_that_is_missing_is_one_line(kafka, topics, folder):
    arguments = ("--handler", "handlers_of_test:note", "--topic", f"{topics}none")
    status, _, err = await finish(await start(kafka, topics, *arguments))

    assert (status, err.splitlines()[-1][:24]) == (1, "Error: no topic " + topics[:8])
