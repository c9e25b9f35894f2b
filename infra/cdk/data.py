"""What outlives a deployment: the key, the buckets, the table of insights, the models' file system, the log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_msk as msk
from aws_cdk import aws_s3 as s3
from aws_cdk import custom_resources

from infra.cdk.deployment import Deployment
from infra.cdk.network import Network
from infra.cdk.policies import KafkaNames, allow, role
from lambda_adapter.insights import EXPIRES, TABLE

WRITES_A_SECOND_MAX = 1_000
"""Of the table, on demand: a loop of ours or a replay can't spend more than this, it is throttled and retried."""
CLUSTER = "linkcast"


def encryption_key(stack: cdk.Stack) -> kms.Key:
    """Make the one key of the deployment. Which AWS services may use it is said here, which roles may in `policies`."""
    key = kms.Key(
        stack,
        "Key",
        alias="linkcast",
        description="linkcast: table, buckets, files, logs, alerts",
        enable_key_rotation=True,
        removal_policy=cdk.RemovalPolicy.RETAIN,
    )
    _let_services(stack, key)
    return key


def _let_services(stack: cdk.Stack, key: kms.Key) -> None:
    account = {"StringEquals": {"aws:SourceAccount": stack.account}}
    # Alarms and budgets publish to the encrypted topic, rules deliver from the encrypted bus.
    for service in ("events", "cloudwatch", "budgets"):
        key.add_to_resource_policy(_use(f"{service}.amazonaws.com", account))
    of_ours = f"arn:aws:logs:{stack.region}:{stack.account}:log-group:*"
    logs = {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": of_ours}}
    again = ("kms:Encrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo")
    key.add_to_resource_policy(_use(f"logs.{stack.region}.amazonaws.com", logs, *again))


def _use(service: str, conditions: Mapping[str, Any], *more: str) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        principals=[iam.ServicePrincipal(service)],
        actions=["kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey", *more],
        resources=["*"],  # in a key's own policy this is the key
        conditions=conditions,
    )


@dataclass(frozen=True)
class Data:
    """What is kept, as other stacks use it."""

    key: kms.Key
    models: s3.Bucket  # bundles, the trainer's key, what the endpoint captured
    failures: s3.Bucket  # batches that the Lambda gave up
    table: dynamodb.TableV2
    files: efs.FileSystem
    bundles: efs.AccessPoint
    keys: efs.AccessPoint
    kafka: KafkaNames
    bootstrap: str


def data(stack: cdk.Stack, deployment: Deployment, net: Network, key: kms.Key) -> Data:
    """Make all of it. Nothing of it is deleted with the stack but the log, whose records live in topics for days."""
    access = _bucket(stack, "AccessLogs", None, expires_days=90)
    files = _files(stack, net, key)
    cluster = _cluster(stack, net)
    models = _bucket(stack, "Models", key, logs=access)
    _tell(stack, net, models)
    return Data(
        key=key,
        models=models,
        failures=_bucket(stack, "Failures", key, logs=access, expires_days=30),
        table=_table(stack, key),
        files=files,
        bundles=_access_point(files, "bundles"),
        keys=_access_point(files, "keys"),
        kafka=KafkaNames(cluster.attr_arn, deployment.prefix),
        bootstrap=_bootstrap(stack, cluster),
    )


def _tell(stack: cdk.Stack, net: Network, models: s3.Bucket) -> None:
    """Put out what docs/deploy.md asks for."""
    cdk.CfnOutput(stack, "ModelsBucket", value=models.bucket_name, description="bundles/, captured/ and keys/")
    cdk.CfnOutput(stack, "PrivateSubnet", value=net.subnets[0], description="of tasks that are run once")
    cdk.CfnOutput(stack, "WorkerGroup", value=net.worker.security_group_id, description="of the same tasks")


def _bucket(
    stack: cdk.Stack, name: str, key: kms.Key | None, *, logs: s3.Bucket | None = None, expires_days: int | None = None
) -> s3.Bucket:
    return s3.Bucket(
        stack,
        name,
        encryption=s3.BucketEncryption.KMS if key else s3.BucketEncryption.S3_MANAGED,  # S3 logs to no KMS bucket
        encryption_key=key,
        bucket_key_enabled=key is not None or None,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        enforce_ssl=True,
        minimum_tls_version=1.2,
        versioned=True,
        server_access_logs_bucket=logs,
        server_access_logs_prefix=f"{name.lower()}/" if logs else None,
        lifecycle_rules=[
            s3.LifecycleRule(
                abort_incomplete_multipart_upload_after=cdk.Duration.days(7),
                noncurrent_version_expiration=cdk.Duration.days(90),
                expiration=cdk.Duration.days(expires_days) if expires_days else None,
            )
        ],
        removal_policy=cdk.RemovalPolicy.RETAIN,
    )


def _table(stack: cdk.Stack, key: kms.Key) -> dynamodb.TableV2:
    """Make the table as `lambda_adapter.insights` declares it, so that code and table can't differ."""
    types = {a["AttributeName"]: dynamodb.AttributeType(a["AttributeType"]) for a in _attributes()}
    partition, sort = _keys(TABLE, types)
    return dynamodb.TableV2(
        stack,
        "Insights",
        partition_key=partition,
        sort_key=sort,
        global_secondary_indexes=[_index(index, types) for index in TABLE["GlobalSecondaryIndexes"]],
        billing=dynamodb.Billing.on_demand(max_write_request_units=WRITES_A_SECOND_MAX),
        time_to_live_attribute=EXPIRES,
        point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
            point_in_time_recovery_enabled=True
        ),
        encryption=dynamodb.TableEncryptionV2.customer_managed_key(key),
        deletion_protection=True,
        removal_policy=cdk.RemovalPolicy.RETAIN,
    )


def _attributes() -> list[dict[str, str]]:
    # The names of the enumeration are words where the API has letters.
    words = {"S": "STRING", "N": "NUMBER", "B": "BINARY"}
    return [a | {"AttributeType": words[a["AttributeType"]]} for a in TABLE["AttributeDefinitions"]]


def _keys(
    declared: Mapping[str, Any], types: dict[str, dynamodb.AttributeType]
) -> tuple[dynamodb.Attribute, dynamodb.Attribute]:
    partition, sort = (key["AttributeName"] for key in declared["KeySchema"])
    return dynamodb.Attribute(name=partition, type=types[partition]), dynamodb.Attribute(name=sort, type=types[sort])


def _index(
    declared: Mapping[str, Any], types: dict[str, dynamodb.AttributeType]
) -> dynamodb.GlobalSecondaryIndexPropsV2:
    partition, sort = _keys(declared, types)
    return dynamodb.GlobalSecondaryIndexPropsV2(
        index_name=declared["IndexName"],
        partition_key=partition,
        sort_key=sort,
        projection_type=getattr(dynamodb.ProjectionType, declared["Projection"]["ProjectionType"]),
        max_write_request_units=WRITES_A_SECOND_MAX,
    )


def _files(stack: cdk.Stack, net: Network, key: kms.Key) -> efs.FileSystem:
    """Make the file system that trainer and workers share: a manifest names its bundle by path."""
    return efs.FileSystem(
        stack,
        "FileSystem",
        vpc=net.vpc,
        security_group=net.files,
        encrypted=True,
        kms_key=key,
        allow_anonymous_access=False,
        enable_automatic_backups=True,
        throughput_mode=efs.ThroughputMode.ELASTIC,
        removal_policy=cdk.RemovalPolicy.RETAIN,
    )


def _access_point(files: efs.FileSystem, name: str) -> efs.AccessPoint:
    return files.add_access_point(
        name.title(),
        path=f"/{name}",
        create_acl=efs.Acl(owner_uid="1000", owner_gid="1000", permissions="0700"),
        posix_user=efs.PosixUser(uid="1000", gid="1000"),
    )


def _cluster(stack: cdk.Stack, net: Network) -> msk.CfnServerlessCluster:
    return msk.CfnServerlessCluster(
        stack,
        "Cluster",
        cluster_name=CLUSTER,
        client_authentication=msk.CfnServerlessCluster.ClientAuthenticationProperty(
            sasl=msk.CfnServerlessCluster.SaslProperty(iam=msk.CfnServerlessCluster.IamProperty(enabled=True))
        ),
        vpc_configs=[
            msk.CfnServerlessCluster.VpcConfigProperty(
                subnet_ids=net.subnets, security_groups=[net.broker.security_group_id]
            )
        ],
    )


def _bootstrap(stack: cdk.Stack, cluster: msk.CfnServerlessCluster) -> str:
    """Return the cluster's address. CloudFormation knows only its ARN, so a call at deploy time asks for it."""
    caller = role(
        stack,
        "BootstrapRole",
        service="lambda.amazonaws.com",
        statements=[
            allow("kafka:GetBootstrapBrokers", on=cluster.attr_arn),
            allow("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents", on=_provider_logs(stack)),
        ],
    )
    call = custom_resources.AwsSdkCall(
        service="kafka",
        action="getBootstrapBrokers",
        parameters={"ClusterArn": cluster.attr_arn},
        physical_resource_id=custom_resources.PhysicalResourceId.of(cluster.attr_arn),
        output_paths=["BootstrapBrokerStringSaslIam"],
    )
    asked = custom_resources.AwsCustomResource(
        stack,
        "Bootstrap",
        on_create=call,
        on_update=call,
        role=caller.without_policy_updates(),
        install_latest_aws_sdk=False,
        resource_type="Custom::KafkaBootstrap",
    )
    return str(asked.get_response_field("BootstrapBrokerStringSaslIam"))


def _provider_logs(stack: cdk.Stack) -> str:
    # CDK names that function itself; its name begins with the stack's.
    return f"arn:aws:logs:{stack.region}:{stack.account}:log-group:/aws/lambda/{stack.stack_name}-AWS*"
