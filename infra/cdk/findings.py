"""What cdk-nag finds and we keep, each with its reason. A finding that is not here fails the synthesis."""

import aws_cdk as cdk
from constructs import IConstruct

from infra.cdk.deployment import Deployment

NO_RESOURCE = "ecr:GetAuthorizationToken takes no resource; the image itself is allowed by its repository's ARN"
INTERFACES = "network interfaces have no ARN before they are made, and X-Ray takes none"
OWN_STREAMS = "the log streams of one named log group: SageMaker names them by job and instance"
PLAIN = "addresses and names only: whoever reads the task definition learns no secret, as IAM is the only credential"
ONE_PREFIX = "one prefix of one bucket of ours: the objects in it are named as they come"
PROVIDER = "CDK's own function, run once a deployment by CloudFormation, which waits for its answer and shows its error"
LAST_RESORT = "it is itself the dead-letter queue of the rule; an alarm watches it and somebody reads it"

# As cdk-nag prints what a stack takes from another one.
OF_DATA = "linkcast-data:ExportsOutputFnGetAtt"
FAILURES, MODELS = f"{OF_DATA}Failures8A3E1A2FArnE85E26A7", f"{OF_DATA}ModelsC55D3500ArnC820EBA0"
AT_CLUSTER = '{"Fn::Split":[":cluster/",{"Fn::ImportValue":"' + OF_DATA + 'ClusterArn99ADC620"}]}'
TRANSACTIONS = (
    f'{{"Fn::Select":[0,{AT_CLUSTER}]}}:transactional-id/{{"Fn::Select":[1,{AT_CLUSTER}]}}/PREFIXPREFIXworker-*'
)
HERE = "REGION:<AWS::AccountId>"

ACKNOWLEDGED: dict[str, dict[str, str]] = {
    "linkcast-data/BootstrapRole": {
        f"AwsSolutions-IAM5[Resource::arn:aws:logs:{HERE}:log-group:/aws/lambda/linkcast-data-AWS*]": (
            "CDK names that function, and so its log group, by a hash behind the stack's name"
        ),
    },
    "linkcast-data/AWS679f53fac002430cb0da5b7982bd2287": {
        "Serverless-LambdaDefaultMemorySize": PROVIDER,
        "Serverless-LambdaDLQ": PROVIDER,
        "Serverless-LambdaTracing": PROVIDER,
    },
    "linkcast-worker/WorkerTaskRole": {
        f"AwsSolutions-IAM5[Resource::{TRANSACTIONS}]": (
            "one transactional id a partition, under the prefix of the workers' own group"
        ),
    },
    "linkcast-worker/WorkerExecutionRole": {"AwsSolutions-IAM5[Resource::*]": NO_RESOURCE},
    "linkcast-worker/TopicsExecutionRole": {"AwsSolutions-IAM5[Resource::*]": NO_RESOURCE},
    "linkcast-worker/TrainExecutionRole": {"AwsSolutions-IAM5[Resource::*]": NO_RESOURCE},
    "linkcast-worker/Worker": {"AwsSolutions-ECS2": PLAIN},
    "linkcast-worker/Topics": {"AwsSolutions-ECS2": PLAIN},
    "linkcast-worker/Train": {"AwsSolutions-ECS2": PLAIN},
    "linkcast-adapter/AdapterRole": {
        "AwsSolutions-IAM5[Resource::*]": INTERFACES + "; the function's own code is denied the interfaces",
        f"AwsSolutions-IAM5[Resource::{FAILURES}/aws/lambda/*]": ONE_PREFIX,
        "Serverless-LambdaStarPermissions": INTERFACES,
    },
    "linkcast-adapter/Adapter": {
        "AwsSolutions-L1": "Python 3.13: what the hashed lock was resolved for and its size measured with",
        "Serverless-LambdaLatestVersion": "as AwsSolutions-L1",
        "Serverless-LambdaDLQ": "Kafka invokes it synchronously: what it gives up goes to the mapping's S3 destination",
    },
    "linkcast-adapter/Undelivered": {
        "AwsSolutions-SQS3": LAST_RESORT,
        "Serverless-SQSRedrivePolicy": LAST_RESORT,
    },
    "linkcast-adapter/Email": {
        "Serverless-SNSRedrivePolicy": "SNS keeps no dead letters of e-mail: the alert is in the table and the archive",
    },
    "linkcast-model/TrainingRole": {
        "AwsSolutions-IAM5[Resource::*]": NO_RESOURCE + "; metrics take none, they are allowed by namespace",
        f"AwsSolutions-IAM5[Resource::{MODELS}/keys/*]": ONE_PREFIX,
        f"AwsSolutions-IAM5[Resource::{MODELS}/bundles/*]": ONE_PREFIX,
        f"AwsSolutions-IAM5[Resource::arn:aws:logs:{HERE}:log-group:/aws/sagemaker/TrainingJobs:*]": OWN_STREAMS,
    },
    "linkcast-model/ServingRole": {
        "AwsSolutions-IAM5[Resource::*]": NO_RESOURCE + "; metrics take none, they are allowed by namespace",
        f"AwsSolutions-IAM5[Resource::{MODELS}/bundles/*]": ONE_PREFIX,
        f"AwsSolutions-IAM5[Resource::{MODELS}/captured/*]": ONE_PREFIX,
        f"AwsSolutions-IAM5[Resource::arn:aws:logs:{HERE}:log-group:/aws/sagemaker/Endpoints/linkcast:*]": OWN_STREAMS,
    },
    "linkcast-model/ScheduleRole": {
        f"AwsSolutions-IAM5[Resource::arn:aws:sagemaker:{HERE}:training-job/linkcast-*]": (
            "each month's job has a name of its own"
        ),
    },
}
"""Path of a construct → rule → reason. REGION and PREFIX stand for the deployment's."""


def acknowledge(app: cdk.App, deployment: Deployment) -> None:
    """Tell cdk-nag what is meant, where it is meant and nowhere else."""
    for path, rules in ACKNOWLEDGED.items():
        if construct := _at(app, path):
            for rule, reason in rules.items():
                cdk.Validations.of(construct).acknowledge(cdk.Acknowledgment(id=_id(rule, deployment), reason=reason))


def _id(rule: str, deployment: Deployment) -> str:
    exact = rule.replace("REGION", deployment.region).replace("PREFIX", deployment.prefix)
    return f"{rule.partition('-')[0]}::{exact}"


def _at(app: cdk.App, path: str) -> IConstruct | None:
    """Return a construct, or None where this deployment has none, as without an endpoint or an address for alerts."""
    found: IConstruct | None = app
    for name in path.split("/"):
        found = found.node.try_find_child(name) if found else None
    return found
