from random import Random

from bench import edge_cost
from lambda_adapter.llm_limits import Budget, Cache, Remembered
from tests.lambda_adapter.bedrock_server import Clock


def test_bench_edge_cost_small():  # part of the ordinary suite, so that the figure can't rot
    figures = edge_cost.bench(insights=4_000)

    assert figures["llm_calls"] == 741
    assert figures["saved_percent"] > 80


def test_a_month_s_calls_end_at_the_days_budgets(monkeypatch):
    monkeypatch.setattr(Budget.__init__, "__kwdefaults__", {**Budget.__init__.__kwdefaults__, "per_day": 3})

    assert edge_cost.count_calls(insights=4_000) == 90


def test_more_calls_cost_more_and_all_calls_cost_as_much_as_the_model_alone():
    few, many, all_of_them = (edge_cost.monthly(100_000, calls=calls) for calls in (10, 500, 100_000))

    assert few.ours_usd < many.ours_usd < all_of_them.ours_usd
    assert few.llm_only_usd == many.llm_only_usd < all_of_them.ours_usd


def outcomes(table, seed):
    """What the limits say to a random sequence of asks."""
    rng, clock = Random(seed), Clock()
    budget = Budget(table, per_minute=3, per_day=10, clock=clock)
    cache = Cache(table, kept_s=120, claim_s=30, clock=clock)
    for _ in range(60):
        clock.now += rng.choice([0, 1, 20, 30, 60])
        node = rng.choice("ab")
        match rng.choice(["take", "claim", "write", "read"]):
            case "take":
                yield budget.take()
            case "claim":
                yield cache.claim(node, "latency_spike")
            case "write":
                cache.write(node, "latency_spike", Remembered("{}", node))
            case "read":
                yield cache.read(node, "latency_spike")


def test_the_bench_s_table_answers_the_limits_as_dynamodb_does(table):
    assert list(outcomes(edge_cost._Table(), seed=3)) == list(outcomes(table, seed=3))
