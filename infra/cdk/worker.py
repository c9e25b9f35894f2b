"""The stream processor on Fargate, and two tasks that are run once: `topics apply` and `train`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_efs as efs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs

from infra.cdk.data import Data
from infra.cdk.deployment import Deployment
from infra.cdk.network import Network
from infra.cdk.policies import (
    ANYWHERE,
    KafkaNames,
    allow,
    kafka_be_idempotent,
    kafka_connect,
    kafka_group,
    kafka_read,
    kafka_write,
    role,
    write_logs,
)
from streams.topics import TOPICS

ROOT = Path(__file__).parents[2]
IN_IMAGE = (
    "streams",
    "online",
    "offline",
    "lambda_adapter",
    "infra",
    "requirements",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "NOTICE",
)
HEALTH_PORT = 9464
HEALTH = f"import urllib.request as u; u.urlopen('http://127.0.0.1:{HEALTH_PORT}/healthz', timeout=5)"
BUNDLES, KEYS, TRUSTED = "/bundles", "/keys", "/bundles/trusted"
# The public half goes where workers look for it; the key itself stays where only the trainer can read it.
TRAIN = (
    f"linkcast train --publish --out {BUNDLES} --key {KEYS}/signing.key"
    f" && mkdir -p {TRUSTED} && cp {KEYS}/*.pub {TRUSTED}/"
)


@dataclass(frozen=True)
class Worker:
    """The image of everything that runs `linkcast`, and the service of the workers."""

    image: ecr_assets.DockerImageAsset
    service: ecs.FargateService
    group: str  # the workers' consumer group


@dataclass(frozen=True)
class _Shared:
    """What every task here has in common."""

    stack: cdk.Stack
    data: Data
    image: ecr_assets.DockerImageAsset
    deployment: Deployment


def worker(stack: cdk.Stack, deployment: Deployment, net: Network, data: Data) -> Worker:
    """Make the cluster, the workers' service and the two tasks."""
    shared = _Shared(stack, data, linkcast_image(stack), deployment)
    cluster = ecs.Cluster(
        stack, "Tasks", cluster_name="linkcast", vpc=net.vpc, container_insights_v2=ecs.ContainerInsights.ENABLED
    )
    group = f"{deployment.prefix}worker"
    task = _task(
        shared,
        "Worker",
        ["linkcast", "worker", "--health-port", str(HEALTH_PORT), "--trusted-keys", TRUSTED],
        _worker_may(data.kafka, group),
        bundles="read",
        cpu=1_024,
        memory=4_096,
        is_checked=True,
    )
    _task(shared, "Topics", _topics_command(deployment), [_may_make_topics(data.kafka)], cpu=256, memory=512)
    _task(
        shared,
        "Train",
        ["sh", "-c", TRAIN],
        [kafka_write(data.kafka, "models"), kafka_be_idempotent(data.kafka)],
        bundles="write",
        keys=True,
        cpu=2_048,
        memory=8_192,
    )
    return Worker(shared.image, _service(stack, deployment, net, cluster, task), group)


def linkcast_image(stack: cdk.Stack) -> ecr_assets.DockerImageAsset:
    """Return the image of workers, trainer and endpoint. Its files are hashed here; docker builds it at deploy."""
    return ecr_assets.DockerImageAsset(
        stack,
        "Image",
        directory=str(ROOT),
        file="infra/cdk/Dockerfile",
        platform=ecr_assets.Platform.LINUX_AMD64,  # SageMaker's training instances
        ignore_mode=cdk.IgnoreMode.DOCKER,
        exclude=["*", *(f"!{name}" for name in IN_IMAGE), "**/__pycache__"],
    )


def _service(
    stack: cdk.Stack, deployment: Deployment, net: Network, cluster: ecs.Cluster, task: ecs.FargateTaskDefinition
) -> ecs.FargateService:
    service = ecs.FargateService(
        stack,
        "Workers",
        cluster=cluster,
        task_definition=task,
        desired_count=deployment.workers,
        security_groups=[net.worker],
        vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
        assign_public_ip=False,
        circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
        # A new member takes partitions over before an old one goes.
        min_healthy_percent=100,
        max_healthy_percent=200,
        propagate_tags=ecs.PropagatedTagSource.SERVICE,
    )
    # More members than partitions would idle.
    scaling = service.auto_scale_task_count(min_capacity=deployment.workers, max_capacity=deployment.partitions)
    scaling.scale_on_cpu_utilization("Cpu", target_utilization_percent=60, scale_in_cooldown=cdk.Duration.minutes(15))
    return service


def _task(
    shared: _Shared,
    name: str,
    command: Sequence[str],
    may: Iterable[iam.PolicyStatement],
    *,
    cpu: int,
    memory: int,
    bundles: str | None = None,
    keys: bool = False,
    is_checked: bool = False,
) -> ecs.FargateTaskDefinition:
    stack, data = shared.stack, shared.data
    group = logs.LogGroup(
        stack,
        f"{name}Log",
        encryption_key=data.key,
        retention=logs.RetentionDays.ONE_MONTH,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    mounts = [("bundles", data.bundles, BUNDLES, bundles)] if bundles else []
    mounts += [("keys", data.keys, KEYS, "write")] if keys else []
    may = [kafka_connect(data.kafka), *may, *(_may_mount(data, point, mode) for _, point, _, mode in mounts)]
    task = ecs.FargateTaskDefinition(
        stack,
        name,
        family=f"linkcast-{name.lower()}",
        cpu=cpu,
        memory_limit_mib=memory,
        task_role=role(
            stack, f"{name}TaskRole", service="ecs-tasks.amazonaws.com", statements=may
        ).without_policy_updates(),
        execution_role=_execution_role(stack, name, shared.image, group.log_group_arn).without_policy_updates(),
        volumes=[ecs.Volume(name="tmp"), *(_volume(data, volume, point) for volume, point, _, _ in mounts)],
    )
    container = _container(shared, task, command, group, is_checked)
    container.add_mount_points(
        ecs.MountPoint(container_path="/tmp", source_volume="tmp", read_only=False),  # noqa: S108  # the only writable
        *(
            ecs.MountPoint(container_path=path, source_volume=volume, read_only=mode == "read")
            for volume, _, path, mode in mounts
        ),
    )
    return task


def _container(
    shared: _Shared, task: ecs.FargateTaskDefinition, command: Sequence[str], group: logs.LogGroup, is_checked: bool
) -> ecs.ContainerDefinition:
    check = ecs.HealthCheck(
        command=["CMD", "python", "-c", HEALTH],
        interval=cdk.Duration.seconds(30),
        start_period=cdk.Duration.seconds(120),  # a takeover may read 25 h of metrics again
        retries=3,
    )
    return task.add_container(
        "linkcast",
        image=ecs.ContainerImage.from_docker_image_asset(shared.image),
        command=list(command),
        environment=_environment(shared.deployment, shared.data.bootstrap) | {"LINKCAST_HOME": "/tmp/linkcast"},  # noqa: S108
        readonly_root_filesystem=True,
        logging=ecs.LogDrivers.aws_logs(stream_prefix="linkcast", log_group=group),
        health_check=check if is_checked else None,
        stop_timeout=cdk.Duration.seconds(60),
    )


def kafka_login(bootstrap: str) -> dict[str, str]:
    """Return how a process inside the VPC speaks to the cluster."""
    return {
        "LINKCAST_BOOTSTRAP": bootstrap,
        "LINKCAST_SECURITY_PROTOCOL": "SASL_SSL",
        "LINKCAST_SASL_MECHANISM": "AWS_MSK_IAM",
    }


def _environment(deployment: Deployment, bootstrap: str) -> dict[str, str]:
    return kafka_login(bootstrap) | {"LINKCAST_AWS_REGION": deployment.region, "LINKCAST_PREFIX": deployment.prefix}


def _topics_command(deployment: Deployment) -> list[str]:
    return ["linkcast", "topics", "apply", "--msk-serverless", "--partitions", str(deployment.partitions)]


def _worker_may(kafka: KafkaNames, group: str) -> list[iam.PolicyStatement]:
    return [
        kafka_read(kafka, "metrics", "outcomes", "labels", "models", "state"),
        kafka_write(kafka, "predictions", "features", "metrics.dead", "state"),
        kafka_be_idempotent(kafka),
        kafka_group(kafka, group),
        # One producer a partition, fenced by its transactional id.
        allow(
            "kafka-cluster:AlterTransactionalId",
            "kafka-cluster:DescribeTransactionalId",
            on=kafka.transactional_id(f"{kafka.prefix}{group}-*"),
        ),
    ]


def _may_make_topics(kafka: KafkaNames) -> iam.PolicyStatement:
    return allow(
        "kafka-cluster:CreateTopic",
        "kafka-cluster:DescribeTopic",
        "kafka-cluster:DescribeTopicDynamicConfiguration",
        on=[kafka.topic(name) for name in sorted(topic.name for topic in TOPICS)],
    )


def _may_mount(data: Data, point: efs.AccessPoint, mode: str) -> iam.PolicyStatement:
    actions = ["elasticfilesystem:ClientMount"] + (["elasticfilesystem:ClientWrite"] if mode == "write" else [])
    through = {"StringEquals": {"elasticfilesystem:AccessPointArn": point.access_point_arn}}
    return allow(*actions, on=data.files.file_system_arn, when=through)


def _volume(data: Data, name: str, point: efs.AccessPoint) -> ecs.Volume:
    return ecs.Volume(
        name=name,
        efs_volume_configuration=ecs.EfsVolumeConfiguration(
            file_system_id=data.files.file_system_id,
            transit_encryption="ENABLED",
            authorization_config=ecs.AuthorizationConfig(access_point_id=point.access_point_id, iam="ENABLED"),
        ),
    )


def _execution_role(stack: cdk.Stack, name: str, image: ecr_assets.DockerImageAsset, log_group: str) -> iam.Role:
    return role(
        stack,
        f"{name}ExecutionRole",
        service="ecs-tasks.amazonaws.com",
        statements=[*may_pull(image), write_logs(log_group)],
    )


def may_pull(image: ecr_assets.DockerImageAsset) -> list[iam.PolicyStatement]:
    """Allow to fetch an image."""
    return [
        allow(
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:GetDownloadUrlForLayer",
            on=image.repository.repository_arn,
        ),
        allow("ecr:GetAuthorizationToken", on=ANYWHERE),
    ]
