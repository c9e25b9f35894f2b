"""The requests that put a bundle behind an endpoint: pure functions from settings to boto3's arguments.

    model (image, archive, trusted keys)  ◄  endpoint config (instances, data capture)  ◄  endpoint  ◄  scaling, alarms

A model's and a config's name end with a hash of their request. So the same bundle with the same settings has the same
names, what is there already is what was wanted, and a promotion that broke off goes on where it was.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.sagemaker.trust import TRUSTED_PEM
from streams.contract import LinkcastError

VARIANT = "linkcast"
"""The same in each config: SageMaker shifts traffic only between variants of one name."""

BAKE_S, TERMINATION_WAIT_S, DEPLOYMENT_S_MAX = 600, 300, 3_600
LATENCY_US_MAX = 50_000
GOLDEN_ERROR_MAX = 0.01
"""Points of risk or probability (0 to 100): another processor's exp differs in its last bits, a wrong model by more."""

METRICS_NAMESPACE, GOLDEN_ERROR = "linkcast", "GoldenError"

Request = dict[str, Any]


class SettingsRefused(LinkcastError):
    """Settings that AWS would refuse, or under which a canary would guard nothing."""


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """What an endpoint is made of.

    Parameters
    ----------
    endpoint
        Its name, 1 to 36 letters, digits and single hyphens: models' and configs' names begin with it.
    image, role
        Image in ECR with `linkcast sagemaker` as its entry point, and the role that reads it and the bundles.
    bundles, capture
        `s3://bucket/prefix` where archives go, and where `capture_percent` of requests and answers go; None: nowhere.
    instances_min, instances_max
        At least 2, because the canary is one instance beside others.
    invocations_per_minute
        Of one instance, at which another one is added.

    Examples
    --------
    >>> EndpointSettings(endpoint="fabric", image="i", role="r", bundles="s3://b/models", instances_min=1)
    Traceback (most recent call last):
    infra.sagemaker.deployment.SettingsRefused: 1 to 4 instances: a canary needs another beside it, 2 or more
    """

    endpoint: str
    image: str
    role: str
    bundles: str
    capture: str | None = None
    capture_percent: int = 10
    kms_key: str | None = None
    instance_type: str = "ml.c6i.large"
    instances_min: int = 2
    instances_max: int = 4
    invocations_per_minute: float = 20_000.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-zA-Z0-9](-?[a-zA-Z0-9]){0,35}", self.endpoint) or len(self.endpoint) > 36:
            raise SettingsRefused(
                f"endpoint {self.endpoint!r}: give 1 to 36 letters and digits, with single hyphens between them"
            )
        if not 2 <= self.instances_min <= self.instances_max:
            raise SettingsRefused(
                f"{self.instances_min} to {self.instances_max} instances: a canary needs another beside it, 2 or more"
            )
        for url in (self.bundles, self.capture):
            if url is not None and not re.fullmatch(r"s3://[^/]+(/.*)?", url):
                raise SettingsRefused(f"{url}: give a place in S3, as s3://bucket/prefix")


def model_request(settings: EndpointSettings, *, version: str, archive: str, trusted_pem: str) -> Request:
    """Return the arguments of `create_model` for a bundle's archive in S3."""
    request = {
        "PrimaryContainer": {
            "Image": settings.image,
            "ModelDataUrl": archive,
            "Environment": {TRUSTED_PEM: trusted_pem},
        },
        "ExecutionRoleArn": settings.role,
        # The container needs no network: what it loads is there, and what it is sent goes nowhere else.
        "EnableNetworkIsolation": True,
        "Tags": [{"Key": "linkcast:model", "Value": version}],
    }
    return {"ModelName": _named(f"{settings.endpoint}-{version}", request), **request}


def endpoint_config_request(settings: EndpointSettings, *, version: str, model_name: str) -> Request:
    """Return the arguments of `create_endpoint_config`."""
    request: Request = {
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": model_name,
                "InstanceType": settings.instance_type,
                "InitialInstanceCount": settings.instances_min,
                "InitialVariantWeight": 1.0,
                # Loading takes seconds; the rest is for a slow pull of the image's layers.
                "ContainerStartupHealthCheckTimeoutInSeconds": 300,
                "ModelDataDownloadTimeoutInSeconds": 300,
            }
        ],
    }
    if settings.kms_key:
        request["KmsKeyId"] = settings.kms_key
    if settings.capture:
        request["DataCaptureConfig"] = _data_capture(settings)
    return {"EndpointConfigName": _named(f"{settings.endpoint}-{version}", request), **request}


def _data_capture(settings: EndpointSettings) -> Request:
    key = {"KmsKeyId": settings.kms_key} if settings.kms_key else {}
    return {
        "EnableCapture": True,
        "InitialSamplingPercentage": settings.capture_percent,
        "DestinationS3Uri": settings.capture,
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},  # else they are kept in base64
        **key,
    }


def _named(stem: str, request: Mapping[str, Any]) -> str:
    return f"{stem}-{hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]}"


def create_request(settings: EndpointSettings, *, config_name: str) -> Request:
    """Return the arguments of `create_endpoint`, for the first bundle of all."""
    return {"EndpointName": settings.endpoint, "EndpointConfigName": config_name}


def update_request(settings: EndpointSettings, *, config_name: str) -> Request:
    """Return the arguments of `update_endpoint`: one new instance takes its share, the others follow if all is well.

    During `BAKE_S` after the canary, and again after the rest, any of the alarms sends all traffic back.
    """
    return {
        "EndpointName": settings.endpoint,
        "EndpointConfigName": config_name,
        # Keep as many instances as traffic has scaled to: the config's number is that of a quiet hour.
        "RetainAllVariantProperties": True,
        "ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DataCaptureConfig"}],
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    # In instances, for 10 % of two would be none or half.
                    "CanarySize": {"Type": "INSTANCE_COUNT", "Value": 1},
                    "WaitIntervalInSeconds": BAKE_S,
                },
                "TerminationWaitInSeconds": TERMINATION_WAIT_S,
                "MaximumExecutionTimeoutInSeconds": DEPLOYMENT_S_MAX,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarm_names(settings)]},
        },
        # True would take the policy of the update before and not this one: after an all-at-once update by hand there
        # would be no canary and no alarm, without a word.
        "RetainDeploymentConfig": False,
    }


def alarm_names(settings: EndpointSettings) -> list[str]:
    """Return the alarms that roll an update back."""
    return [f"{settings.endpoint}-{what}" for what in ("latency", "5xx", "golden-error")]


def alarm_requests(settings: EndpointSettings) -> list[Request]:
    """Return the arguments of `put_metric_alarm` for each of them.

    Latency and 5xx don't see a model that answers quickly and wrongly; the error on the golden rows does.
    """
    latency, failures, golden = alarm_names(settings)
    of_variant = {
        "Namespace": "AWS/SageMaker",
        "Dimensions": [
            {"Name": "EndpointName", "Value": settings.endpoint},
            {"Name": "VariantName", "Value": VARIANT},
        ],
        "EvaluationPeriods": 3,
        "DatapointsToAlarm": 2,
    }
    of_all = {"Period": 60, "ComparisonOperator": "GreaterThanThreshold", "TreatMissingData": "notBreaching"}
    return [
        {"AlarmName": latency, "AlarmDescription": "p95 of the container's answers, µs", "MetricName": "ModelLatency",
         "ExtendedStatistic": "p95", "Threshold": float(LATENCY_US_MAX), **of_variant, **of_all},
        {"AlarmName": failures, "AlarmDescription": "Invocations that the container failed",
         "MetricName": "Invocation5XXErrors", "Statistic": "Sum", "Threshold": 0.0, **of_variant, **of_all},
        {"AlarmName": golden, "AlarmDescription": "Largest error of risk or probability on golden rows, points",
         "Namespace": METRICS_NAMESPACE, "MetricName": GOLDEN_ERROR, "Statistic": "Maximum",
         "Dimensions": golden_dimensions(settings.endpoint), "EvaluationPeriods": 1,
         "Threshold": GOLDEN_ERROR_MAX, **of_all},
    ]  # fmt: skip


def golden_dimensions(endpoint: str) -> list[Request]:
    """Return what the golden rows' error is published under."""
    return [{"Name": "EndpointName", "Value": endpoint}]


def scalable_target_request(settings: EndpointSettings) -> Request:
    """Return the arguments of Application Auto Scaling's `register_scalable_target`."""
    return {
        **_scaled(settings),
        "MinCapacity": settings.instances_min,
        "MaxCapacity": settings.instances_max,
    }


def scaling_policy_request(settings: EndpointSettings) -> Request:
    """Return the arguments of `put_scaling_policy`: hold the invocations a minute of an instance."""
    return {
        **_scaled(settings),
        "PolicyName": f"{settings.endpoint}-invocations",
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": {
            "TargetValue": settings.invocations_per_minute,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"},
            # Out fast and in slowly: an instance takes minutes to start.
            "ScaleOutCooldown": 60,
            "ScaleInCooldown": 600,
        },
    }


def _scaled(settings: EndpointSettings) -> Request:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{settings.endpoint}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
