"""A training job that runs `linkcast train` as it stands: its request, sending it, and waiting for its end.

The job's image is any with `linkcast` on its path; the command comes with the request, so the image's own entry point
may be another. The bundle is signed in the job, by a key that comes from S3 as an input channel, and leaves as
SageMaker's model.tar.gz, which an endpoint loads as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from infra.aws import is_missing
from infra.sagemaker.deployment import NUMBA_CACHE, Request
from streams.contract import LinkcastError

_CHANNEL = "signing"
_KEY = f"/opt/ml/input/data/{_CHANNEL}/signing.key"
_OUT = "/opt/ml/model"
_POLL_S = 30.0


class TrainingFailed(LinkcastError):
    """The job ended without a model."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training job is made of.

    Parameters
    ----------
    signing_key
        `s3://…/signing.key`: a private key's object, encrypted there, that only the job's role may read. A name other
        than signing.key is refused, for then `linkcast train` would make a key of its own that nobody trusts.
    output
        `s3://bucket/prefix` for the artefact.
    arguments
        What follows `linkcast train`, such as `--ports 200`.
    """

    job: str
    image: str
    role: str
    signing_key: str
    output: str
    kms_key: str | None = None
    instance_type: str = "ml.m5.xlarge"
    seconds_max: int = 3 * 3_600
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.signing_key.startswith("s3://") or not self.signing_key.endswith("/signing.key"):
            raise TrainingFailed(f"{self.signing_key}: give the key as s3://bucket/…/signing.key")


def training_request(settings: TrainingSettings) -> Request:
    """Return the arguments of `create_training_job`."""
    output = {"S3OutputPath": settings.output}
    resources = {"InstanceType": settings.instance_type, "InstanceCount": 1, "VolumeSizeInGB": 30}
    if settings.kms_key:
        output["KmsKeyId"] = settings.kms_key
        resources["VolumeKmsKeyId"] = settings.kms_key
    return {
        "TrainingJobName": settings.job,
        "RoleArn": settings.role,
        "AlgorithmSpecification": {
            "TrainingImage": settings.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["linkcast", "train"],
            # Last, so that no other argument sends the bundle or its signature elsewhere.
            "ContainerArguments": [*settings.arguments, "--out", _OUT, "--key", _KEY, "--no-publish", "--json"],
        },
        "InputDataConfig": [
            {
                "ChannelName": _CHANNEL,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": settings.signing_key,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": output,
        "ResourceConfig": resources,
        "StoppingCondition": {"MaxRuntimeInSeconds": settings.seconds_max},
        # Its history is simulated and its key is there: it has nobody to talk to.
        "EnableNetworkIsolation": True,
        "Environment": NUMBA_CACHE,
    }


def submit(sagemaker: Any, settings: TrainingSettings) -> bool:
    """Start the job, unless one of its name is there already; return whether it was started now."""
    try:
        sagemaker.describe_training_job(TrainingJobName=settings.job)
    except ClientError as error:
        if not is_missing(error):
            raise
        sagemaker.create_training_job(**training_request(settings))
        return True
    return False


def await_job(sagemaker: Any, job: str, *, say: Callable[[str], None], pause: Callable[[float], None]) -> str:
    """Return where the artefact is once the job has ended well; raises `TrainingFailed`.

    It ends by itself, at the latest after its `seconds_max`.
    """
    said = ""
    while True:
        described = sagemaker.describe_training_job(TrainingJobName=job)
        status = described["TrainingJobStatus"]
        if status == "Completed":
            return str(described["ModelArtifacts"]["S3ModelArtifacts"])
        if status in ("Failed", "Stopped"):
            why = described.get("FailureReason", "no reason was given")
            raise TrainingFailed(f"job {job}: {status}: {why}. Its log is in CloudWatch, /aws/sagemaker/TrainingJobs.")
        if (now := f"{status}: {described.get('SecondaryStatus', '')}") != said:
            say(now)
            said = now
        pause(_POLL_S)
