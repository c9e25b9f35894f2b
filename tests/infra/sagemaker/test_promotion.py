"""A promotion against moto's account, and against Stubber where moto knows no update of an endpoint."""

import base64
import hashlib
import io
import tarfile
from types import SimpleNamespace

import boto3
import msgspec
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID

from infra.aws import AwsRefused, in_words
from infra.sagemaker import deployment
from infra.sagemaker.archive import ArchiveRefused, archive, upload
from infra.sagemaker.deployment import EndpointSettings
from infra.sagemaker.golden import ask_golden, publish
from infra.sagemaker.promotion import Clients, Promotion, PromotionFailed
from infra.sagemaker.rows import answered
from infra.sagemaker.trust import as_pem
from online.models.bundle import BundleRefused, load_bundle

SETTINGS = EndpointSettings(
    endpoint="fabric",
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/linkcast:0.1.0",
    role="arn:aws:iam::123456789012:role/endpoint",
    bundles="s3://models/bundles",
    capture="s3://models/captured",
)


class Instances:
    """An endpoint's instances behind `invoke_endpoint`: each answers in turn, with the serving code itself."""

    def __init__(self, *bundles):
        self.bundles = list(bundles)
        self.asked = 0

    def invoke_endpoint(self, *, EndpointName, ContentType, Accept, Body):
        self.asked += 1
        bundle = self.bundles[self.asked % len(self.bundles)]
        if bundle is None:
            raise ClientError({"Error": {"Code": "ModelError", "Message": "500"}}, "InvokeEndpoint")
        return {"Body": io.BytesIO(answered(bundle, ContentType, Body))}


def wrong(bundle):
    """The same bundle, a calibration that is 0.3 off."""
    calibration = msgspec.structs.replace(bundle.manifest.calibration, risk_intercept=0.3)
    return bundle._replace(manifest=msgspec.structs.replace(bundle.manifest, calibration=calibration))


@pytest.fixture
def clients(aws, bundle):
    return Clients(
        sagemaker=boto3.client("sagemaker"),
        runtime=Instances(bundle),
        s3=boto3.client("s3"),
        cloudwatch=boto3.client("cloudwatch"),
        scaling=boto3.client("application-autoscaling"),
    )


@pytest.fixture
def promote(clients, folder, trusted):
    said = []

    def _promote(**changed):
        promotion = Promotion(clients._replace(**changed), SETTINGS, say=said.append, pause=said.append)
        return promotion.run(folder, trusted)

    _promote.said = said
    return _promote


def names_of(folder, trusted):
    url = f"s3://models/bundles/{folder.name}/model.tar.gz"
    model = deployment.model_request(SETTINGS, version=folder.name, archive=url, trusted_pem=as_pem(trusted))
    config = deployment.endpoint_config_request(SETTINGS, version=folder.name, model_name=model["ModelName"])
    return model, config


def everything(clients):
    """All that a promotion makes in an account."""
    sagemaker = clients.sagemaker
    return {
        "objects": [found["Key"] for found in clients.s3.list_objects_v2(Bucket="models").get("Contents", [])],
        "models": [found["ModelName"] for found in sagemaker.list_models()["Models"]],
        "configs": [found["EndpointConfigName"] for found in sagemaker.list_endpoint_configs()["EndpointConfigs"]],
        "endpoints": [
            sagemaker.describe_endpoint(EndpointName=found["EndpointName"])["EndpointConfigName"]
            for found in sagemaker.list_endpoints()["Endpoints"]
        ],
        "alarms": sorted(found["AlarmName"] for found in clients.cloudwatch.describe_alarms()["MetricAlarms"]),
        "targets": [
            (found["ResourceId"], found["MinCapacity"], found["MaxCapacity"])
            for found in clients.scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        ],
        "policies": [
            found["PolicyName"]
            for found in clients.scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"]
        ],
    }


def test_the_first_promotion_makes_all_there_is(promote, clients, folder, trusted):
    config = promote()

    model = names_of(folder, trusted)[0]["ModelName"]
    assert everything(clients) == {
        "objects": [f"bundles/{folder.name}/model.tar.gz"],
        "models": [model],
        "configs": [config],
        "endpoints": [config],
        "alarms": ["fabric-5xx", "fabric-golden-error", "fabric-latency"],
        "targets": [("endpoint/fabric/variant/linkcast", 2, 4)],
        "policies": ["fabric-invocations"],
    }
    assert promote.said[-1] == f"endpoint fabric serves {folder.name}"


def test_the_archive_in_s3_unpacks_to_the_bundle_and_has_its_sha256(promote, clients, folder, trusted, tmp_path):
    promote()

    there = clients.s3.get_object(
        Bucket="models", Key=f"bundles/{folder.name}/model.tar.gz", ChecksumMode="ENABLED"
    )  # fmt: skip
    content = there["Body"].read()
    assert there["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(content).digest()).decode()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert load_bundle(tmp_path / "unpacked", trusted).version == folder.name


def test_the_same_bundle_is_packed_to_the_same_bytes(folder):
    assert archive(folder) == archive(folder)


def test_promoting_again_makes_nothing_twice_and_asks_the_golden_rows_again(promote, clients):
    promote()
    before, asked = everything(clients), clients.runtime.asked
    changes = calls(clients.sagemaker)
    promote()

    assert everything(clients) == before
    assert [name for name in changes if not name.startswith(("Describe", "List"))] == []
    assert clients.runtime.asked == 2 * asked


def calls(client, fail_at=None):
    """Record the calls of a client from now on, and fail the n-th of them before it is sent."""
    seen = []

    def record(model, **_):
        seen.append(model.name)
        if fail_at is not None and len(seen) == fail_at:
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, model.name)

    client.meta.events.register("before-call.*", record)
    return seen


@pytest.mark.parametrize("service", ["sagemaker", "s3", "cloudwatch", "scaling"])
def test_a_promotion_that_breaks_at_any_call_goes_on_where_it_was(service, promote, clients):
    promote()
    whole = everything(clients)
    total = len(fresh_calls(service, promote, clients))

    for fail_at in range(1, total + 1):
        reset(clients)
        broken = boto3.client({"scaling": "application-autoscaling"}.get(service, service))
        seen = calls(broken, fail_at)
        with pytest.raises(ClientError, match="Rate exceeded"):
            promote(**{service: broken})
        assert len(seen) == fail_at  # the fault was there
        promote()

        assert everything(clients) == whole


def fresh_calls(service, promote, clients):
    reset(clients)
    counted = boto3.client({"scaling": "application-autoscaling"}.get(service, service))
    seen = calls(counted)
    promote(**{service: counted})
    return seen


def reset(clients):
    for service in ("sagemaker", "s3", "cloudwatch", "applicationautoscaling"):
        for of_region in get_backend(service)[DEFAULT_ACCOUNT_ID].values():
            of_region.reset()
    clients.s3.create_bucket(Bucket="models")


def test_a_bundle_of_a_stranger_sends_nothing(clients, folder, promote):
    promotion = Promotion(clients, SETTINGS, say=promote.said.append, pause=promote.said.append)

    with pytest.raises(BundleRefused, match="signed by none"):
        promotion.run(folder, [Ed25519PrivateKey.generate().public_key()])
    assert not any(everything(clients).values())


def test_what_lies_in_s3_already_is_taken_if_it_is_the_same_and_never_written_over(aws, folder):
    s3, packed = boto3.client("s3"), archive(folder)
    place = {"prefix": "s3://models/bundles", "version": folder.name, "kms_key": None}
    url = upload(s3, packed, **place)
    assert upload(s3, packed, **place) == url

    with pytest.raises(ArchiveRefused, match=r"has SHA-256 .* and not .*delete it or give another place"):
        upload(s3, packed + b"\0", **place)
    key = url.removeprefix("s3://models/")
    assert s3.get_object(Bucket="models", Key=key)["Body"].read() == packed


def test_a_bundle_that_answers_wrongly_in_service_is_a_failure(promote, bundle):
    with pytest.raises(PromotionFailed, match=r"left 0 of 40 golden rows unanswered and was \d+(\.\d+)? points off"):
        promote(runtime=Instances(wrong(bundle)))


def test_an_endpoint_in_service_that_another_bundle_answers_for_is_a_failure(promote, bundle):
    with pytest.raises(PromotionFailed, match="left 40 of 40 golden rows unanswered"):
        promote(runtime=Instances(bundle._replace(version="20260101-00000000")))


# ---- golden rows


def test_the_right_bundle_has_no_error_at_all_on_its_golden_rows(bundle):
    assert ask_golden(Instances(bundle), "fabric", bundle) == (40, 40, 0, 0.0)


def test_during_a_canary_only_the_new_bundles_answers_count(bundle):
    old = wrong(bundle)._replace(version="20260101-00000000")

    assert ask_golden(Instances(bundle, old), "fabric", bundle) == (40, 20, 0, 0.0)


def test_the_error_is_the_largest_difference_of_a_risk_or_probability_in_points(bundle):
    asked = ask_golden(Instances(wrong(bundle)), "fabric", bundle)

    # a logit 0.3 higher raises a probability by at most tanh(0.3 / 4)
    assert deployment.GOLDEN_ERROR_MAX < asked.error < 7.5


def test_an_instance_that_fails_is_counted_and_the_others_are_asked(bundle):
    assert ask_golden(Instances(bundle, None), "fabric", bundle) == (40, 20, 20, 0.0)


def test_the_error_is_what_the_alarm_watches_and_silence_is_no_error(aws, bundle):
    cloudwatch = boto3.client("cloudwatch")
    publish(cloudwatch, "fabric", ask_golden(Instances(None), "fabric", bundle))
    assert cloudwatch.list_metrics(Namespace="linkcast")["Metrics"] == []

    publish(cloudwatch, "fabric", ask_golden(Instances(bundle), "fabric", bundle))
    (metric,) = cloudwatch.list_metrics(Namespace="linkcast")["Metrics"]
    watched = deployment.alarm_requests(SETTINGS)[2]
    assert metric == {name: watched[name] for name in ("Namespace", "MetricName", "Dimensions")}


# ---- an update, which moto doesn't know


def described(config, status="InService", *, pending=None, instances=2, variant="linkcast", reason=None):
    response = {
        "EndpointName": "fabric",
        "EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/fabric",
        "EndpointConfigName": config,
        "EndpointStatus": status,
        "CreationTime": "2026-11-25T00:00:00Z",
        "LastModifiedTime": "2026-11-25T00:00:00Z",
        "ProductionVariants": [{"VariantName": variant, "DesiredInstanceCount": instances}],
    }
    if pending:
        response["PendingDeploymentSummary"] = {"EndpointConfigName": pending}
    return response | ({"FailureReason": reason} if reason else {})


@pytest.fixture
def updating(clients, folder, trusted):
    """Clients to whose endpoint things happen: states in turn, and whether an update is asked for after the first."""
    model, config = names_of(folder, trusted)
    name = {"EndpointName": "fabric"}

    def _updating(first, *then, updates=True):
        sagemaker = boto3.client("sagemaker")
        stubber = Stubber(sagemaker)
        arn = "arn:aws:sagemaker:us-east-1:123456789012:any/any"
        for kind, request, key in (("model", model, "ModelName"), ("endpoint_config", config, "EndpointConfigName")):
            stubber.add_client_error(
                f"describe_{kind}", "ValidationException", f"Could not find {kind}", expected_params={key: request[key]}
            )
            stubber.add_response(f"create_{kind}", {f"{key.removesuffix('Name')}Arn": arn}, request)
        stubber.add_response("describe_endpoint", first, name)
        if updates:
            update = deployment.update_request(SETTINGS, config_name=config["EndpointConfigName"])
            stubber.add_response("update_endpoint", {"EndpointArn": arn}, update)
        for state in then:
            stubber.add_response("describe_endpoint", state, name)
        stubber.activate()
        return SimpleNamespace(sagemaker=sagemaker, done=stubber.assert_no_pending_responses)

    _updating.config = config["EndpointConfigName"]
    return _updating


def test_an_update_is_asked_for_once_and_watched_until_the_bundle_serves(updating, promote, clients, bundle):
    old = bundle._replace(version="20260101-00000000")
    new = updating.config
    account = updating(
        described("old"), described("old", "Updating", pending=new), described("old", "Updating", pending=new),
        described(new),
    )  # fmt: skip

    class Shifting(Instances):
        def invoke_endpoint(self, **request):
            self.bundles = [bundle, old] if self.asked < 80 else [bundle]
            return super().invoke_endpoint(**request)

    assert promote(sagemaker=account.sagemaker, runtime=Shifting()) == new
    account.done()
    golden = [line.strip() for line in promote.said if "golden rows:" in str(line)]
    assert [line.split(" of ")[0] for line in golden] == ["golden rows: 20", "golden rows: 20", "golden rows: 40"]


def test_a_rollback_is_an_error_that_says_what_serves_and_what_rang(updating, promote, clients, folder, trusted):
    account = updating(
        described("old"), described("old", "Updating", pending=updating.config), described("old", "RollingBack"),
        described("old"),
    )  # fmt: skip

    def ring(_):
        clients.cloudwatch.set_alarm_state(AlarmName="fabric-golden-error", StateValue="ALARM", StateReason="a test")

    promotion_clients = clients._replace(sagemaker=account.sagemaker)
    promotion = Promotion(promotion_clients, SETTINGS, say=promote.said.append, pause=ring)
    with pytest.raises(
        PromotionFailed, match=r"rolled back and serves old as before \(in alarm: fabric-golden-error\).*run this again"
    ):
        promotion.run(folder, trusted)
    account.done()


def test_a_promotion_under_way_is_waited_for_and_not_asked_for_again(updating, promote):
    new = updating.config
    account = updating(
        described("old", "Updating", pending=new), described("old", "Updating", pending=new), described(new),
        updates=False,
    )  # fmt: skip

    assert promote(sagemaker=account.sagemaker) == new
    account.done()


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (described("old", "Updating", pending="other"), "is Updating, an update other: run this again after it"),
        (described("old", "SystemUpdating"), "is SystemUpdating"),
        (described("old", "Failed"), "is Failed, and AWS lets it be deleted only"),
        (described("old", instances=1), "has 1 instance: a canary needs 2"),
        (described("old", variant="AllTraffic"), r"has variants \['AllTraffic'\]"),
    ],
)
def test_an_update_that_no_canary_would_guard_is_not_asked_for(updating, promote, there, told):
    account = updating(there, updates=False)

    with pytest.raises(PromotionFailed, match=told):
        promote(sagemaker=account.sagemaker)
    account.done()


def test_an_alarm_that_rings_already_is_named_before_anything_changes(updating, promote, clients):
    for alarm in deployment.alarm_requests(SETTINGS):
        clients.cloudwatch.put_metric_alarm(**alarm)
    ring = {"StateValue": "ALARM", "StateReason": "a test"}
    clients.cloudwatch.set_alarm_state(AlarmName="fabric-5xx", **ring)
    # put_metric_alarm leaves an alarm's state as it is in AWS; moto begins anew
    clients.cloudwatch.meta.events.register(
        "after-call.cloudwatch.PutMetricAlarm",
        lambda **_: boto3.client("cloudwatch").set_alarm_state(AlarmName="fabric-5xx", **ring),
    )
    account = updating(described("old"), updates=False)

    with pytest.raises(PromotionFailed, match="fabric-5xx in alarm already"):
        promote(sagemaker=account.sagemaker)
    account.done()


@pytest.mark.parametrize("status", ["Failed", "UpdateRollbackFailed", "OutOfService", "Deleting"])
def test_an_endpoint_that_ends_badly_says_why(updating, promote, status):
    account = updating(described("old"), described("old", status, reason="the image has no entry point"))

    with pytest.raises(PromotionFailed, match=f"is {status}: the image has no entry point"):
        promote(sagemaker=account.sagemaker)
    account.done()


def test_waiting_has_an_end(updating, promote):
    for_ever = [described("old", "Updating", pending=updating.config)] * 240
    account = updating(described("old"), *for_ever)

    with pytest.raises(PromotionFailed, match=r"not done after 120 min.*run this again to go on waiting"):
        promote(sagemaker=account.sagemaker)
    account.done()


# ---- AWS' errors in words


def test_an_error_of_aws_names_the_call_and_its_code():
    with pytest.raises(AwsRefused, match="CreateModel: AccessDeniedException: no"), in_words():
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "CreateModel")


def test_expired_credentials_are_told_as_such():
    with pytest.raises(AwsRefused, match="PutObject: ExpiredToken: The provided token has expired"), in_words():
        raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "The provided token has expired"}}, "PutObject")
