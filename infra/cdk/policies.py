"""What each role may do, written by hand: the constructs' own grants are both too wide and, for MSK, not enough.

CDK's Kafka event source and AWSLambdaMSKExecutionRole give no `kafka-cluster:*` action at all, and the first gives
`kafka:DescribeCluster` where a serverless cluster needs `DescribeClusterV2`. Roles go to constructs as
`role.without_policy_updates()`, so that nothing is added behind this module's back; `iam.json` holds the sum.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_iam as iam

ANYWHERE = "*"
"""For actions that take no resource, as IAM's service authorization reference has it. Each use is acknowledged."""


def allow(*actions: str, on: str | Sequence[str], when: dict[str, dict[str, str]] | None = None) -> iam.PolicyStatement:
    """Return a statement that allows `actions` on ARNs, under conditions."""
    resources = [on] if isinstance(on, str) else list(on)
    return iam.PolicyStatement(actions=sorted(actions), resources=resources, conditions=when)


def role(stack: cdk.Stack, name: str, *, service: str, statements: Iterable[iam.PolicyStatement]) -> iam.Role:
    """Make a role that one AWS service may take, from this account alone."""
    from_here = {"StringEquals": {"aws:SourceAccount": stack.account}}
    # Lambda passes no source when it takes a function's role.
    trusted = iam.ServicePrincipal(service, conditions={} if service.startswith("lambda.") else from_here)
    return iam.Role(
        stack,
        name,
        assumed_by=trusted,
        inline_policies={"own": iam.PolicyDocument(statements=list(statements))},
    )


@dataclass(frozen=True)
class KafkaNames:
    """ARNs of what lives in one MSK cluster, from the cluster's own (`…:cluster/NAME/UUID`)."""

    cluster: str
    prefix: str

    def topic(self, name: str) -> str:
        """Return the ARN of a declared topic, named without its prefix."""
        return self._in_cluster("topic", f"{self.prefix}{name}")

    def group(self, name: str) -> str:
        """Return the ARN of a consumer group."""
        return self._in_cluster("group", name)

    def transactional_id(self, name: str) -> str:
        """Return the ARN of a transactional id, or of all that match."""
        return self._in_cluster("transactional-id", name)

    def _in_cluster(self, kind: str, name: str) -> str:
        before, after = (cdk.Fn.select(i, cdk.Fn.split(":cluster/", self.cluster)) for i in (0, 1))
        return str(cdk.Fn.join("", [before, f":{kind}/", after, "/", name]))


def kafka_connect(kafka: KafkaNames) -> iam.PolicyStatement:
    """Allow to open a connection: without it each other Kafka action fails."""
    return allow("kafka-cluster:Connect", "kafka-cluster:DescribeCluster", on=kafka.cluster)


def kafka_read(kafka: KafkaNames, *topics: str) -> iam.PolicyStatement:
    """Allow to read topics."""
    return allow("kafka-cluster:DescribeTopic", "kafka-cluster:ReadData", on=[kafka.topic(t) for t in topics])


def kafka_write(kafka: KafkaNames, *topics: str) -> iam.PolicyStatement:
    """Allow to write topics."""
    return allow("kafka-cluster:DescribeTopic", "kafka-cluster:WriteData", on=[kafka.topic(t) for t in topics])


def kafka_be_idempotent(kafka: KafkaNames) -> iam.PolicyStatement:
    """Allow a producer that sends nothing twice, besides what it may write."""
    return allow("kafka-cluster:WriteDataIdempotently", on=kafka.cluster)


def kafka_group(kafka: KafkaNames, group: str) -> iam.PolicyStatement:
    """Allow to be a member of a consumer group and to commit its offsets."""
    return allow("kafka-cluster:AlterGroup", "kafka-cluster:DescribeGroup", on=kafka.group(group))


def write_logs(group_arn: str) -> iam.PolicyStatement:
    """Allow to write into one log group (its ARN ends with `:*`: the streams in it)."""
    return allow("logs:CreateLogStream", "logs:PutLogEvents", on=group_arn)
