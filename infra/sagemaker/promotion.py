"""A bundle from topic `models` to the endpoint: checked, archived, put behind it, watched until it serves or is back.

Every step asks first whether it is done. So a promotion may be stopped anywhere and run again, and goes on where it
was; for a bundle that serves already only its golden rows are asked again.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from infra.aws import is_missing
from infra.sagemaker import deployment
from infra.sagemaker.archive import archive, upload
from infra.sagemaker.deployment import EndpointSettings, Request
from infra.sagemaker.golden import Asked, ask_golden, publish
from infra.sagemaker.trust import as_pem
from online.models.bundle import Bundle, load_bundle
from streams.contract import LinkcastError

POLL_S = 30.0
_POLLS_MAX = int(2 * deployment.DEPLOYMENT_S_MAX / POLL_S)


class PromotionFailed(LinkcastError):
    """The bundle doesn't serve, and why."""


class Clients(NamedTuple):
    """boto3's clients of one account and region."""

    sagemaker: Any
    runtime: Any
    s3: Any
    cloudwatch: Any
    scaling: Any


class Promotion:
    """The promotion of one bundle, to one endpoint."""

    def __init__(
        self,
        clients: Clients,
        settings: EndpointSettings,
        *,
        say: Callable[[str], None],
        pause: Callable[[float], None],
    ) -> None:
        self._aws, self._settings, self._say, self._pause = clients, settings, say, pause

    def run(self, folder: Path, trusted_keys: list[Ed25519PublicKey]) -> str:
        """Let the bundle in `folder` serve, and return the name of its endpoint config.

        Raises `BundleRefused` before anything is sent, `PromotionFailed` where the endpoint is back at what it had.
        """
        bundle = load_bundle(folder, trusted_keys)
        self._say(f"{bundle.version}: signature, hashes and golden rows hold")
        packed = archive(folder)
        url = upload(
            self._aws.s3, packed, prefix=self._settings.bundles, version=bundle.version, kms_key=self._settings.kms_key
        )
        self._say(f"{url}: {len(packed):,} bytes")
        config = self._define(bundle.version, url, as_pem(trusted_keys))
        for alarm in deployment.alarm_requests(self._settings):
            self._aws.cloudwatch.put_metric_alarm(**alarm)
        self._deploy(config)
        self._await(config, bundle)
        self._scale()
        return config

    def _define(self, version: str, url: str, trusted_pem: str) -> str:
        model = deployment.model_request(self._settings, version=version, archive=url, trusted_pem=trusted_pem)
        sagemaker = self._aws.sagemaker
        self._make(sagemaker.describe_model, sagemaker.create_model, "ModelName", model)
        config = deployment.endpoint_config_request(self._settings, version=version, model_name=model["ModelName"])
        self._make(
            sagemaker.describe_endpoint_config, sagemaker.create_endpoint_config, "EndpointConfigName", config
        )  # fmt: skip
        return str(config["EndpointConfigName"])

    def _make(self, describe: Callable[..., Any], create: Callable[..., Any], name: str, request: Request) -> None:
        """Make what isn't there; a name has the hash of its request, so what is there is what was asked for."""
        is_there = _described(describe, **{name: request[name]}) is not None
        if not is_there:
            create(**request)
        self._say(f"{name.removesuffix('Name')} {request[name]}: {'there already' if is_there else 'made'}")

    def _deploy(self, config: str) -> None:
        """Ask for the change, unless it is made or under way."""
        there = _described(self._aws.sagemaker.describe_endpoint, EndpointName=self._settings.endpoint)
        if there is None:
            self._aws.sagemaker.create_endpoint(**deployment.create_request(self._settings, config_name=config))
        elif config not in _configs(there):
            self._check(there)
            self._aws.sagemaker.update_endpoint(**deployment.update_request(self._settings, config_name=config))

    def _check(self, there: Request) -> None:
        """Refuse an update that can't be guarded; SageMaker would make it unguarded, or refuse it minutes later."""
        endpoint = self._settings.endpoint
        if there["EndpointStatus"] == "Failed":
            raise PromotionFailed(f"endpoint {endpoint} is Failed, and AWS lets it be deleted only: do that first")
        if there["EndpointStatus"] != "InService":
            under_way = there.get("PendingDeploymentSummary", {}).get("EndpointConfigName", "of another kind")
            raise PromotionFailed(
                f"endpoint {endpoint} is {there['EndpointStatus']}, an update {under_way}: run this again after it"
            )
        instances = sum(variant.get("DesiredInstanceCount", 0) for variant in there["ProductionVariants"])
        if instances < 2:
            raise PromotionFailed(
                f"endpoint {endpoint} has {instances} instance: a canary needs 2, so scale it out first"
            )
        if other := {variant["VariantName"] for variant in there["ProductionVariants"]} - {deployment.VARIANT}:
            raise PromotionFailed(
                f"endpoint {endpoint} has variants {sorted(other)}: traffic shifts only to one of the same name, so "
                f"make an endpoint of another name"
            )
        if ringing := self._ringing():
            raise PromotionFailed(
                f"{', '.join(ringing)} in alarm already: any update would be rolled back. Mend it first"
            )

    def _ringing(self) -> list[str]:
        alarms = self._aws.cloudwatch.describe_alarms(AlarmNames=deployment.alarm_names(self._settings))["MetricAlarms"]
        return sorted(alarm["AlarmName"] for alarm in alarms if alarm["StateValue"] == "ALARM")

    def _await(self, config: str, bundle: Bundle) -> None:
        """Ask the golden rows while traffic shifts, until the endpoint serves `config` or is back at another."""
        for _ in range(_POLLS_MAX):
            there = self._aws.sagemaker.describe_endpoint(EndpointName=self._settings.endpoint)
            status = there["EndpointStatus"]
            if status == "InService":
                if there["EndpointConfigName"] != config:
                    raise self._rolled_back(there)
                self._conclude(bundle)
                return
            if status == "Updating":
                self._watch(bundle)
            if status not in ("Creating", "Updating", "SystemUpdating", "RollingBack"):
                why = there.get("FailureReason", "no reason was given")
                raise PromotionFailed(f"endpoint {self._settings.endpoint} is {status}: {why}")
            self._say(f"endpoint {self._settings.endpoint} is {status}")
            self._pause(POLL_S)
        raise PromotionFailed(
            f"endpoint {self._settings.endpoint} was not done after {_POLLS_MAX * POLL_S / 60:.0f} min: see it in the "
            f"console, and run this again to go on waiting"
        )

    def _conclude(self, bundle: Bundle) -> None:
        asked = self._watch(bundle)
        if asked.answered < asked.rows or asked.error > deployment.GOLDEN_ERROR_MAX:
            raise PromotionFailed(
                f"endpoint {self._settings.endpoint} is in service with {bundle.version}, which left "
                f"{asked.rows - asked.answered} of {asked.rows} golden rows unanswered and was {asked.error:.2g} "
                f"points off on the others: promote the version before again"
            )
        self._say(f"endpoint {self._settings.endpoint} serves {bundle.version}")

    def _watch(self, bundle: Bundle) -> Asked:
        asked = ask_golden(self._aws.runtime, self._settings.endpoint, bundle)
        publish(self._aws.cloudwatch, self._settings.endpoint, asked)
        self._say(
            f"  golden rows: {asked.answered} of {asked.rows} answered by {bundle.version}, {asked.failed} failed, "
            f"error {asked.error:.2g} points"
        )
        return asked

    def _rolled_back(self, there: Request) -> PromotionFailed:
        ringing = self._ringing()
        why = there.get("FailureReason") or (f"in alarm: {', '.join(ringing)}" if ringing else "no alarm rings now")
        return PromotionFailed(
            f"endpoint {self._settings.endpoint} was rolled back and serves {there['EndpointConfigName']} as before "
            f"({why}). Its alarms' history in CloudWatch says what rang; mend that and run this again"
        )

    def _scale(self) -> None:
        self._aws.scaling.register_scalable_target(**deployment.scalable_target_request(self._settings))
        self._aws.scaling.put_scaling_policy(**deployment.scaling_policy_request(self._settings))


def _described(describe: Callable[..., Any], **name: str) -> Request | None:
    try:
        described: Request = describe(**name)
    except ClientError as error:
        if is_missing(error):
            return None
        raise
    return described


def _configs(there: Request) -> set[str]:
    """Return the config that serves and, during an update, the one that is to serve."""
    pending = there.get("PendingDeploymentSummary", {}).get("EndpointConfigName")
    return {there["EndpointConfigName"], *([pending] if pending else [])}
