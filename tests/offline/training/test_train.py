import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.dataset.targets import HARD_DOWN, TEST, TRAIN, VALIDATION, Incidents, Targets, targets
from offline.report.calls import Watched
from offline.report.evaluation import evaluate, evaluate_calls
from offline.simulator.truth import Incident
from offline.training import train
from offline.training.train import TrainingRefused, TrainingTable, fit_platt, fit_scale, train_bundle
from online.models.bundle import load_bundle
from streams.contract import CLASSES, FEATURES

DAY_MS = 86_400_000
BEGIN_MS = 1_767_225_600_000


def fabric(*, n_links: int = 120, every_ms: int = 600_000, seed: int = 7) -> TrainingTable:
    """A toy fabric: half the links have one incident a day, which lifts a feature of its own from 40 min before.

    Each part has links of its own, and a day.
    """
    days = 3
    rng = np.random.default_rng(seed)
    n = days * DAY_MS // every_ms
    link, ts = np.repeat(np.arange(n_links), n), np.tile(BEGIN_MS + every_ms * np.arange(n), n_links)
    stream = np.repeat(np.arange(0, n_links, 2), days)
    start = BEGIN_MS + np.tile(np.arange(days), n_links // 2) * DAY_MS + rng.integers(0, DAY_MS, stream.size)
    code = rng.choice([5, 6, 8, 10, HARD_DOWN], stream.size, p=[0.4, 0.3, 0.15, 0.1, 0.05]).astype(np.int8)
    incidents = Incidents(stream, start, start + 7_200_000, code)
    of_row = targets(link, ts, incidents)
    X = rng.normal(size=(link.size, len(FEATURES))).astype(np.float32)
    near = (of_row.code > 0) & (of_row.lead_ms < 2_400_000)
    X[near, of_row.code[near]] += 6
    X[rng.random(X.shape) < 0.05] = np.nan
    part = np.repeat(np.array([TRAIN, VALIDATION, TEST], np.int8), [n_links // 2, n_links // 4, n_links // 4])[link]
    used = np.flatnonzero(part == (ts - BEGIN_MS) // DAY_MS)
    return TrainingTable(X[used], ts[used], of_row.at(used), part[used], np.ones(used.size), "a toy fabric")


@pytest.fixture(scope="module")
def table():
    return fabric()


@pytest.fixture(scope="module")
def key():
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture(scope="module")
def folder(table, key, tmp_path_factory):
    return train_bundle(table, tmp_path_factory.mktemp("bundles"), key, created_at=BEGIN_MS)


def test_a_trained_bundle_loads_and_foretells_links_it_has_never_seen(folder, key):
    bundle = load_bundle(folder, [key.public_key()])
    evaluation = bundle.manifest.evaluation

    assert folder.name == bundle.version
    assert evaluation["roc_auc"] > 0.85
    assert evaluation["diagnosis_accuracy"] > 0.9
    assert evaluation["ece"] < 0.03
    assert evaluation["caught_ahead"] >= 0.6 * evaluation["incidents"] > 0
    assert evaluation["diagnosis_recall"]["latency_spike"] > 0.8
    assert evaluation["diagnosis_recall"]["bandwidth_throttling"] is None  # the fabric has none


def test_the_same_table_gives_the_same_bytes(folder, table, key, tmp_path):
    again = train_bundle(table, tmp_path, key, created_at=BEGIN_MS)

    assert again.name == folder.name
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_a_smaller_base_rate_lowers_every_risk_by_the_same_odds(folder, table, key, tmp_path):
    rare = load_bundle(train_bundle(table, tmp_path, key, created_at=BEGIN_MS, base_rate=1e-3), [key.public_key()])
    natural = load_bundle(folder, [key.public_key()])
    rate = natural.manifest.training.base_rate

    shift = np.log(1e-3 / (1 - 1e-3)) - np.log(rate / (1 - rate))
    moved = rare.manifest.calibration.risk_intercept - natural.manifest.calibration.risk_intercept
    assert moved == pytest.approx(shift)
    assert rare.manifest.calibration.risk_slope == natural.manifest.calibration.risk_slope


def test_a_table_without_incidents_is_refused_in_words(table, key, tmp_path):
    healthy = table._replace(targets=Targets(*(np.zeros_like(column) for column in table.targets)))

    with pytest.raises(TrainingRefused, match="no incident of any class"):
        train_bundle(healthy, tmp_path, key, created_at=BEGIN_MS)


def test_a_row_that_stands_for_two_counts_like_two(folder, table, key, tmp_path):
    doubled = table._replace(weight=np.where(table.targets.code > 0, 2.0, 1.0))
    twice = load_bundle(train_bundle(doubled, tmp_path, key, created_at=BEGIN_MS), [key.public_key()])
    rate = load_bundle(folder, [key.public_key()]).manifest.training.base_rate

    assert twice.manifest.training.base_rate == pytest.approx(2 * rate / (1 + rate))


@settings(deadline=None, max_examples=30)
@given(slope=st.floats(0.3, 3), intercept=st.floats(-3, 1), seed=st.integers(0, 99))
def test_platts_sigmoid_is_found_again(slope, intercept, seed):
    rng = np.random.default_rng(seed)
    margin = rng.normal(size=6_000) * 2
    happened = rng.random(6_000) < 1 / (1 + np.exp(-(slope * margin + intercept)))

    found = fit_platt(margin, happened, np.ones(6_000))

    assert found == pytest.approx((slope, intercept), abs=0.3)


def test_margins_that_separate_perfectly_still_give_a_finite_sigmoid():
    margin = np.array([-2.0, -1.0, 1.0, 2.0])
    slope, intercept = fit_platt(margin, margin > 0, np.ones(4))

    assert 0 < slope < 10
    assert abs(intercept) < 1


def test_every_incident_of_a_class_counts_alike_and_health_teaches_no_class():
    code = np.repeat([0, 3, 7, HARD_DOWN], [50, 900, 4, 10]).astype(np.int8)
    incident = np.repeat([-1, 0, 1, 2], [50, 900, 4, 10])
    of_row = Targets(code, incident, np.zeros(code.size, np.int64))
    everything = train._Sample(np.arange(code.size), np.ones(code.size))
    sample = train._by_incident(of_row, everything, np.ones(code.size, bool))

    np.testing.assert_allclose(np.bincount(code[sample.rows], sample.weight, minlength=8)[[0, 3, 7]], [0, 1, 1])
    assert HARD_DOWN not in code[sample.rows]


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.8])
def test_the_scale_of_overconfident_margins_is_found_again(scale):
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(20_000, 10)) * 2
    p = np.exp(logits)
    drawn = (p.cumsum(axis=1) / p.sum(axis=1, keepdims=True) > rng.random((20_000, 1))).argmax(axis=1)

    assert fit_scale(logits / scale, np.zeros(10), drawn, np.ones(20_000)) == pytest.approx(scale, rel=0.05)


def test_a_perfect_call_and_a_useless_one_are_told_apart():
    truth = targets(
        np.zeros(200, np.int64),
        np.arange(200) * 60_000,
        Incidents(np.array([0]), np.array([6_000_000]), np.array([9_000_000]), np.array([4], np.int8)),
    )
    is_incident = truth.code > 0
    perfect, always_the_wrong_one = np.eye(11)[truth.code], np.eye(11)[np.full(200, 7)]

    best = evaluate(truth, 100.0 * is_incident, perfect, is_incident.mean())
    worst = evaluate(truth, np.full(200, 100.0), always_the_wrong_one, is_incident.mean())

    assert (best["roc_auc"], best["ece"], best["false_alarm_rows"]) == (1.0, 0.0, 0.0)
    assert (worst["roc_auc"], worst["false_alarm_rows"]) == (0.5, 1.0)
    assert (best["detected"], best["diagnosis_accuracy"], best["diagnosis_macro_f1"]) == (1.0, 1.0, 1.0)
    assert (worst["detected"], worst["diagnosis_accuracy"], worst["diagnosis_macro_f1"]) == (1.0, 0.0, 0.0)
    assert best["caught_ahead"] == best["incidents"] == 1
    assert set(best["diagnosis_recall"]) == set(CLASSES[1:])


def test_figures_survive_the_manifest():
    truth = Targets(np.array([0, 1], np.int8), np.array([-1, 0]), np.array([0, -1]))
    figures = evaluate(truth, np.array([1.0, 99.0]), np.eye(11)[truth.code], 0.5)

    assert msgspec.json.decode(msgspec.json.encode(figures)) == figures


def test_calls_are_judged_by_incident_and_port_day():
    minutes = np.arange(24 * 60)
    incident = Incident(
        incident="i",
        class_="latency_spike",
        start_ms=36_000_000,
        end_ms=37_000_000,
        streams=("a/1",),
        precursor_start_ms=None,
    )
    watched = Watched(np.repeat([0, 1], minutes.size), np.tile(minutes * 60_000, 2), ["a/1", "a/2"], [incident])
    risk = np.zeros(2 * minutes.size)
    risk[590:620] = 90.0  # from 10 min before the incident of a/1
    risk[minutes.size + 100 : minutes.size + 110] = 90.0  # of a/2, which has none

    figures = evaluate_calls(watched, risk)

    assert figures["events"] == figures["event_recall"] == figures["event_recall_before"] == 1.0
    assert (figures["median_lead_min"], figures["call_precision"]) == (10.0, 0.5)
    assert figures["false_alarms_per_port_day"] == pytest.approx(0.5, rel=1e-3)
    assert figures["called_before_max"] == 0.0
