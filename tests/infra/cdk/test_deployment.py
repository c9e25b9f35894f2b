"""A deployment that can't work is refused before anything is made."""

import pytest

from infra.cdk.deployment import MSK_SERVERLESS_COMPACTED_MAX, Deployment, DeploymentRefused, deployment_of
from streams.topics import TOPICS


def test_a_command_line_gives_text_and_a_deployment_has_numbers():
    deployment = deployment_of({"partitions": "16", "workers": "4", "region": None, "model_data": ""})

    assert deployment == Deployment(partitions=16, workers=4)


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"partitions": "120"}, "choose 1 to 119"),  # 120 + 1 compacted partitions are one too many
        ({"partitions": "0"}, "choose 1 to 119"),
        ({"partitions": "many"}, "give a whole number"),
        ({"workers": "9"}, "choose 1 to 8, the number of partitions"),
        ({"alert_risk": "101"}, "choose 0 to 100"),
        ({"model_data": "/tmp/model.tar.gz", "trusted_pem": "-----BEGIN PUBLIC KEY-----"}, "give the s3:// address"),
        ({"model_data": "s3://models/bundles/m.tar.gz"}, "trusts no key"),
    ],
)
def test_what_no_account_would_take_is_refused_with_what_would_do(context, said):
    with pytest.raises(DeploymentRefused, match=said):
        deployment_of(context)


def test_as_many_partitions_as_msk_serverless_compacts_still_fit():
    compacted = [topic for topic in TOPICS if topic.config["cleanup.policy"] == "compact"]

    assert Deployment(partitions=119, workers=1).partitions == 119
    assert sum(topic.partitions(119) for topic in compacted) == MSK_SERVERLESS_COMPACTED_MAX


def test_a_profile_needs_the_model_in_each_region_that_it_may_choose():
    arns = Deployment(bedrock_model="us.maker.model-v1:0").bedrock_arns("123")

    assert arns == [
        "arn:aws:bedrock:us-east-1:123:inference-profile/us.maker.model-v1:0",
        "arn:aws:bedrock:us-east-1::foundation-model/maker.model-v1:0",
        "arn:aws:bedrock:us-east-2::foundation-model/maker.model-v1:0",
        "arn:aws:bedrock:us-west-2::foundation-model/maker.model-v1:0",
    ]


def test_a_model_of_one_region_needs_no_other_and_none_needs_nothing():
    assert Deployment(bedrock_model="maker.model-v1:0").bedrock_arns("123") == [
        "arn:aws:bedrock:us-east-1::foundation-model/maker.model-v1:0"
    ]
    assert Deployment().bedrock_arns("123") == []
