"""The Lambda behind the topic `predictions`, and where its alerts go."""

from dataclasses import dataclass
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from infra.cdk.data import Data
from infra.cdk.deployment import DEAD_TOPIC, Deployment
from infra.cdk.network import Network
from infra.cdk.package import HANDLER
from infra.cdk.policies import ANYWHERE, allow, kafka_group, kafka_read, kafka_write, role, write_logs
from infra.cdk.worker import kafka_login
from streams.topics import TOPICS

FUNCTION = "linkcast-adapter"
ENDPOINT = "linkcast"
TOPIC = "predictions"
BATCH_RECORDS_MAX = 100
WINDOW_S = 1
RETRIES_MAX = 10
RECORD_AGE_S_MAX = 6 * 60 * 60
TIMEOUT_S = 60
POLLERS_MIN, POLLERS_MAX = 1, 2
CONCURRENCY_MAX = 5 * POLLERS_MAX
"""Invocations at once: Lambda's guide gives a poller five. More could only be somebody else's."""
RETENTION_S = int(next(topic for topic in TOPICS if topic.name == TOPIC).config["retention.ms"]) // 1_000
INTERFACES = ("ec2:AssignPrivateIpAddresses", "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface",
              "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:UnassignPrivateIpAddresses")  # fmt: skip
"""What Lambda does with the function's role to put it, and the pollers, into the VPC."""


@dataclass(frozen=True)
class Adapter:
    """The function, its event source mapping, and the topic that people hear alerts and alarms from."""

    function: lambda_.Function
    mapping: lambda_.CfnEventSourceMapping
    group: str  # the mapping's consumer group
    bus: events.EventBus
    rule: events.Rule
    undelivered: sqs.Queue
    people: sns.Topic


def adapter(stack: cdk.Stack, deployment: Deployment, net: Network, data: Data, package: Path) -> Adapter:
    """Make the function from `package` (the folder that `python -m infra.cdk.package` filled), and all round it."""
    group = f"{deployment.prefix}adapter"
    people = _people(stack, deployment, data)
    bus = events.EventBus(stack, "Alerts", event_bus_name="linkcast", kms_key=data.key)
    undelivered = _undelivered(stack, data)
    rule = _rule(stack, data, bus, people, undelivered)
    function = _function(stack, deployment, net, data, bus, package, group)
    return Adapter(function, _mapping(stack, deployment, data, function, group), group, bus, rule, undelivered, people)


def _function(
    stack: cdk.Stack,
    deployment: Deployment,
    net: Network,
    data: Data,
    bus: events.EventBus,
    package: Path,
    group: str,
) -> lambda_.Function:
    log = logs.LogGroup(
        stack,
        "AdapterLog",
        log_group_name=f"/aws/lambda/{FUNCTION}",
        encryption_key=data.key,
        retention=logs.RetentionDays.ONE_MONTH,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    may = [
        write_logs(log.log_group_arn),
        *_may_run_in_vpc(stack),
        *_may_be_fed(stack, data, group),
        *_may_act(stack, deployment, data, bus),
    ]
    return lambda_.Function(
        stack,
        "Adapter",
        function_name=FUNCTION,
        description="Predictions to insights and alerts",
        runtime=lambda_.Runtime.PYTHON_3_13,
        architecture=lambda_.Architecture.ARM_64,
        handler=HANDLER,
        code=lambda_.Code.from_asset(str(package)),
        role=role(stack, "AdapterRole", service="lambda.amazonaws.com", statements=may).without_policy_updates(),
        environment=_environment(deployment, data, bus),
        environment_encryption=data.key,
        memory_size=512,
        timeout=cdk.Duration.seconds(TIMEOUT_S),
        reserved_concurrent_executions=CONCURRENCY_MAX,
        tracing=lambda_.Tracing.ACTIVE,
        log_group=log,
        logging_format=lambda_.LoggingFormat.JSON,
        vpc=net.vpc,
        vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
        security_groups=[net.adapter],
    )


def _environment(deployment: Deployment, data: Data, bus: events.EventBus) -> dict[str, str]:
    optional = {
        "LINKCAST_ENDPOINT": ENDPOINT if deployment.model_data else "",
        "LINKCAST_BEDROCK_MODEL": deployment.bedrock_model,
    }
    return {
        **kafka_login(data.bootstrap),
        "LINKCAST_TABLE": data.table.table_name,
        "LINKCAST_BUS": bus.event_bus_name,
        "LINKCAST_DEAD_TOPIC": f"{deployment.prefix}{DEAD_TOPIC}",
        "LINKCAST_ALERT_RISK": str(deployment.alert_risk),
        **{name: value for name, value in optional.items() if value},
    }


def _may_run_in_vpc(stack: cdk.Stack) -> list[iam.PolicyStatement]:
    own = f"arn:aws:lambda:{stack.region}:{stack.account}:function:{FUNCTION}"
    return [
        allow(*INTERFACES, on=ANYWHERE),
        # The service needs these of the role; the function's own code, which has the role too, does not.
        iam.PolicyStatement(
            effect=iam.Effect.DENY,
            actions=sorted(INTERFACES),
            resources=[ANYWHERE],
            conditions={"ArnEquals": {"lambda:SourceFunctionArn": own}},
        ),
        allow("xray:PutTelemetryRecords", "xray:PutTraceSegments", on=ANYWHERE),
    ]


def _may_be_fed(stack: cdk.Stack, data: Data, group: str) -> list[iam.PolicyStatement]:
    """Allow what Lambda's pollers do with the function's role: read the topic, and put aside what was given up."""
    own = {"StringEquals": {"aws:ResourceAccount": stack.account}}
    return [
        allow("kafka:DescribeClusterV2", "kafka:GetBootstrapBrokers", on=data.kafka.cluster),
        allow("ec2:DescribeSecurityGroups", "ec2:DescribeVpcs", on=ANYWHERE),
        allow(
            "kafka-cluster:Connect",
            "kafka-cluster:DescribeCluster",
            "kafka-cluster:DescribeClusterDynamicConfiguration",
            on=data.kafka.cluster,
        ),
        kafka_read(data.kafka, TOPIC),
        kafka_group(data.kafka, group),
        allow("s3:PutObject", on=data.failures.arn_for_objects("aws/lambda/*"), when=own),
        allow("s3:ListBucket", on=data.failures.bucket_arn, when=own),
    ]


def _may_act(stack: cdk.Stack, deployment: Deployment, data: Data, bus: events.EventBus) -> list[iam.PolicyStatement]:
    may = [
        # Not the indexes: the Lambda writes and reads by key alone.
        allow("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem", on=data.table.table_arn),
        allow("kms:Decrypt", "kms:GenerateDataKey", on=data.key.key_arn),
        allow("events:PutEvents", on=bus.event_bus_arn),
        kafka_write(data.kafka, DEAD_TOPIC),
    ]
    if deployment.bedrock_model:
        may.append(allow("bedrock:InvokeModel", on=deployment.bedrock_arns(stack.account)))
    if deployment.model_data:
        endpoint = f"arn:aws:sagemaker:{stack.region}:{stack.account}:endpoint/{ENDPOINT}"
        may.append(allow("sagemaker:InvokeEndpoint", on=endpoint))
    return may


def _mapping(
    stack: cdk.Stack, deployment: Deployment, data: Data, function: lambda_.Function, group: str
) -> lambda_.CfnEventSourceMapping:
    """Feed the function. Every limit is set: Kafka's defaults retry one bad batch for ever and stop its partition."""
    assert RECORD_AGE_S_MAX < RETENTION_S, "a record must be given up, and kept, before the topic forgets it"
    kind = lambda_.CfnEventSourceMapping
    return kind(
        stack,
        "Predictions",
        function_name=function.function_arn,
        event_source_arn=data.kafka.cluster,
        topics=[f"{deployment.prefix}{TOPIC}"],
        amazon_managed_kafka_event_source_config=kind.AmazonManagedKafkaEventSourceConfigProperty(
            consumer_group_id=group
        ),
        starting_position="TRIM_HORIZON",  # the group is new once: what came before the first deployment counts too
        batch_size=BATCH_RECORDS_MAX,
        maximum_batching_window_in_seconds=WINDOW_S,
        bisect_batch_on_function_error=True,
        maximum_retry_attempts=RETRIES_MAX,
        maximum_record_age_in_seconds=RECORD_AGE_S_MAX,
        function_response_types=["ReportBatchItemFailures"],
        # S3, as SQS and SNS get the offsets alone.
        destination_config=kind.DestinationConfigProperty(
            on_failure=kind.OnFailureProperty(destination=data.failures.bucket_arn)
        ),
        # Bisecting, retries and record age need provisioned mode, which also needs no endpoint of Lambda's in the VPC.
        provisioned_poller_config=kind.ProvisionedPollerConfigProperty(
            minimum_pollers=POLLERS_MIN, maximum_pollers=POLLERS_MAX
        ),
        logging_config=kind.LoggingConfigProperty(system_log_level="WARN"),
        metrics_config=kind.MetricsConfigProperty(metrics=["EventCount", "ErrorCount", "KafkaMetrics"]),
    )


def _people(stack: cdk.Stack, deployment: Deployment, data: Data) -> sns.Topic:
    topic = sns.Topic(stack, "People", topic_name="linkcast-alerts", master_key=data.key, enforce_ssl=True)
    publishers = {
        "cloudwatch": f"arn:aws:cloudwatch:{stack.region}:{stack.account}:alarm:*",
        "budgets": f"arn:aws:budgets::{stack.account}:*",
        "events": f"arn:aws:events:{stack.region}:{stack.account}:rule/*",
    }
    for service, source in publishers.items():
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[topic.topic_arn],
                conditions={
                    "StringEquals": {"aws:SourceAccount": stack.account},
                    "ArnLike": {"aws:SourceArn": source},
                },
            )
        )
    if deployment.alert_email:
        sns.Subscription(
            stack, "Email", topic=topic, protocol=sns.SubscriptionProtocol.EMAIL, endpoint=deployment.alert_email
        )
    return topic


def _undelivered(stack: cdk.Stack, data: Data) -> sqs.Queue:
    return sqs.Queue(
        stack,
        "Undelivered",
        encryption=sqs.QueueEncryption.KMS,
        encryption_master_key=data.key,
        enforce_ssl=True,
        retention_period=cdk.Duration.days(14),
    )


def _rule(stack: cdk.Stack, data: Data, bus: events.EventBus, people: sns.Topic, undelivered: sqs.Queue) -> events.Rule:
    # The archive lets alerts be replayed to a new receiver.
    events.Archive(
        stack,
        "Archive",
        source_event_bus=bus,
        event_pattern=events.EventPattern(source=["linkcast"]),
        retention=cdk.Duration.days(30),
        archive_name="linkcast",
        # By its ARN, or CDK would write the bus of this stack into the key's policy in the other one.
        kms_key=kms.Key.from_key_arn(stack, "KeyOfArchive", data.key.key_arn),
    )
    rule = events.Rule(stack, "AlertsToPeople", event_bus=bus, event_pattern=events.EventPattern(source=["linkcast"]))
    rule.add_target(
        targets.SnsTopic(
            people,
            message=events.RuleTargetInput.from_event_path("$.detail"),
            dead_letter_queue=undelivered,
            max_event_age=cdk.Duration.hours(6),
            retry_attempts=100,
        )
    )
    return rule
