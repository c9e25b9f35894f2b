"""Who may do what: the whole of it is in `infra/cdk/iam.json`, and changes only on purpose."""

import doctest
import json

import pytest

from infra.cdk import iam
from infra.cdk.iam import SNAPSHOT, policies_of

POLICIES = json.loads(SNAPSHOT.read_bytes())


def statements_of(role):
    (found,) = [p["Policies/own"] for name, p in POLICIES.items() if name.split("/")[1].startswith(role)]
    return found


def granted(role):
    """Return pairs of action and resource that a role is allowed."""
    return {
        (action, resource)
        for statement in statements_of(role)
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


def as_list(value):
    return value if isinstance(value, list) else [value]


def test_its_examples_hold():
    assert doctest.testmod(iam) == (0, 2)  # failed, tried


def test_the_policies_are_those_that_were_looked_at(checked):
    assert not checked.report["policies_changed"], (
        "policies differ from infra/cdk/iam.json: look at the diff of `python -m infra.cdk.checks --write-iam`"
    )


def test_no_role_has_a_managed_policy_or_an_action_with_a_wildcard():
    for name, policy in POLICIES.items():
        assert "ManagedPolicyArns" not in policy or name.startswith("linkcast-data/AWS"), name
        for statement in policy.get("Policies/own", []):
            assert not any("*" in action for action in as_list(statement["Action"])), (name, statement)


def test_the_adapter_may_read_its_topic_by_iam_as_no_construct_lets_it():
    actions = {action for action, _ in granted("AdapterRole")}

    assert actions >= {
        "kafka:DescribeClusterV2",
        "kafka:GetBootstrapBrokers",
        "kafka-cluster:Connect",
        "kafka-cluster:DescribeGroup",
        "kafka-cluster:AlterGroup",
        "kafka-cluster:DescribeTopic",
        "kafka-cluster:ReadData",
        "kafka-cluster:DescribeClusterDynamicConfiguration",
    }


def test_the_adapter_writes_one_table_one_bus_and_one_topic():
    writes = {
        (action, resource.split("/")[-1].strip("${}"))
        for action, resource in granted("AdapterRole")
        if action in ("dynamodb:PutItem", "events:PutEvents", "kafka-cluster:WriteData", "s3:PutObject")
    }

    assert {action for action, _ in writes} == {
        "dynamodb:PutItem",
        "events:PutEvents",
        "kafka-cluster:WriteData",
        "s3:PutObject",
    }
    assert ("kafka-cluster:WriteData", "linkcast.predictions.dead") in writes
    assert len(writes) == 4
    assert not any("index" in resource for action, resource in granted("AdapterRole") if "dynamodb" in action)


def test_the_function_itself_may_not_touch_network_interfaces():
    (denied,) = [s for s in statements_of("AdapterRole") if s["Effect"] == "Deny"]

    assert "ec2:CreateNetworkInterface" in denied["Action"]
    assert "lambda:SourceFunctionArn" in denied["Condition"]["ArnEquals"]


def test_only_the_trainer_reads_the_signing_key():
    readers = {
        name.split("/")[1]
        for name, policy in POLICIES.items()
        for statement in policy.get("Policies/own", [])
        for resource in as_list(statement["Resource"])
        if "s3:GetObject" in as_list(statement["Action"]) and "/keys/" in str(resource)
    }

    assert len(readers) == 1
    assert readers.pop().startswith("TrainingRole")


@pytest.mark.parametrize(
    ("resource", "read"),
    [
        ({"Fn::GetAtt": ["Table", "Arn"]}, "${Table.Arn}"),
        ({"Fn::Join": ["", ["arn:", {"Ref": "AWS::Partition"}, ":s3"]]}, "arn:${AWS::Partition}:s3"),
        (
            {
                "Fn::Join": [
                    "",
                    [
                        {"Fn::Select": [0, {"Fn::Split": [":cluster/", {"Ref": "C"}]}]},
                        ":topic/",
                        {"Fn::Select": [1, {"Fn::Split": [":cluster/", {"Ref": "C"}]}]},
                        "/metrics",
                    ],
                ]
            },
            "${C}:topic/metrics",
        ),
    ],
)
def test_an_arn_reads_as_one(resource, read):
    statement = {"Effect": "Allow", "Action": "a:B", "Resource": resource}
    role = {"Properties": {"Policies": [{"PolicyName": "own", "PolicyDocument": {"Statement": [statement]}}]}}

    found = policies_of({"stack": {"Resources": {"Role": role}}})

    assert found["stack/Role"]["Policies/own"][0]["Resource"] == read
