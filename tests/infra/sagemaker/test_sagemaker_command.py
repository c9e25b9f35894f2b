"""`linkcast sagemaker` at the shell, and what it reads from topic `models`."""

import asyncio
import json

import boto3
import pytest
from aiokafka import AIOKafkaProducer
from click.testing import CliRunner

from infra.command import main
from infra.sagemaker import promotion
from infra.sagemaker.published import NotPublished, published
from online.models.publish import publish
from tests.infra.sagemaker.test_promotion import Instances, everything

SUBMIT = (
    "sagemaker", "submit", "--job", "december", "--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/linkcast:1",
    "--role", "arn:aws:iam::123456789012:role/training", "--signing-key", "s3://keys/signing.key",
    "--output", "s3://models/jobs",
)  # fmt: skip
PROMOTE = (
    "sagemaker", "promote", "--endpoint", "fabric",
    "--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/linkcast:1",
    "--role", "arn:aws:iam::123456789012:role/endpoint", "--bundles", "s3://models/bundles",
)  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_submit_starts_a_job_and_prints_where_its_artefact_is(aws):
    result = run(*SUBMIT, "--json", "--", "--ports", "200")

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["job"], report["started"]) == ("december", True)
    assert report["artefact"].endswith("model.tar.gz")
    job = boto3.client("sagemaker").describe_training_job(TrainingJobName="december")
    assert job["TrainingJobStatus"] == "Completed"


def test_submitting_a_job_again_only_waits_for_it(aws):
    run(*SUBMIT)

    result = run(*SUBMIT)

    assert result.exit_code == 0
    assert "there already" in result.stderr


def test_without_credentials_it_is_one_line(no_aws, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    result = run(*SUBMIT)

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no AWS credentials here: run 'aws sso login'" in result.stderr


def test_without_a_region_it_is_one_line(aws, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    result = run(*SUBMIT)

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "no AWS region: set AWS_DEFAULT_REGION" in result.stderr


def test_a_port_that_is_taken_is_one_line(endpoint, tmp_path):
    result = run("sagemaker", "serve", "--model", tmp_path, "--host", "127.0.0.1", "--port", endpoint.server_port)

    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "Choose another with --port" in result.stderr


@pytest.mark.kafka
async def test_promote_puts_the_newest_bundle_of_the_topic_behind_the_endpoint(
    aws, kafka, topics, folder, write, tmp_path, monkeypatch, environment, bundle
):
    older = write(tmp_path / "bundles", created_at=1_700_000_000_000)
    for published_at, path in ((2, folder), (1, older)):
        await publish(kafka, prefix=topics, bundle=path, published_at=published_at)
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "trainer.pub").write_text(next(iter(environment.values())))
    instances, client = Instances(bundle), boto3.client
    monkeypatch.setattr(
        boto3, "client", lambda name, **given: instances if name == "sagemaker-runtime" else client(name, **given)
    )
    monkeypatch.setattr("time.sleep", pytest.fail)

    result = await asyncio.to_thread(
        run, *PROMOTE, "--json", "--bootstrap", kafka.bootstrap, "--prefix", topics, "--trusted-keys", keys
    )

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["model"], report["endpoint"]) == (folder.name, "fabric")
    clients = promotion.Clients(*map(client, ("sagemaker", "s3", "s3", "cloudwatch", "application-autoscaling")))
    assert everything(clients)["endpoints"] == [report["config"]]


@pytest.mark.kafka
async def test_a_version_may_be_named_and_one_that_is_not_there_is_told_with_those_that_are(
    kafka, topics, folder, write, tmp_path
):
    older = write(tmp_path / "bundles", created_at=1_700_000_000_000)
    for published_at, path in ((2, folder), (1, older)):
        await publish(kafka, prefix=topics, bundle=path, published_at=published_at)
    async with AIOKafkaProducer(**kafka.client_arguments()) as producer:
        await producer.send_and_wait(f"{topics}models", b"no manifest", key=b"junk")

    assert (await published(kafka, prefix=topics, version=None)).version == folder.name
    assert (await published(kafka, prefix=topics, version=older.name)).version == older.name
    with pytest.raises(NotPublished, match=f"no 20200101-0 .there: {older.name}, {folder.name}"):
        await published(kafka, prefix=topics, version="20200101-0")


@pytest.mark.kafka
async def test_a_topic_without_a_bundle_says_how_to_get_one(kafka, topics):
    with pytest.raises(NotPublished, match=r"has no bundle .there: none.: run 'linkcast train --publish'"):
        await published(kafka, prefix=topics, version=None)
    with pytest.raises(NotPublished, match=f"no topic {topics}other.models here: run 'linkcast topics apply'"):
        await published(kafka, prefix=f"{topics}other.", version=None)
