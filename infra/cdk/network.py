"""A VPC without a way out: two zones, private subnets, and an endpoint for each AWS service that something in it calls.

A NAT gateway would be cheaper by two thirds (`costs`), and would let a compromised worker talk to anyone.
"""

from dataclasses import dataclass

import aws_cdk as cdk
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs

from infra.cdk.deployment import INTERFACE_ENDPOINTS, Deployment

KAFKA_PORT = 9098
"""MSK's port for IAM over TLS inside a VPC."""
NFS_PORT = 2049


@dataclass(frozen=True)
class Network:
    """The VPC, and one security group for each thing in it."""

    vpc: ec2.Vpc
    broker: ec2.SecurityGroup
    worker: ec2.SecurityGroup
    adapter: ec2.SecurityGroup
    files: ec2.SecurityGroup

    @property
    def subnets(self) -> list[str]:
        """Return the ids of the private subnets, one a zone."""
        return list(self.vpc.select_subnets(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED).subnet_ids)


def network(stack: cdk.Stack, deployment: Deployment, key: kms.IKey) -> Network:
    """Make the VPC, its endpoints and the security groups with every rule between them."""
    vpc = ec2.Vpc(
        stack,
        "Vpc",
        ip_addresses=ec2.IpAddresses.cidr("10.42.0.0/20"),
        max_azs=2,
        nat_gateways=0,
        restrict_default_security_group=False,  # would add a Lambda of CDK's own; nothing uses the default group
        subnet_configuration=[
            ec2.SubnetConfiguration(name="private", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=23)
        ],
    )
    _flow_log(stack, vpc, key)
    made = Network(vpc, *(_group(stack, vpc, name) for name in ("Broker", "Worker", "Adapter", "Files")))
    endpoints = _group(stack, vpc, "Endpoints")
    _rules(made, endpoints)
    _gateway_endpoints(stack, vpc, deployment)
    _interface_endpoints(stack, vpc, deployment, endpoints)
    return made


def _group(stack: cdk.Stack, vpc: ec2.Vpc, name: str) -> ec2.SecurityGroup:
    return ec2.SecurityGroup(stack, name, vpc=vpc, description=f"linkcast {name.lower()}", allow_all_outbound=False)


def _rules(net: Network, endpoints: ec2.SecurityGroup) -> None:
    # Lambda's pollers take the cluster's own group (Lambda guide, MSK network): it must reach itself.
    for client in (net.worker, net.adapter, net.broker):
        _let(client, net.broker, KAFKA_PORT, "Kafka by IAM over TLS")
    _let(net.worker, net.files, NFS_PORT, "the models' file system")
    for client in (net.worker, net.adapter):
        _let(client, endpoints, 443, "AWS services by their endpoints")
        # S3 and DynamoDB answer at public addresses through gateway endpoints; no route leads anywhere else.
        client.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(443), "gateway endpoints: there is no other route")


def _let(client: ec2.SecurityGroup, server: ec2.SecurityGroup, port: int, why: str) -> None:
    client.add_egress_rule(server, ec2.Port.tcp(port), why)
    server.add_ingress_rule(client, ec2.Port.tcp(port), why)


def _gateway_endpoints(stack: cdk.Stack, vpc: ec2.Vpc, deployment: Deployment) -> None:
    s3 = vpc.add_gateway_endpoint("S3", service=ec2.GatewayVpcEndpointAwsService.S3)
    s3.add_to_policy(_of_this_account(stack))
    # ECR hands out addresses in a bucket of AWS' own, signed by itself.
    layers = f"arn:aws:s3:::prod-{deployment.region}-starport-layer-bucket/*"
    s3.add_to_policy(iam.PolicyStatement(principals=[iam.AnyPrincipal()], actions=["s3:GetObject"], resources=[layers]))
    table = vpc.add_gateway_endpoint("DynamoDb", service=ec2.GatewayVpcEndpointAwsService.DYNAMODB)
    table.add_to_policy(_of_this_account(stack))


def _interface_endpoints(stack: cdk.Stack, vpc: ec2.Vpc, deployment: Deployment, group: ec2.SecurityGroup) -> None:
    for service in INTERFACE_ENDPOINTS:
        endpoint = ec2.InterfaceVpcEndpoint(
            stack,
            "Endpoint" + service.title().replace(".", "").replace("-", ""),
            vpc=vpc,
            service=ec2.InterfaceVpcEndpointService(f"com.amazonaws.{deployment.region}.{service}", 443),
            private_dns_enabled=True,
            security_groups=[group],
            open=False,
        )
        endpoint.add_to_policy(_of_this_account(stack))


def _of_this_account(stack: cdk.Stack) -> iam.PolicyStatement:
    """Allow what the caller's own role allows: credentials of another account can't carry data out through here."""
    return iam.PolicyStatement(
        principals=[iam.AnyPrincipal()],
        actions=["*"],
        resources=["*"],
        conditions={"StringEquals": {"aws:PrincipalAccount": stack.account}},
    )


def _flow_log(stack: cdk.Stack, vpc: ec2.Vpc, key: kms.IKey) -> None:
    group = logs.LogGroup(
        stack,
        "FlowLog",
        encryption_key=key,
        retention=logs.RetentionDays.ONE_MONTH,
        removal_policy=cdk.RemovalPolicy.DESTROY,
    )
    writer = iam.Role(
        stack,
        "FlowLogRole",
        assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"),
        inline_policies={
            "own": iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        actions=["logs:CreateLogStream", "logs:PutLogEvents", "logs:DescribeLogStreams"],
                        resources=[group.log_group_arn],
                    )
                ]
            )
        },
    )
    ec2.FlowLog(
        stack,
        "RejectedTraffic",
        resource_type=ec2.FlowLogResourceType.from_vpc(vpc),
        traffic_type=ec2.FlowLogTrafficType.REJECT,
        destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, writer.without_policy_updates()),
    )
