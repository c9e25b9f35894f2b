"""The requests: held to AWS' own models of them, and to what makes an update a guarded one."""

from dataclasses import replace

import pytest

from infra.sagemaker import deployment
from infra.sagemaker.deployment import EndpointSettings, SettingsRefused
from tests.infra.sagemaker.conftest import assert_valid

SETTINGS = EndpointSettings(
    endpoint="fabric-12",
    image="123456789012.dkr.ecr.us-east-1.amazonaws.com/linkcast:0.1.0",
    role="arn:aws:iam::123456789012:role/endpoint",
    bundles="s3://models/bundles",
    capture="s3://captures/fabric-12",
    kms_key="arn:aws:kms:us-east-1:123456789012:key/1",
)
VERSION = "20261125-5a63e818"


def model(settings=SETTINGS, **changed):
    wanted = {"version": VERSION, "archive": "s3://models/bundles/a/model.tar.gz", "trusted_pem": "pem"}
    return deployment.model_request(settings, **(wanted | changed))


def config(settings=SETTINGS):
    return deployment.endpoint_config_request(settings, version=VERSION, model_name=model(settings)["ModelName"])


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, endpoint="e" * 36, capture=None, kms_key=None)])
def test_each_request_is_one_that_aws_takes(settings):
    name = config(settings)["EndpointConfigName"]
    assert_valid("sagemaker", "CreateModel", model(settings))
    assert_valid("sagemaker", "CreateEndpointConfig", config(settings))
    assert_valid("sagemaker", "CreateEndpoint", deployment.create_request(settings, config_name=name))
    assert_valid("sagemaker", "UpdateEndpoint", deployment.update_request(settings, config_name=name))
    scaling = "application-autoscaling"
    assert_valid(scaling, "RegisterScalableTarget", deployment.scalable_target_request(settings))
    assert_valid(scaling, "PutScalingPolicy", deployment.scaling_policy_request(settings))
    for alarm in deployment.alarm_requests(settings):
        assert_valid("cloudwatch", "PutMetricAlarm", alarm)


def test_an_update_is_a_canary_of_one_instance_that_any_alarm_takes_back():
    update = deployment.update_request(SETTINGS, config_name="c")
    policy = update["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    routing = policy["TrafficRoutingConfiguration"]

    assert (routing["Type"], routing["CanarySize"]) == ("CANARY", {"Type": "INSTANCE_COUNT", "Value": 1})
    assert update["RetainDeploymentConfig"] is False
    # baking after the canary and after the rest, and the wait before the old fleet ends, fit in the time allowed
    waits = 2 * routing["WaitIntervalInSeconds"] + policy["TerminationWaitInSeconds"]
    assert waits < policy["MaximumExecutionTimeoutInSeconds"]
    rolled_back_by = [alarm["AlarmName"] for alarm in update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]]
    assert rolled_back_by == [alarm["AlarmName"] for alarm in deployment.alarm_requests(SETTINGS)]


def test_the_alarms_watch_latency_failures_and_quality_of_this_endpoint():
    alarms = {alarm["MetricName"]: alarm for alarm in deployment.alarm_requests(SETTINGS)}

    assert alarms.keys() == {"ModelLatency", "Invocation5XXErrors", "GoldenError"}
    for alarm in alarms.values():
        assert {"Name": "EndpointName", "Value": "fabric-12"} in alarm["Dimensions"]
    assert alarms["ModelLatency"]["Threshold"] == 50_000  # µs: the goal of 50 ms


def test_an_update_keeps_the_instances_that_traffic_has_scaled_to_but_not_the_old_capture():
    update = deployment.update_request(SETTINGS, config_name="c")

    assert update["RetainAllVariantProperties"] is True
    assert update["ExcludeRetainedVariantProperties"] == [{"VariantPropertyType": "DataCaptureConfig"}]


def test_scaling_acts_on_the_variant_of_the_config():
    (variant,) = config()["ProductionVariants"]

    resource = f"endpoint/fabric-12/variant/{variant['VariantName']}"
    assert deployment.scalable_target_request(SETTINGS)["ResourceId"] == resource
    assert deployment.scaling_policy_request(SETTINGS)["ResourceId"] == resource
    assert variant["InitialInstanceCount"] >= 2


def test_requests_and_answers_are_captured_as_json_and_encrypted():
    capture = config()["DataCaptureConfig"]

    assert [option["CaptureMode"] for option in capture["CaptureOptions"]] == ["Input", "Output"]
    assert capture["CaptureContentTypeHeader"] == {"JsonContentTypes": ["application/json"]}
    assert capture["KmsKeyId"] == SETTINGS.kms_key
    assert "DataCaptureConfig" not in config(replace(SETTINGS, capture=None))


def test_the_same_wish_has_the_same_names_and_another_one_has_others():
    assert (model(), config()) == (model(), config())
    others = [
        model(archive="s3://models/other/model.tar.gz"),
        model(trusted_pem="another"),
        model(replace(SETTINGS, image="another")),
        model(version="20261126-00000000"),
    ]
    assert len({m["ModelName"] for m in [model(), *others]}) == 5
    for changed in ({"instance_type": "ml.c5.large"}, {"capture_percent": 20}, {"instances_min": 3}):
        assert config(replace(SETTINGS, **changed))["EndpointConfigName"] != config()["EndpointConfigName"]


def test_a_model_is_isolated_and_trusts_the_keys_it_was_promoted_with():
    assert model()["EnableNetworkIsolation"] is True
    assert model()["PrimaryContainer"]["Environment"]["LINKCAST_TRUSTED_PEM"] == "pem"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"instances_min": 1}, "a canary needs another"),
        ({"instances_min": 5}, "5 to 4 instances"),
        ({"endpoint": "a" * 37}, "1 to 36 letters"),
        ({"endpoint": "under_score"}, "1 to 36 letters"),
        ({"endpoint": "end-"}, "1 to 36 letters"),
        ({"endpoint": ""}, "1 to 36 letters"),
        ({"bundles": "/models"}, "/models: give a place in S3"),
        ({"capture": "https://captures"}, "give a place in S3"),
    ],
)
def test_settings_that_would_fail_minutes_later_fail_now(changed, told):
    with pytest.raises(SettingsRefused, match=told):
        replace(SETTINGS, **changed)
