"""The training job: its request, that its command is one of linkcast's, and its ends."""

from dataclasses import replace

import boto3
import click
import pytest
from botocore.stub import Stubber

from infra.commands.train import command as train
from infra.sagemaker.training import TrainingFailed, TrainingSettings, await_job, submit, training_request
from tests.infra.sagemaker.conftest import assert_valid

SETTINGS = TrainingSettings(
    job="linkcast-2026-12",
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/linkcast:0.1.0",
    role="arn:aws:iam::123456789012:role/training",
    signing_key="s3://keys/linkcast/signing.key",
    output="s3://models/jobs",
    kms_key="arn:aws:kms:us-east-1:123456789012:key/1",
    arguments=("--ports", "200"),
)


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, kms_key=None, arguments=())])
def test_the_request_is_one_that_aws_takes(settings):
    assert_valid("sagemaker", "CreateTrainingJob", training_request(settings))


def test_the_job_runs_linkcast_train_as_it_stands_and_signs_with_the_channels_key():
    request = training_request(SETTINGS)
    algorithm = request["AlgorithmSpecification"]
    assert algorithm["ContainerEntrypoint"] == ["linkcast", "train"]

    context = train.make_context("train", list(algorithm["ContainerArguments"]))

    assert (context.params["ports"], context.params["publish"]) == (200, False)
    assert str(context.params["out"]) == "/opt/ml/model"
    (channel,) = request["InputDataConfig"]
    key = context.params["key"]
    assert key.parent.name == channel["ChannelName"]
    assert str(key) == f"/opt/ml/input/data/{channel['ChannelName']}/signing.key"
    assert channel["DataSource"]["S3DataSource"]["S3Uri"].endswith(f"/{key.name}")


def test_an_argument_that_train_does_not_have_would_fail_in_its_parser():
    arguments = training_request(replace(SETTINGS, arguments=("--trees", "5")))["AlgorithmSpecification"]

    with pytest.raises(click.NoSuchOption):
        train.make_context("train", list(arguments["ContainerArguments"]))


def test_no_argument_sends_the_bundle_or_its_signature_elsewhere():
    arguments = ("--out", "/elsewhere", "--key", "/tmp/made.key", "--publish")
    algorithm = training_request(replace(SETTINGS, arguments=arguments))["AlgorithmSpecification"]

    context = train.make_context("train", list(algorithm["ContainerArguments"]))

    assert str(context.params["out"]) == "/opt/ml/model"
    assert str(context.params["key"]).startswith("/opt/ml/input/data/")
    assert context.params["publish"] is False


@pytest.mark.parametrize("key", ["s3://keys/other.key", "keys/signing.key", "s3://keys/"])
def test_a_key_that_train_would_not_find_is_refused(key):
    with pytest.raises(TrainingFailed, match=r"signing\.key"):
        replace(SETTINGS, signing_key=key)


def test_a_job_is_started_once_and_its_artefact_told(aws):
    sagemaker = boto3.client("sagemaker")

    assert submit(sagemaker, SETTINGS) is True
    assert submit(sagemaker, SETTINGS) is False
    assert [job["TrainingJobName"] for job in sagemaker.list_training_jobs()["TrainingJobSummaries"]] == [SETTINGS.job]
    artefact = await_job(sagemaker, SETTINGS.job, say=pytest.fail, pause=pytest.fail)
    assert artefact.startswith("s3://models/jobs")
    assert artefact.endswith("model.tar.gz")


@pytest.fixture
def described(aws):
    """A client whose job goes through the given states."""

    def _described(*states):
        sagemaker = boto3.client("sagemaker")
        stubber = Stubber(sagemaker)
        for state in states:
            stubber.add_response("describe_training_job", REQUIRED | state, {"TrainingJobName": "j"})
        stubber.activate()
        return sagemaker

    return _described


REQUIRED = {
    "TrainingJobName": "j",
    "TrainingJobArn": "arn:aws:sagemaker:us-east-1:123456789012:training-job/j",
    "SecondaryStatus": "Starting",
    "StoppingCondition": {},
    "CreationTime": "2026-11-25T00:00:00Z",
    "ModelArtifacts": {"S3ModelArtifacts": "s3://models/jobs/j/output/model.tar.gz"},
    "AlgorithmSpecification": {"TrainingInputMode": "File"},
    "ResourceConfig": {"VolumeSizeInGB": 30},
}


def test_each_state_is_told_once_until_the_end(described):
    under_way = {"TrainingJobStatus": "InProgress"}
    sagemaker = described(
        under_way, under_way, under_way | {"SecondaryStatus": "Training"}, {"TrainingJobStatus": "Completed"}
    )
    said, paused = [], []

    assert await_job(sagemaker, "j", say=said.append, pause=paused.append) == "s3://models/jobs/j/output/model.tar.gz"
    assert said == ["InProgress: Starting", "InProgress: Training"]
    assert len(paused) == 3


@pytest.mark.parametrize("status", ["Failed", "Stopped"])
def test_a_job_that_fails_says_why_and_where_its_log_is(described, status):
    sagemaker = described({"TrainingJobStatus": status, "FailureReason": "AlgorithmError: exit code: 1"})

    with pytest.raises(TrainingFailed, match=f"{status}: AlgorithmError: exit code: 1.*CloudWatch"):
        await_job(sagemaker, "j", say=pytest.fail, pause=pytest.fail)
