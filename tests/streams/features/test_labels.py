"""The rule label: golden vectors at every bound, the order of the rules, and what a missing operand does."""

from collections.abc import Mapping
from itertools import chain, combinations

import pytest
from hypothesis import given, settings

from offline.backfill import backfill_events
from streams.contract import FAULT_CLASSES, MetricEvent
from streams.features.labels import RulesRefused, load_rules
from streams.features.stream_table import compile_kernel
from tests.reference import Ruling
from tests.streams.agreement import agreed, kernel_ruling
from tests.streams.strategies import T0, USUAL, fabrics, reading

PANE_MS = 900_000
Metrics = Mapping[str, float | None]


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> None:
    compile_kernel()


def judged(*probes: Metrics, usual: Metrics | None = None) -> list[Ruling]:
    """Each probe's ruling, on a stream of its own whose two closed panes have the `usual` baselines."""
    events = []
    for port, probe in enumerate(probes):
        moments = [(half * PANE_MS // 2, {**USUAL, **(usual or {})}) for half in range(4)]
        moments.append((2 * PANE_MS, {**USUAL, **probe}))
        events += [reading(T0 + after_ms, metrics, stream_id=f"leaf/{port}") for after_ms, metrics in moments]
    kernel = backfill_events(events)
    rulings = [kernel_ruling(kernel, row) for row in range(len(events))]
    # Exactly the reference's, to the last unit of risk: at golden values rounding is no excuse.
    assert rulings == [verdict.ruling for verdict in agreed(events)]
    return rulings[4::5]


def label(probe: Metrics, **usual: float | None) -> str:
    return judged(probe, usual=usual)[0].label


@pytest.mark.parametrize(
    ("probe", "wanted", "risk"),
    [
        ({}, "healthy", 0),
        ({"utilization": 80.0}, "healthy", 0),
        ({"utilization": 80.1}, "anomaly_detected", 55),
        ({"utilization": 90.0}, "anomaly_detected", 55),
        ({"utilization": 90.1}, "resource_saturation", 70),
        ({"utilization": 95.0}, "resource_saturation", 85),
        ({"utilization": 100.0}, "resource_saturation", 100),
        (
            {"utilization": 100.0, "qp_errors": 500.0, "error_rate": 0.2, "latency_p99": 50.0},
            "resource_saturation",
            100,
        ),
        ({"qp_errors": 100.0}, "healthy", 0),
        ({"qp_errors": 101.0}, "qp_error_rate_high", 70),
        ({"qp_errors": 119.9}, "qp_error_rate_high", 71),
        ({"qp_errors": 900.0, "error_rate": 0.2, "latency_p99": 50.0}, "qp_error_rate_high", 100),
        ({"mr_failures": 0.0}, "healthy", 0),
        ({"mr_failures": 0.01}, "memory_registration_failure", 75),
        ({"mr_failures": 9.0, "qp_errors": 101.0}, "qp_error_rate_high", 70),
        ({"mr_failures": 9.0, "error_rate": 0.2, "latency_p99": 50.0}, "memory_registration_failure", 75),
        ({"error_rate": 0.051, "latency_p99": 20.1}, "rdma_timeout", 95),
        ({"error_rate": 0.05, "latency_p99": 20.1}, "performance_degradation", 100),
        ({"error_rate": 0.06, "latency_p99": 20.0}, "performance_degradation", 100),
        ({"latency_p99": 7.51}, "performance_degradation", 90),
        ({"latency_p99": 8.0}, "performance_degradation", 96),
        ({"error_rate": 0.03}, "packet_loss_detected", 80),
        ({"error_rate": 0.021}, "packet_loss_detected", 71),
        ({"error_rate": 0.06}, "packet_loss_detected", 100),
        ({"error_rate": 0.021, "latency_p99": 7.5}, "packet_loss_detected", 71),
        ({"latency_p99": 7.5}, "latency_spike", 70),
        ({"latency_p99": 6.51}, "latency_spike", 70),
        ({"latency_p99": 6.5}, "anomaly_detected", 55),
        ({"latency_p99": 6.01}, "anomaly_detected", 55),
        ({"latency_p99": 6.0}, "healthy", 0),
        ({"bandwidth_gbps": 70.0}, "healthy", 0),
        ({"bandwidth_gbps": 69.9}, "bandwidth_throttling", 75),
        ({"bandwidth_gbps": 0.0}, "bandwidth_throttling", 100),  # the spec's 110, clamped
        ({"error_rate": 0.011, "bandwidth_gbps": 60.0}, "bandwidth_throttling", 80),
        ({"error_rate": 0.011, "bandwidth_gbps": 70.0}, "connection_instability", 65),
        ({"error_rate": 0.02}, "connection_instability", 65),
        ({"error_rate": 0.011}, "connection_instability", 65),
        ({"error_rate": 0.01}, "anomaly_detected", 55),
        ({"error_rate": 0.0051}, "anomaly_detected", 55),
        ({"error_rate": 0.005}, "healthy", 0),
    ],
)
def test_the_rules_hold_at_their_exact_bounds(probe: Metrics, wanted: str, risk: int) -> None:
    assert judged(probe)[0][:2] == (wanted, risk)


# In the table's order, each with what makes it fire and, where the bound is two-sided, nothing above it.
TRIGGERS: dict[str, Metrics] = {
    "resource_saturation": {"utilization": 91.0},
    "qp_error_rate_high": {"qp_errors": 101.0},
    "memory_registration_failure": {"mr_failures": 1.0},
    "rdma_timeout": {"error_rate": 0.051, "latency_p99": 20.1},
    "performance_degradation": {"latency_p99": 8.0},
    "packet_loss_detected": {"error_rate": 0.021},
    "latency_spike": {"latency_p99": 7.0},
    "bandwidth_throttling": {"bandwidth_gbps": 60.0},
    "connection_instability": {"error_rate": 0.011},
    "anomaly_detected": {"utilization": 81.0},
}


def test_every_fault_class_has_a_rule() -> None:
    assert set(TRIGGERS) == set(FAULT_CLASSES)


def test_a_table_that_is_none_is_refused_with_where_the_form_of_one_is_told(tmp_path) -> None:
    (tmp_path / "bad.json").write_text("{}")

    with pytest.raises(RulesRefused, match=r"bad\.json: .*See the top of streams/features/rules\.toml"):
        load_rules(tmp_path / "bad.json")


def test_whichever_rules_fire_together_the_first_of_the_table_wins() -> None:
    some = list(chain.from_iterable(combinations(TRIGGERS, n) for n in range(1, len(TRIGGERS) + 1)))
    # The first has the last word on a metric that two of them set.
    probes = [dict(chain.from_iterable(TRIGGERS[name].items() for name in reversed(fired))) for fired in some]

    assert [ruling.label for ruling in judged(*probes)] == [fired[0] for fired in some]


def test_only_a_confidence_below_three_quarters_needs_review() -> None:
    confidences = {ruling.label: ruling.confidence for ruling in judged({}, *TRIGGERS.values())}
    reviewed = [ruling.label for ruling in judged({}, *TRIGGERS.values()) if ruling.needs_review]

    assert confidences == {
        "healthy": 0.90,
        "resource_saturation": 0.95,
        "qp_error_rate_high": 0.90,
        "memory_registration_failure": 0.90,
        "rdma_timeout": 0.92,
        "performance_degradation": 0.85,
        "packet_loss_detected": 0.88,
        "latency_spike": 0.80,
        "bandwidth_throttling": 0.75,
        "connection_instability": 0.82,
        "anomaly_detected": 0.65,
    }
    assert reviewed == ["anomaly_detected"]


# --- what is missing makes nothing fire


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_rule_whose_operand_is_missing_does_not_fire(name: str) -> None:
    for metric in TRIGGERS[name]:
        assert label({**TRIGGERS[name], metric: None}) != name


def test_an_anomaly_needs_only_one_of_its_operands() -> None:
    assert label({"utilization": 81.0, "latency_p99": None, "error_rate": None}) == "anomaly_detected"
    assert label({"utilization": None, "latency_p99": None, "error_rate": 0.006}) == "anomaly_detected"
    assert label({"utilization": None, "latency_p99": 6.1, "error_rate": None}) == "anomaly_detected"
    assert label({"utilization": None, "latency_p99": None, "error_rate": None}) == "healthy"


def test_without_a_closed_pane_no_baseline_rule_gives_a_verdict() -> None:
    def first_pane(**metrics: float) -> str:
        probe = reading(T0 + PANE_MS - 1, {**USUAL, **metrics})
        ruling = agreed([reading(T0, USUAL), probe])[-1].ruling
        assert ruling is not None
        return ruling.label

    assert first_pane(latency_p99=500.0) == "healthy"
    assert first_pane(bandwidth_gbps=1.0) == "healthy"
    assert first_pane(latency_p99=500.0, error_rate=0.06) == "packet_loss_detected"
    assert first_pane(utilization=91.0) == "resource_saturation"


def test_a_baseline_is_of_its_own_metric_alone() -> None:
    assert label({"latency_p99": 500.0}, latency_p99=None) == "healthy"
    assert label({"bandwidth_gbps": 1.0}, latency_p99=None) == "bandwidth_throttling"
    assert label({"bandwidth_gbps": 1.0}, bandwidth_gbps=None) == "healthy"


def test_throttling_needs_an_active_link_that_is_as_busy_as_usual() -> None:
    starved: dict[str, float | None] = {"bandwidth_gbps": 10.0}

    assert label(starved | {"utilization": 60.0}) == "bandwidth_throttling"
    assert label(starved | {"utilization": 59.9}) == "healthy"
    assert label(starved | {"utilization": None}) == "healthy"
    assert label(starved | {"utilization": 5.01}, utilization=5.01) == "bandwidth_throttling"
    assert label(starved | {"utilization": 5.0}, utilization=5.0) == "healthy"


def test_a_baseline_of_zero_has_no_increase_and_no_ratio() -> None:
    assert label({"latency_p99": 1.0}, latency_p99=0.0) == "healthy"
    assert label({"bandwidth_gbps": 0.0}, bandwidth_gbps=0.0) == "healthy"
    assert label({"latency_p99": 1.0, "error_rate": 0.06}, latency_p99=0.0) == "rdma_timeout"


@given(events=fabrics())
@settings(max_examples=40, deadline=None)
def test_risk_is_a_whole_number_from_0_to_100_and_0_only_when_healthy(events: list[MetricEvent]) -> None:
    kernel = backfill_events(events)

    assert ((kernel.rule_risk == 0) == (kernel.label == 0)).all()
    assert ((kernel.rule_risk >= 0) & (kernel.rule_risk <= 100) & (kernel.rule_risk % 1 == 0)).all()
