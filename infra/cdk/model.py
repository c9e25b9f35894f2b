"""The SageMaker endpoint, its scaling and its guardrails, and the training job of each month."""

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_applicationautoscaling as scaling
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sagemaker as sagemaker
from aws_cdk import aws_scheduler as scheduler

from infra.cdk.adapter import ENDPOINT
from infra.cdk.data import Data
from infra.cdk.deployment import Deployment
from infra.cdk.network import Network
from infra.cdk.policies import ANYWHERE, allow, role, write_logs
from infra.cdk.worker import may_pull

VARIANT = "AllTraffic"
INSTANCE = "ml.m5.large"
INSTANCES_MIN, INSTANCES_MAX = 2, 5
"""Two at least: with one, a canary of one instance would be all of the traffic."""
CALLS_A_MINUTE = 6_000
"""Of one instance, at which another is started: a third of what one core answers (docs/benchmarks.md)."""
TRAINING_INSTANCE = "ml.m5.xlarge"
TRAINING_SECONDS_MAX = 2 * 60 * 60
CAPTURED_PERCENT = 10
EXECUTION_ID = "<aws.scheduler.execution-id>"  # EventBridge Scheduler puts its own in


@dataclass(frozen=True)
class Guardrails:
    """The alarms that roll a new model back while it is on its canary."""

    latency: cloudwatch.Alarm
    errors: cloudwatch.Alarm
    quality: cloudwatch.Alarm

    @property
    def names(self) -> list[str]:
        """Return the alarms' names."""
        return [alarm.alarm_name for alarm in (self.latency, self.errors, self.quality)]


def model(
    stack: cdk.Stack, deployment: Deployment, net: Network, data: Data, image: ecr_assets.DockerImageAsset
) -> Guardrails | None:
    """Make the schedule of training and, once there is a bundle to serve, the endpoint; return its guardrails."""
    _training(stack, net, data, image)
    if not deployment.model_data:
        return None
    guardrails = _guardrails(stack)
    _endpoint(stack, guardrails, _configuration(stack, deployment, net, data, image))
    _scaling(stack)
    return guardrails


def _configuration(
    stack: cdk.Stack, deployment: Deployment, net: Network, data: Data, image: ecr_assets.DockerImageAsset
) -> sagemaker.CfnEndpointConfig:
    served = sagemaker.CfnModel(
        stack,
        "Served",
        execution_role_arn=_serving_role(stack, deployment, data, image).role_arn,
        enable_network_isolation=True,  # the container has no network at all: SageMaker brings it its requests
        primary_container=sagemaker.CfnModel.ContainerDefinitionProperty(
            image=image.image_uri,
            model_data_url=deployment.model_data,
            environment={"LINKCAST_TRUSTED_PEM": deployment.trusted_pem},
        ),
        vpc_config=sagemaker.CfnModel.VpcConfigProperty(
            subnets=net.subnets, security_group_ids=[net.model.security_group_id]
        ),
    )
    kind = sagemaker.CfnEndpointConfig
    return kind(
        stack,
        "Configuration",
        kms_key_id=data.key.key_arn,
        production_variants=[
            kind.ProductionVariantProperty(
                variant_name=VARIANT,
                model_name=served.attr_model_name,
                instance_type=INSTANCE,
                initial_instance_count=INSTANCES_MIN,
                initial_variant_weight=1,
            )
        ],
        data_capture_config=kind.DataCaptureConfigProperty(
            enable_capture=True,
            initial_sampling_percentage=CAPTURED_PERCENT,
            destination_s3_uri=data.models.s3_url_for_object("captured/"),
            kms_key_id=data.key.key_arn,
            capture_options=[kind.CaptureOptionProperty(capture_mode=mode) for mode in ("Input", "Output")],
            capture_content_type_header=kind.CaptureContentTypeHeaderProperty(json_content_types=["application/json"]),
        ),
    )


def _serving_role(
    stack: cdk.Stack, deployment: Deployment, data: Data, image: ecr_assets.DockerImageAsset
) -> iam.Role:
    served = deployment.model_data.replace("s3://", "arn:aws:s3:::")
    return role(
        stack,
        "ServingRole",
        service="sagemaker.amazonaws.com",
        statements=[
            *may_pull(image),
            allow("s3:GetObject", on=served),
            allow("s3:PutObject", on=data.models.arn_for_objects("captured/*")),
            allow("kms:Decrypt", "kms:GenerateDataKey", on=data.key.key_arn),
            write_logs(_sagemaker_logs(stack, f"Endpoints/{ENDPOINT}")),
            allow("logs:CreateLogGroup", on=_sagemaker_logs(stack, f"Endpoints/{ENDPOINT}")),
            allow("cloudwatch:PutMetricData", on=ANYWHERE, when=_namespaces("/aws/sagemaker/Endpoints")),
            *_may_join(stack),
        ],
    )


def _endpoint(stack: cdk.Stack, guardrails: Guardrails, configuration: sagemaker.CfnEndpointConfig) -> None:
    kind = sagemaker.CfnEndpoint
    kind(
        stack,
        "Endpoint",
        endpoint_name=ENDPOINT,
        endpoint_config_name=configuration.attr_endpoint_config_name,
        deployment_config=kind.DeploymentConfigProperty(
            blue_green_update_policy=kind.BlueGreenUpdatePolicyProperty(
                traffic_routing_configuration=kind.TrafficRoutingConfigProperty(
                    type="CANARY",
                    canary_size=kind.CapacitySizeProperty(type="INSTANCE_COUNT", value=1),
                    wait_interval_in_seconds=1_200,  # four periods of the quality alarm
                ),
                termination_wait_in_seconds=600,
                maximum_execution_timeout_in_seconds=7_200,
            ),
            auto_rollback_configuration=kind.AutoRollbackConfigProperty(
                alarms=[kind.AlarmProperty(alarm_name=name) for name in guardrails.names]
            ),
        ),
    )


def _guardrails(stack: cdk.Stack) -> Guardrails:
    return Guardrails(
        latency=_alarm(stack, "EndpointLatency", "ModelLatency", "p95", 50_000, "the model answers too slowly, us"),
        errors=_alarm(stack, "EndpointErrors", "Invocation5XXErrors", "Sum", 0, "the endpoint fails"),
        quality=cloudwatch.Alarm(
            stack,
            "EndpointQuality",
            alarm_name="linkcast-EndpointQuality",
            alarm_description="the golden rows' scores, asked of the live endpoint, are not the trainer's",
            metric=cloudwatch.Metric(
                namespace="linkcast",
                metric_name="GoldenRowsDiffering",
                dimensions_map={"EndpointName": ENDPOINT},
                statistic="Maximum",
                period=cdk.Duration.minutes(5),
            ),
            threshold=0,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            evaluation_periods=1,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
        ),
    )


def _alarm(
    stack: cdk.Stack, name: str, metric: str, statistic: str, threshold: float, description: str
) -> cloudwatch.Alarm:
    return cloudwatch.Alarm(
        stack,
        name,
        alarm_name=f"linkcast-{name}",
        alarm_description=description,
        metric=cloudwatch.Metric(
            namespace="AWS/SageMaker",
            metric_name=metric,
            dimensions_map={"EndpointName": ENDPOINT, "VariantName": VARIANT},
            statistic=statistic,
            period=cdk.Duration.minutes(1),
        ),
        threshold=threshold,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=3,
        datapoints_to_alarm=2,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
    )


def _scaling(stack: cdk.Stack) -> None:
    target = scaling.CfnScalableTarget(
        stack,
        "Capacity",
        service_namespace="sagemaker",
        scalable_dimension="sagemaker:variant:DesiredInstanceCount",
        resource_id=f"endpoint/{ENDPOINT}/variant/{VARIANT}",
        min_capacity=INSTANCES_MIN,
        max_capacity=INSTANCES_MAX,
    )
    target.node.add_dependency(stack.node.find_child("Endpoint"))
    kind = scaling.CfnScalingPolicy
    kind(
        stack,
        "ByCalls",
        policy_name="linkcast-by-calls",
        policy_type="TargetTrackingScaling",
        scaling_target_id=target.ref,
        target_tracking_scaling_policy_configuration=kind.TargetTrackingScalingPolicyConfigurationProperty(
            target_value=CALLS_A_MINUTE,
            predefined_metric_specification=kind.PredefinedMetricSpecificationProperty(
                predefined_metric_type="SageMakerVariantInvocationsPerInstance"
            ),
            scale_in_cooldown=900,
            scale_out_cooldown=60,
        ),
    )


def _training(stack: cdk.Stack, net: Network, data: Data, image: ecr_assets.DockerImageAsset) -> None:
    trainer = _training_role(stack, data, image)
    starter = role(
        stack,
        "ScheduleRole",
        service="scheduler.amazonaws.com",
        statements=[
            allow(
                "sagemaker:CreateTrainingJob",
                on=f"arn:aws:sagemaker:{stack.region}:{stack.account}:training-job/linkcast-*",
            ),
            allow(
                "iam:PassRole",
                on=trainer.role_arn,
                when={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
            ),
        ],
    )
    job = _training_job(net, data, image, trainer)
    scheduler.CfnSchedule(
        stack,
        "Monthly",
        name="linkcast-train",
        description="A new bundle from the same code, on the first of each month",
        schedule_expression="cron(0 3 1 * ? *)",
        flexible_time_window=scheduler.CfnSchedule.FlexibleTimeWindowProperty(
            mode="FLEXIBLE", maximum_window_in_minutes=60
        ),
        target=scheduler.CfnSchedule.TargetProperty(
            arn="arn:aws:scheduler:::aws-sdk:sagemaker:createTrainingJob",
            role_arn=starter.role_arn,
            input=stack.to_json_string(job),
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_event_age_in_seconds=3_600, maximum_retry_attempts=3
            ),
        ),
        kms_key_arn=data.key.key_arn,
    )


def _training_job(
    net: Network, data: Data, image: ecr_assets.DockerImageAsset, trainer: iam.Role
) -> dict[str, object]:
    command = "linkcast train --no-publish --out /opt/ml/model --key /opt/ml/input/data/keys/signing.key"
    return {
        "TrainingJobName": f"linkcast-{EXECUTION_ID}",
        "RoleArn": trainer.role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": image.image_uri,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["sh", "-c", command],
        },
        "InputDataConfig": [
            {
                "ChannelName": "keys",
                "DataSource": {
                    "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": data.models.s3_url_for_object("keys/")}
                },
            }
        ],
        "OutputDataConfig": {
            "S3OutputPath": data.models.s3_url_for_object("bundles/"),
            "KmsKeyId": data.key.key_arn,
        },
        "ResourceConfig": {
            "InstanceType": TRAINING_INSTANCE,
            "InstanceCount": 1,
            "VolumeSizeInGB": 30,
            "VolumeKmsKeyId": data.key.key_arn,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": TRAINING_SECONDS_MAX},
        "EnableNetworkIsolation": True,
        "VpcConfig": {"Subnets": net.subnets, "SecurityGroupIds": [net.model.security_group_id]},
    }


def _training_role(stack: cdk.Stack, data: Data, image: ecr_assets.DockerImageAsset) -> iam.Role:
    return role(
        stack,
        "TrainingRole",
        service="sagemaker.amazonaws.com",
        statements=[
            *may_pull(image),
            allow("s3:ListBucket", on=data.models.bucket_arn, when={"StringLike": {"s3:prefix": "keys/*"}}),
            allow("s3:GetObject", on=data.models.arn_for_objects("keys/*")),
            allow("s3:PutObject", on=data.models.arn_for_objects("bundles/*")),
            allow("kms:Decrypt", "kms:GenerateDataKey", "kms:DescribeKey", on=data.key.key_arn),
            # Volumes of the instance: only through EC2 and only for AWS resources.
            allow("kms:CreateGrant", on=data.key.key_arn, when={"Bool": {"kms:GrantIsForAWSResource": "true"}}),
            write_logs(_sagemaker_logs(stack, "TrainingJobs")),
            allow("logs:CreateLogGroup", on=_sagemaker_logs(stack, "TrainingJobs")),
            allow("cloudwatch:PutMetricData", on=ANYWHERE, when=_namespaces("/aws/sagemaker/TrainingJobs")),
            *_may_join(stack),
        ],
    )


def _may_join(stack: cdk.Stack) -> list[iam.PolicyStatement]:
    return [
        allow(
            "ec2:CreateNetworkInterface",
            "ec2:CreateNetworkInterfacePermission",
            "ec2:DeleteNetworkInterface",
            "ec2:DeleteNetworkInterfacePermission",
            "ec2:DescribeDhcpOptions",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeSubnets",
            "ec2:DescribeVpcs",
            on=ANYWHERE,
        )
    ]


def _sagemaker_logs(stack: cdk.Stack, name: str) -> str:
    return f"arn:aws:logs:{stack.region}:{stack.account}:log-group:/aws/sagemaker/{name}:*"


def _namespaces(name: str) -> dict[str, dict[str, str]]:
    return {"StringLike": {"cloudwatch:namespace": f"{name}*"}}
