"""What the templates must say, whatever else changes in them."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from infra.cdk.deployment import DEAD_TOPIC
from infra.cdk.package import HANDLER
from lambda_adapter import handler
from lambda_adapter.insights import EXPIRES, TABLE
from lambda_adapter.settings import Settings
from streams.topics import TOPICS

DEPLOY = (Path(__file__).parents[3] / "docs" / "deploy.md").read_text("utf-8")


def of_type(resources, kind):
    return [resource["Properties"] for resource in resources.values() if resource["Type"] == kind]


def only(resources, kind):
    (found,) = of_type(resources, kind)
    return found


def every(templates, kind):
    return [properties for resources in templates.values() for properties in of_type(resources, kind)]


def test_no_check_finds_what_is_not_explained(checked):
    assert checked.report["unexplained"] == []
    assert checked.report["cfn_lint"] == []


def test_no_acknowledgement_is_left_of_what_is_gone(checked):
    assert checked.report["not_needed"] == []


def test_each_limit_of_the_event_source_is_set(checked):
    mapping = only(checked.full["adapter"], "AWS::Lambda::EventSourceMapping")

    assert mapping["BatchSize"] == 100
    assert mapping["MaximumBatchingWindowInSeconds"] == 1
    assert mapping["BisectBatchOnFunctionError"] is True
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert 0 <= mapping["MaximumRetryAttempts"] <= 10  # infinite is -1 and the default
    assert mapping["ProvisionedPollerConfig"] == {"MinimumPollers": 1, "MaximumPollers": 2}
    assert "FilterCriteria" not in mapping  # what a filter drops is gone for good


def test_a_record_is_given_up_and_kept_before_the_topic_forgets_it(checked):
    mapping = only(checked.full["adapter"], "AWS::Lambda::EventSourceMapping")
    retention_ms = next(int(topic.config["retention.ms"]) for topic in TOPICS if topic.name == "predictions")
    destination = mapping["DestinationConfig"]["OnFailure"]["Destination"]

    assert 60 <= mapping["MaximumRecordAgeInSeconds"] < retention_ms / 1_000
    assert "Failures" in destination["Fn::ImportValue"]  # a bucket: SQS and SNS would get offsets alone


def test_the_function_has_a_bounded_time_and_number(checked):
    function = only(checked.full["adapter"], "AWS::Lambda::Function")

    assert function["Timeout"] <= 60
    assert function["ReservedConcurrentExecutions"] == 10
    assert (function["Runtime"], function["Architectures"]) == ("python3.13", ["arm64"])
    assert function["Handler"] == HANDLER
    assert function["KmsKeyArn"]


@pytest.mark.parametrize("deployment", ["full", "first"])
def test_the_function_starts_with_the_environment_that_it_is_given(checked, deployment):
    function = only(getattr(checked, deployment)["adapter"], "AWS::Lambda::Function")
    environment = {name: str(value) for name, value in function["Environment"]["Variables"].items()}

    settings = Settings.from_environment(environment)

    assert settings.dead_topic == f"linkcast.{DEAD_TOPIC}"
    assert (settings.security_protocol, settings.sasl_mechanism) == ("SASL_SSL", "AWS_MSK_IAM")
    assert settings.endpoint == ("linkcast" if deployment == "full" else None)
    assert (settings.bedrock_model is None) == (deployment == "first")
    assert DEAD_TOPIC in {topic.name for topic in TOPICS}


def test_the_function_is_given_no_variable_that_nobody_reads_and_every_one_that_has_no_fixed_value(checked):
    function = only(checked.full["adapter"], "AWS::Lambda::Function")
    known = set(re.findall(r"LINKCAST_\w+", inspect.getsource(Settings.from_environment)))

    assert known - function["Environment"]["Variables"].keys() == {"LINKCAST_INCIDENT_PORTS"}  # a leaf's, not a site's
    assert function["Environment"]["Variables"].keys() <= known


def test_the_table_is_the_one_that_the_code_declares(checked):
    table = only(checked.full["data"], "AWS::DynamoDB::GlobalTable")

    assert table["KeySchema"] == TABLE["KeySchema"]
    assert by_name(table["AttributeDefinitions"]) == by_name(TABLE["AttributeDefinitions"])
    assert [(i["IndexName"], i["KeySchema"], i["Projection"]) for i in table["GlobalSecondaryIndexes"]] == [
        (i["IndexName"], i["KeySchema"], i["Projection"]) for i in TABLE["GlobalSecondaryIndexes"]
    ]


def by_name(attributes):
    return sorted(attributes, key=lambda attribute: attribute["AttributeName"])


def test_insights_expire_and_can_be_recovered_and_are_not_deleted_by_accident(checked):
    table = only(checked.full["data"], "AWS::DynamoDB::GlobalTable")
    (replica,) = table["Replicas"]

    assert table["TimeToLiveSpecification"] == {"AttributeName": EXPIRES, "Enabled": True}
    assert replica["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert replica["DeletionProtectionEnabled"] is True
    assert replica["SSESpecification"]["KMSMasterKeyId"]
    assert table["WriteOnDemandThroughputSettings"]["MaxWriteRequestUnits"] == 1_000


def test_what_is_kept_outlives_its_stack(checked):
    kept = ("AWS::DynamoDB::GlobalTable", "AWS::S3::Bucket", "AWS::KMS::Key", "AWS::EFS::FileSystem")
    resources = [r for r in checked.full["data"].values() if r["Type"] in kept]

    assert len(resources) == 6
    assert {(r["DeletionPolicy"], r["UpdateReplacePolicy"]) for r in resources} == {("Retain", "Retain")}


def test_no_bucket_is_public_and_each_is_encrypted_versioned_and_by_tls_only(checked):
    buckets = every(checked.full, "AWS::S3::Bucket")
    policies = every(checked.full, "AWS::S3::BucketPolicy")

    assert len(buckets) == len(policies) == 3
    for bucket in buckets:
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        assert bucket["BucketEncryption"]
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    for policy in policies:
        assert "aws:SecureTransport" in json.dumps(policy)


def test_the_key_turns(checked):
    assert only(checked.full["data"], "AWS::KMS::Key")["EnableKeyRotation"] is True


def test_logs_topic_queue_bus_and_files_are_encrypted_with_the_key(checked):
    encrypted = {
        "AWS::Logs::LogGroup": "KmsKeyId",
        "AWS::SNS::Topic": "KmsMasterKeyId",
        "AWS::SQS::Queue": "KmsMasterKeyId",
        "AWS::Events::EventBus": "KmsKeyIdentifier",
        "AWS::EFS::FileSystem": "KmsKeyId",
    }
    for kind, property_ in encrypted.items():
        found = every(checked.full, kind)
        assert found
        assert all(property_ in properties for properties in found), kind


def test_nothing_can_reach_the_internet_or_be_reached_from_it(checked):
    kinds = {resource["Type"] for resources in checked.full.values() for resource in resources.values()}
    ingress = every(checked.full, "AWS::EC2::SecurityGroupIngress")

    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway", "AWS::EC2::EIP"}
    assert ingress
    assert all("SourceSecurityGroupId" in rule and "CidrIp" not in rule for rule in ingress)
    assert all("SecurityGroupIngress" not in group for group in every(checked.full, "AWS::EC2::SecurityGroup"))
    for service in every(checked.full, "AWS::ECS::Service"):
        assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"


def test_the_cluster_knows_no_login_but_iam(checked):
    cluster = only(checked.full["data"], "AWS::MSK::ServerlessCluster")

    assert cluster["ClientAuthentication"] == {"Sasl": {"Iam": {"Enabled": True}}}


def test_tasks_have_a_read_only_root_and_the_workers_are_asked_how_they_are(checked):
    tasks = {t["Family"]: t["ContainerDefinitions"][0] for t in every(checked.full, "AWS::ECS::TaskDefinition")}

    assert tasks.keys() == {"linkcast-worker", "linkcast-topics", "linkcast-train"}
    assert all(container["ReadonlyRootFilesystem"] for container in tasks.values())
    assert "/healthz" in " ".join(tasks["linkcast-worker"]["HealthCheck"]["Command"])
    assert tasks["linkcast-topics"]["Command"][:4] == ["linkcast", "topics", "apply", "--msk-serverless"]


def test_a_new_model_is_guarded_by_latency_failures_and_golden_rows(checked):
    resources = checked.full["model"]
    live = only(resources, "AWS::SageMaker::Endpoint")["DeploymentConfig"]
    names = [alarm["AlarmName"] for alarm in live["AutoRollbackConfiguration"]["Alarms"]]

    assert live["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]["Type"] == "CANARY"
    assert {a["AlarmName"]: a["MetricName"] for a in of_type(resources, "AWS::CloudWatch::Alarm")} == {
        "linkcast-latency": "ModelLatency",
        "linkcast-5xx": "Invocation5XXErrors",
        "linkcast-golden-error": "GoldenError",
    }
    assert set(names) == {a["AlarmName"] for a in of_type(resources, "AWS::CloudWatch::Alarm")}
    assert only(resources, "AWS::SageMaker::Model")["EnableNetworkIsolation"] is True
    assert only(resources, "AWS::ApplicationAutoScaling::ScalableTarget")["MinCapacity"] == 2


def test_a_model_is_trained_each_month_by_the_request_that_the_command_sends(checked):
    schedule = only(checked.full["model"], "AWS::Scheduler::Schedule")
    request = "".join(p if isinstance(p, str) else "…" for p in schedule["Target"]["Input"]["Fn::Join"][1])

    assert schedule["ScheduleExpression"] == "cron(0 3 1 * ? *)"
    assert '"ContainerEntrypoint":["linkcast","train"]' in request
    assert '"EnableNetworkIsolation":true' in request
    assert "<aws.scheduler.execution-id>" in request  # else the second month's job has the first one's name


def test_without_a_bundle_there_is_no_endpoint_and_nobody_may_call_one(checked):
    assert not of_type(checked.first["model"], "AWS::SageMaker::Endpoint")
    assert "InvokeEndpoint" not in json.dumps(checked.first)
    assert "bedrock:InvokeModel" not in json.dumps(checked.first)


def test_each_alarm_tells_somebody_and_has_its_section_in_the_runbook(checked):
    alarms = of_type(checked.full["watch"], "AWS::CloudWatch::Alarm") + of_type(
        checked.full["model"], "AWS::CloudWatch::CompositeAlarm"
    )
    sections = set(re.findall(r"^### (\w+)$", DEPLOY, re.MULTILINE))

    assert len(alarms) == 17
    assert all(alarm["AlarmActions"] for alarm in alarms)
    assert {alarm["AlarmName"].removeprefix("linkcast-") for alarm in alarms} == sections
    for alarm in alarms:
        assert f"docs/deploy.md#{alarm['AlarmName'].removeprefix('linkcast-').lower()}" in alarm["AlarmDescription"]


def test_alarms_and_dashboard_ask_for_metrics_that_the_handler_emits(checked):
    watch = checked.full["watch"]
    alarmed = {
        alarm["MetricName"]: alarm["Dimensions"]
        for alarm in of_type(watch, "AWS::CloudWatch::Alarm")
        if alarm.get("Namespace") == handler.metrics.provider.namespace
    }
    body = only(watch, "AWS::CloudWatch::Dashboard")["DashboardBody"]["Fn::Join"][1]
    shown = re.findall(
        r'\["linkcast","(\w+)","service","linkcast"', "".join(part for part in body if isinstance(part, str))
    )

    assert alarmed.keys() == {"DeadLetters", "PartitionsHeldUp", "BreakerOpened", "Fallback"}
    assert {"Insights", "Alerts"} <= set(shown)
    assert alarmed.keys() | set(shown) <= emitted()
    for dimensions in alarmed.values():
        assert dimensions == [{"Name": "service", "Value": handler.metrics.provider.service}]


def emitted():
    """Return the names that the handler's source counts under, those made of two parts left out."""
    calls = [node for node in ast.walk(ast.parse(inspect.getsource(handler))) if isinstance(node, ast.Call)]
    counted = [call.args[0] for call in calls if getattr(call.func, "id", "") == "_count"]
    added = [
        k.value for c in calls if getattr(c.func, "attr", "") == "add_metric" for k in c.keywords if k.arg == "name"
    ]
    named = [name for name in [*counted, *added] if isinstance(name, ast.Constant | ast.IfExp)]
    return {node.value for name in named for node in ast.walk(name) if isinstance(node, ast.Constant)}


def test_the_budget_tells_before_it_is_spent(checked):
    budget = only(checked.full["watch"], "AWS::Budgets::Budget")
    told = [n["Notification"]["NotificationType"] for n in budget["NotificationsWithSubscribers"]]

    assert budget["Budget"]["BudgetLimit"] == {"Amount": 2_000, "Unit": "USD"}
    assert told == ["ACTUAL", "ACTUAL", "FORECASTED"]
