"""The order of scoring, its fallbacks, and how often a broken endpoint is asked."""

import io
import json
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st

from lambda_adapter import handler
from lambda_adapter.records import Score, Unscored
from lambda_adapter.rules import load_rules, operands_of, rule_score
from lambda_adapter.scoring import Scorer, breaker_store, sagemaker_endpoint
from lambda_adapter.settings import Settings
from streams.contract import FEATURES
from tests.lambda_adapter.samples import NOW_MS, event, prediction

ANSWER = {
    "class": "rdma_timeout",
    "risk": 91.5,
    "confidence": 0.9,
    "model": "20261123-0123456789ab",
    "probabilities": {},
}
SATURATED = {"utilization": 95.0, "latency_p99": None, "not_a_feature": 1.0}


def unscored(number=0, **fields):
    return {"v": 1, "stream_id": "a/1", "ts": NOW_MS + number, "src": f"0:{number}:0", "features": SATURATED} | fields


class Endpoint:
    """A SageMaker runtime that counts its calls."""

    def __init__(self, answer=ANSWER):
        self.calls, self.answer, self.bodies = 0, answer, []

    def invoke_endpoint(self, *, Body, **_arguments):
        self.calls += 1
        self.bodies.append(json.loads(Body))
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"Body": io.BytesIO(self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode())}


@pytest.fixture
def names(request):
    """A circuit of this test's own: Powertools counts failures by name, for the whole process."""
    return request.node.name


@pytest.fixture
def store(aws, table):
    return breaker_store(aws.client("dynamodb"), table.name)


def test_a_record_with_its_prediction_asks_nobody(adapter, table, names, store):
    endpoint = Endpoint()
    adapter.scorer = Scorer(endpoint=sagemaker_endpoint(endpoint, names, store))
    adapter.handle(event(prediction()), None)

    assert endpoint.calls == 0


def test_features_without_a_prediction_are_scored_by_the_endpoint(adapter, table, bus, names, store):
    endpoint = Endpoint()
    adapter.scorer = Scorer(endpoint=sagemaker_endpoint(endpoint, names, store))
    adapter.handle(event(unscored()), None)

    assert endpoint.bodies == [{"features": {"utilization": 95.0}}]
    (item,) = insights(table)
    assert (item["prediction_type"], float(item["risk_score"]), item["model_used"]) == ("rdma_timeout", 91.5, "xgboost")
    assert len(bus.entries) == 1


def test_what_the_endpoint_calls_healthy_is_no_insight(adapter, table, names, store):
    calm = ANSWER | {"class": "healthy", "risk": 3.0}
    adapter.scorer = Scorer(endpoint=sagemaker_endpoint(Endpoint(calm), names, store))
    adapter.handle(event(unscored()), None)

    assert table.scan()["Count"] == 0


BROKEN = [
    ReadTimeoutError(endpoint_url="http://endpoint"),
    ClientError({"Error": {"Code": "ThrottlingException", "Message": ""}}, "InvokeEndpoint"),
    ClientError({"Error": {"Code": "ModelError", "Message": ""}}, "InvokeEndpoint"),
    ClientError({"Error": {"Code": "ValidationError", "Message": "Endpoint not found"}}, "InvokeEndpoint"),
    ClientError({"Error": {"Code": "ExpiredTokenException", "Message": ""}}, "InvokeEndpoint"),
    b"<html>",
    b'{"class": "gremlins", "risk": 1, "confidence": 1, "model": "m"}',
    b'{"class": "healthy", "risk": NaN, "confidence": 1, "model": "m"}',
]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: str(b)[:50])
def test_a_broken_endpoint_loses_nothing_and_is_asked_five_times_in_all(adapter, table, bus, names, store, broken):
    endpoint = Endpoint(broken)
    for environment in range(3):  # each with its own memory of the circuit, all with the table
        own_store = breaker_store(store.client, table.name)
        adapter.scorer = Scorer(endpoint=sagemaker_endpoint(endpoint, names, own_store))
        records = [unscored(1_000 * environment + i, stream_id=f"n{environment}-{i}/1") for i in range(20)]
        assert adapter.handle(event(*records), None) == {"batchItemFailures": []}

    assert endpoint.calls == 5
    assert {item["model_used"] for item in insights(table)} == {"rules"}
    assert len(insights(table)) == len(bus.entries) == 60


def test_a_healed_endpoint_is_asked_again(names, store, monkeypatch):
    from aws_lambda_powertools.utilities.circuit_breaker.base import CircuitBreakerHandler

    endpoint = Endpoint(BROKEN[0])
    scorer = Scorer(endpoint=sagemaker_endpoint(endpoint, names, store))
    record = Unscored.model_validate(unscored())
    assert [scorer.score(record).by for _ in range(7)] == ["rules"] * 7
    endpoint.answer = ANSWER
    later = CircuitBreakerHandler._now() + 31
    monkeypatch.setattr(CircuitBreakerHandler, "_now", staticmethod(lambda: later))

    assert [scorer.score(record).by for _ in range(3)] == ["endpoint"] * 3
    assert endpoint.calls == 5 + 3


def test_a_language_model_is_asked_when_the_endpoint_is_down_and_before_the_rules(names, store):
    said = Score.model_validate(ANSWER | {"model": "bedrock:some-model"})
    for answer, by in ((said, "bedrock"), (None, "rules")):
        model = SimpleNamespace(score=lambda _record, _left_ms, answer=answer: answer)
        scorer = Scorer(endpoint=sagemaker_endpoint(Endpoint(BROKEN[0]), names, store), language_model=model)

        scored = scorer.score(Unscored.model_validate(unscored()))
        assert (scored.by, scored.is_fallback) == (by, True)


def test_the_real_client_is_asked_as_the_container_takes_it(aws, names, store):
    client = aws.client("sagemaker-runtime")
    with Stubber(client) as stub:
        asked = {
            "EndpointName": names,
            "ContentType": "application/json",
            "Accept": "application/json",
            "Body": '{"features": {"utilization": 95.0}}',
        }
        stub.add_response("invoke_endpoint", {"Body": io.BytesIO(json.dumps(ANSWER).encode())}, asked)

        score = sagemaker_endpoint(client, names, store)(Unscored.model_validate(unscored()))
    assert score.risk == 91.5


def test_the_fallback_rate_is_a_metric(adapter, names, store):
    adapter.scorer = Scorer(endpoint=sagemaker_endpoint(Endpoint(BROKEN[0]), names, store))
    adapter.handle(event(*[prediction(src=f"0:{i}:0") for i in range(3)], unscored(9)), None)

    assert handler.metrics.metric_set["Fallback"]["Value"] == [0.0, 0.0, 0.0, 1.0]


def test_a_circuit_of_the_wired_adapter_opens_and_is_a_metric(aws, table, names):
    settings = Settings(table=table.name, bus="b", dead_topic="d", bootstrap="b:1", endpoint=names)
    scorer = handler.build(settings, aws).scorer  # its endpoint is moto's, which answers with no score

    for _ in range(7):
        assert scorer.score(Unscored.model_validate(unscored())).by == "rules"
    assert handler.metrics.metric_set["BreakerOpened"]["Value"] == [1.0]
    circuit = {"entity_id": "circuit_breaker", "timestamp": f"endpoint-{names}"}
    assert table.get_item(Key=circuit)["Item"]


def test_a_stream_scored_here_is_announced_once_an_hour_and_band(adapter, table, bus):
    calm = {"utilization": 91.0}  # 73 of risk, where 95 % is 85
    batch = event(*[unscored(i) for i in range(5)], unscored(5, features=calm), unscored(6, features=calm), unscored(7))
    for _ in range(2):
        adapter.handle(batch, None)
    adapter.handle(event(unscored(8, ts=NOW_MS + 3_600_000)), None)

    assert sorted(item["entity_id"] for item in insights(table)) == [f"alert_a/1_0:{i}:0" for i in (0, 5, 8)]
    assert len(bus.entries) == 2


VALUE = st.none() | st.sampled_from([0.0, 0.005, 0.01, 0.02, 0.05, 50.0, 80.0, 90.0, 100.0, 200.0]) | st.floats(0, 500)


METRICS = ("latency_p99", "utilization", "error_rate", "bandwidth_gbps", "qp_errors")


@given(
    metrics=st.fixed_dictionaries(dict.fromkeys(METRICS, VALUE)),
    baselines=st.fixed_dictionaries(dict.fromkeys(("latency", "utilization", "bandwidth"), VALUE)),
)
def test_the_rules_are_the_workers(metrics, baselines):
    features = {name: value for name, value in metrics.items() if value is not None}
    features |= {
        f"{metric}_{kind}": value
        for metric, kind, value in (
            ("latency_p99", "delta_abs", _minus(metrics["latency_p99"], baselines["latency"])),
            ("latency_p99", "delta_pct", _percent(metrics["latency_p99"], baselines["latency"])),
            ("utilization", "delta_pct", _minus(metrics["utilization"], baselines["utilization"])),
            ("bandwidth", "delta_pct", _percent(metrics["bandwidth_gbps"], baselines["bandwidth"])),
        )
        if value is not None
    }
    assert set(features) <= set(FEATURES)
    operands = operands_of(features)

    ours = rule_score(load_rules(), features)
    assert (ours.class_, ours.risk, ours.confidence) == workers_score(operands)


def _minus(x, baseline):
    return None if x is None or baseline is None else x - baseline


def _percent(x, baseline):
    return None if x is None or not baseline else (x - baseline) / baseline * 100


def workers_score(operands):
    """What the compiled interpreter of the worker says of the same operands."""
    import numpy as np

    from streams.contract import CLASSES
    from streams.features.labels import OPERAND_ROW, OPERANDS, compiled, first_match, load_rules, rule_risk

    table = load_rules()
    row, kernel = np.zeros(1, OPERAND_ROW), compiled(table)[0]
    row["of"][0] = [operands.get(name, np.nan) for name in OPERANDS]
    rule = first_match(kernel, row[0])
    if rule < 0:
        return "healthy", 0.0, table.healthy_confidence
    return CLASSES[table.class_code[rule]], rule_risk(kernel, rule, row[0]), table.confidence[rule]


def insights(table):
    return [item for item in table.scan()["Items"] if item.get("entity_type") == "insight"]
