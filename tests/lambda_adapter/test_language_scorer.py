from uuid import uuid4

import boto3
import pytest
from botocore.stub import ANY, Stubber

from lambda_adapter.bedrock import Bedrock, bedrock_client
from lambda_adapter.language_scorer import LanguageScorer
from lambda_adapter.llm_limits import Budget, Cache, breaker_of
from lambda_adapter.records import Unscored
from tests.lambda_adapter.bedrock_server import NOON, reply

pytestmark = pytest.mark.usefixtures("aws", "no_pause")

JUDGED = {"fault": "latency_spike", "risk": 71.5, "confidence": 0.6}


def unscored(node="leaf-012", port=17):
    features = {"latency_p99": 7.25, "error_rate": None, "ignore_all_rules": 3.0}
    return Unscored(stream_id=f"{node}/{port}", ts=0, src="0:0:0", features=features)


def scorer_of(table, client=None, *, per_minute=1_000):
    model = f"model-{uuid4().hex}"
    return LanguageScorer(
        Bedrock(
            client or bedrock_client(),
            model,
            breaker_of(boto3.client("dynamodb"), table.name, model),
            Budget(table, per_minute=per_minute, clock=lambda: NOON),
            Cache(table, clock=lambda: NOON),
        )
    )


def test_a_judgement_is_a_score_that_names_its_maker(table, bedrock):
    bedrock.answer = (200, reply(JUDGED, name="judge"), None)

    score = scorer_of(table).score(unscored())

    assert (score.class_, score.risk, score.confidence) == ("latency_spike", 71.5, 0.6)
    assert score.model.startswith("bedrock:model-")
    sent = bedrock.requests[0].decode()
    assert "p99 latency: 7.25" in sent
    assert "ignore" not in sent
    assert "leaf" not in sent


@pytest.mark.parametrize(
    "judged",
    [
        {**JUDGED, "fault": "hard_down"},
        {**JUDGED, "risk": 100.1},
        {**JUDGED, "risk": "high"},
        {**JUDGED, "confidence": -0.1},
        {**JUDGED, "alert": True},
        {"risk": 5.0},
    ],
)
def test_a_judgement_out_of_its_form_is_none(table, judged):
    client = bedrock_client()
    with Stubber(client) as stub:
        stub.add_response("converse", reply(judged, name="judge"), dict.fromkeys(("modelId", "messages"), ANY) | REST)

        assert scorer_of(table, client).score(unscored()) is None


REST = dict.fromkeys(("system", "inferenceConfig", "toolConfig"), ANY)


def test_while_the_endpoint_is_down_the_model_judges_as_many_events_as_the_budget_has(table, bedrock):
    bedrock.answer = (200, reply(JUDGED, name="judge"), None)
    scorer = scorer_of(table, per_minute=10)
    scores = [scorer.score(unscored(f"leaf-{event % 100:03}", event)) for event in range(200)]

    assert len(bedrock.requests) == 10
    assert sum(score is not None for score in scores) == 10


def test_a_model_that_is_down_leaves_every_event_to_the_rules(table, bedrock):
    bedrock.fails(503, "ServiceUnavailableException")
    scorer = scorer_of(table)

    assert [scorer.score(unscored(f"leaf-{node}")) for node in range(50)] == [None] * 50
    assert len(bedrock.requests) == 6
