"""What differs from one deployment to the next, from CDK's context: `-c partitions=16`. All of it has a default."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from streams.contract import LinkcastError
from streams.topics import PARTITIONS

MSK_SERVERLESS_COMPACTED_MAX = 120
"""Partitions of compacted topics that MSK Serverless takes: `state` has one for each of `metrics`, `models` has one."""
DEAD_TOPIC = "predictions.dead"
"""Where the Lambda puts a record that no retry mends, without the prefix."""
INTERFACE_ENDPOINTS = {
    "ecr.api": "Fargate asks for the image",
    "ecr.dkr": "Fargate fetches the image",
    "logs": "Fargate writes logs",
    "events": "the Lambda publishes alerts",
    "bedrock-runtime": "the Lambda words incidents",
    "sagemaker.runtime": "the Lambda asks the endpoint for a score",
    "xray": "the Lambda sends traces",
}
"""Service to who needs it. Each costs by the hour and zone, so none is here on suspicion."""
GEOGRAPHIES = {"us": ("us-east-1", "us-east-2", "us-west-2")}
"""Where a cross-region inference profile of Bedrock may run a request, by the prefix of its id."""


class DeploymentRefused(LinkcastError):
    """A value of the context that no deployment can have."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One deployment. Field names are the context's keys.

    Parameters
    ----------
    partitions
        Of `metrics` and its followers: for good, as another number moves a stream away from its history.
    workers
        Fargate tasks of the stream processor, at least; at most one for each partition.
    bedrock_model
        Model or inference profile that words opened incidents; empty: templates only, no call is allowed.
    model_data
        `s3://` address of the bundle that the SageMaker endpoint serves; empty: no endpoint yet.
    trusted_pem
        Public keys that the endpoint trusts, as text. Needed with `model_data`.
    bedrock_usd_day, budget_usd_month
        What the language model, and all of it, may cost before an alarm; nothing is switched off by either.
    alert_risk
        Risk (0 to 100) from which a change becomes an alert.
    """

    region: str = "us-east-1"
    prefix: str = "linkcast."
    partitions: int = PARTITIONS
    workers: int = 2
    alert_email: str = ""
    alert_risk: int = 80
    bedrock_model: str = ""
    model_data: str = ""
    trusted_pem: str = ""
    bedrock_usd_day: int = 5
    budget_usd_month: int = 2_000

    def __post_init__(self) -> None:
        compacted = self.partitions + 1
        if self.partitions < 1 or compacted > MSK_SERVERLESS_COMPACTED_MAX:
            raise DeploymentRefused(
                f"partitions={self.partitions} makes {compacted} compacted partitions and MSK Serverless takes "
                f"{MSK_SERVERLESS_COMPACTED_MAX}: choose 1 to {MSK_SERVERLESS_COMPACTED_MAX - 1}"
            )
        if not 1 <= self.workers <= self.partitions:
            raise DeploymentRefused(f"workers={self.workers}: choose 1 to {self.partitions}, the number of partitions")
        if not 0 <= self.alert_risk <= 100:
            raise DeploymentRefused(f"alert_risk={self.alert_risk}: choose 0 to 100")
        if self.model_data and not self.model_data.startswith("s3://"):
            raise DeploymentRefused(f"model_data={self.model_data}: give the s3:// address of a model.tar.gz")
        if self.model_data and "BEGIN PUBLIC KEY" not in self.trusted_pem:
            raise DeploymentRefused("model_data without trusted_pem: an endpoint that trusts no key serves no bundle")

    def bedrock_arns(self, account: str) -> list[str]:
        """Return what `bedrock:InvokeModel` needs for the model: its ARN, or those of a profile and all behind it."""
        geography, _, model = self.bedrock_model.partition(".")
        if geography not in GEOGRAPHIES:
            return [_model_arn(self.region, self.bedrock_model)] if self.bedrock_model else []
        profile = f"arn:aws:bedrock:{self.region}:{account}:inference-profile/{self.bedrock_model}"
        return [profile, *(_model_arn(region, model) for region in GEOGRAPHIES[geography])]


def deployment_of(context: Mapping[str, Any]) -> Deployment:
    """Return the deployment that `context` (key to value, strings from a command line) asks for."""
    values: dict[str, Any] = {}
    for field in fields(Deployment):
        if (value := context.get(field.name)) is None:
            continue
        kind = int if field.type is int else str
        try:
            values[field.name] = kind(value)
        except ValueError:
            raise DeploymentRefused(f"{field.name}={value}: give a whole number") from None
    return Deployment(**values)


def _model_arn(region: str, model: str) -> str:
    return f"arn:aws:bedrock:{region}::foundation-model/{model}"
