"""The SageMaker endpoint with its guardrails and scaling, and the training job of each month.

Their settings are those of `infra.sagemaker`, whose commands send the same requests: what CDK makes, `linkcast
sagemaker promote` finds as it wants it.
"""

from typing import Any

import aws_cdk as cdk
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ecr_assets as ecr_assets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_scheduler as scheduler
from aws_cdk import aws_sns as sns

from infra.cdk.adapter import ENDPOINT
from infra.cdk.data import Data
from infra.cdk.deployment import Deployment
from infra.cdk.policies import ANYWHERE, allow, role, write_logs
from infra.cdk.worker import may_pull
from infra.sagemaker import deployment as endpoint
from infra.sagemaker.training import TrainingSettings, training_request

EXECUTION_ID = "<aws.scheduler.execution-id>"  # EventBridge Scheduler puts its own in
PLACES = {"bundles": "bundles", "captured": "captured", "keys": "keys"}
"""Prefixes in the bucket of models: a role reads or writes one of them, never another's."""


def model(
    stack: cdk.Stack, deployment: Deployment, data: Data, image: ecr_assets.DockerImageAsset, people: sns.Topic
) -> None:
    """Make the schedule of training and, once there is a bundle to serve, the endpoint."""
    serving = _serving_role(stack, data, image)
    cdk.CfnOutput(stack, "ServingRoleArn", value=serving.role_arn, description="--role of linkcast sagemaker promote")
    cdk.CfnOutput(stack, "ImageUri", value=image.image_uri, description="--image of linkcast sagemaker")
    _training(stack, data, image)
    if deployment.model_data:
        settings = endpoint.EndpointSettings(
            endpoint=ENDPOINT,
            image=image.image_uri,
            role=serving.role_arn,
            bundles=data.models.s3_url_for_object(PLACES["bundles"]),
            capture=data.models.s3_url_for_object(PLACES["captured"]),
            kms_key=data.key.key_arn,
        )
        _endpoint(stack, deployment, settings, people)


def _endpoint(stack: cdk.Stack, deployment: Deployment, settings: endpoint.EndpointSettings, people: sns.Topic) -> None:
    served = _made(
        stack,
        "Served",
        "Model",
        endpoint.model_request(
            settings, version="deployed", archive=deployment.model_data, trusted_pem=deployment.trusted_pem
        ),
    )
    name = served.get_att("ModelName").to_string()
    configuration = _made(
        stack,
        "Configuration",
        "EndpointConfig",
        endpoint.endpoint_config_request(settings, version="", model_name=name),
    )
    alarms = _guardrails(stack, settings, people)
    live = _made(
        stack,
        "Endpoint",
        "Endpoint",
        endpoint.update_request(settings, config_name=configuration.get_att("EndpointConfigName").to_string()),
    )
    for alarm in alarms:
        live.add_resource_dependency(alarm)
    target = cdk.CfnResource(
        stack,
        "Capacity",
        type="AWS::ApplicationAutoScaling::ScalableTarget",
        properties=endpoint.scalable_target_request(settings),
    )
    target.add_resource_dependency(live)
    cdk.CfnResource(
        stack,
        "ByCalls",
        type="AWS::ApplicationAutoScaling::ScalingPolicy",
        properties=endpoint.scaling_policy_request(settings),
    ).add_resource_dependency(target)


def _made(stack: cdk.Stack, name: str, kind: str, request: dict[str, Any]) -> cdk.CfnResource:
    """Make a resource from the arguments of the API's own call: CloudFormation has them under the same names."""
    # It replaces a model or a configuration by making another one first, so it has to name them itself.
    own_name = {"Model": "ModelName", "EndpointConfig": "EndpointConfigName"}.get(kind, "")
    tags = [*request.get("Tags", []), {"Key": "project", "Value": "linkcast"}]
    properties = {key: value for key, value in request.items() if key != own_name} | {"Tags": tags}
    return cdk.CfnResource(stack, name, type=f"AWS::SageMaker::{kind}", properties=properties)


def _guardrails(stack: cdk.Stack, settings: endpoint.EndpointSettings, people: sns.Topic) -> list[cdk.CfnResource]:
    """Make the alarms that roll an update back, and one over them that tells people.

    `promote` sets the three anew and would drop an action of theirs; the one above is CDK's alone.
    """
    alarms = [
        cdk.CfnResource(stack, f"Guardrail{i}", type="AWS::CloudWatch::Alarm", properties=request)
        for i, request in enumerate(endpoint.alarm_requests(settings))
    ]
    unwell = cloudwatch.CompositeAlarm(
        stack,
        "EndpointUnwell",
        composite_alarm_name="linkcast-EndpointUnwell",
        alarm_description="the endpoint is slow, fails or scores wrongly. What to do: docs/deploy.md#endpointunwell",
        alarm_rule=cloudwatch.AlarmRule.any_of(
            *(
                cloudwatch.AlarmRule.from_alarm(
                    cloudwatch.Alarm.from_alarm_name(stack, f"Named{i}", name), cloudwatch.AlarmState.ALARM
                )
                for i, name in enumerate(endpoint.alarm_names(settings))
            )
        ),
    )
    for alarm in alarms:
        unwell.node.add_dependency(alarm)
    unwell.add_alarm_action(actions.SnsAction(people))
    return alarms


def _serving_role(stack: cdk.Stack, data: Data, image: ecr_assets.DockerImageAsset) -> iam.Role:
    logs = _sagemaker_logs(stack, f"Endpoints/{ENDPOINT}")
    return role(
        stack,
        "ServingRole",
        service="sagemaker.amazonaws.com",
        statements=[
            *may_pull(image),
            allow("s3:GetObject", on=_objects(data, "bundles")),
            allow("s3:PutObject", on=_objects(data, "captured")),
            *_of_a_container(data, logs, "Endpoints"),
        ],
    )


def _of_a_container(data: Data, logs: str, namespace: str) -> list[iam.PolicyStatement]:
    """What SageMaker needs for any container: the key, encrypted volumes, its log and its metrics."""
    return [
        allow("kms:Decrypt", "kms:GenerateDataKey", on=data.key.key_arn),
        _for_volumes(data),
        write_logs(logs),
        allow("logs:CreateLogGroup", on=logs),
        allow("cloudwatch:PutMetricData", on=ANYWHERE, when=_namespaces(f"/aws/sagemaker/{namespace}")),
    ]


def _training_role(stack: cdk.Stack, data: Data, image: ecr_assets.DockerImageAsset) -> iam.Role:
    return role(
        stack,
        "TrainingRole",
        service="sagemaker.amazonaws.com",
        statements=[
            *may_pull(image),
            allow(
                "s3:ListBucket", on=data.models.bucket_arn, when={"StringLike": {"s3:prefix": f"{PLACES['keys']}/*"}}
            ),
            allow("s3:GetObject", on=_objects(data, "keys")),
            allow("s3:PutObject", on=_objects(data, "bundles")),
            *_of_a_container(data, _sagemaker_logs(stack, "TrainingJobs"), "TrainingJobs"),
        ],
    )


def _objects(data: Data, place: str) -> str:
    return str(data.models.arn_for_objects(f"{PLACES[place]}/*"))


def _for_volumes(data: Data) -> iam.PolicyStatement:
    """Allow SageMaker to lend the key to the instances' volumes, and to nothing that is not AWS' own."""
    for_aws = {"Bool": {"kms:GrantIsForAWSResource": "true"}}
    return allow("kms:CreateGrant", on=data.key.key_arn, when=for_aws)


def _training(stack: cdk.Stack, data: Data, image: ecr_assets.DockerImageAsset) -> None:
    trainer = _training_role(stack, data, image)
    settings = TrainingSettings(
        job=f"linkcast-{EXECUTION_ID}",
        image=image.image_uri,
        role=trainer.role_arn,
        signing_key=data.models.s3_url_for_object(f"{PLACES['keys']}/signing.key"),
        output=data.models.s3_url_for_object(PLACES["bundles"]),
        kms_key=data.key.key_arn,
    )
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
            allow("kms:Decrypt", on=data.key.key_arn),
        ],
    )
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
            input=stack.to_json_string(training_request(settings)),
            retry_policy=scheduler.CfnSchedule.RetryPolicyProperty(
                maximum_event_age_in_seconds=3_600, maximum_retry_attempts=3
            ),
        ),
        kms_key_arn=data.key.key_arn,
    )


def _sagemaker_logs(stack: cdk.Stack, name: str) -> str:
    return f"arn:aws:logs:{stack.region}:{stack.account}:log-group:/aws/sagemaker/{name}:*"


def _namespaces(name: str) -> dict[str, dict[str, str]]:
    return {"StringLike": {"cloudwatch:namespace": f"{name}*"}}
