import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online.models.bundle import Calibration, load_bundle
from online.models.scoring import RulesScorer, Scorer, calibrated
from streams.contract import CLASSES, FEATURES
from streams.features.kernel import Rows

MARGINS = st.lists(st.floats(-300, 300, width=32), min_size=12, max_size=12)


def rows_of(X: np.ndarray) -> Rows:
    n = len(X)
    return Rows(
        event=np.arange(n),
        features=X,
        label=np.full(n, 3, np.int8),
        rule_risk=np.full(n, 85.0),
        confidence=np.full(n, 0.8),
        needs_review=np.zeros(n, bool),
    )


@pytest.fixture
def scorer(write, tmp_path, signing_key):
    return Scorer(load_bundle(write(tmp_path), [signing_key.public_key()]))


@given(margins=st.lists(MARGINS, min_size=1, max_size=20), scale=st.floats(0.1, 5), slope=st.floats(0.1, 5))
def test_probabilities_class_confidence_and_risk_never_contradict_each_other(margins, scale, slope):
    margins = np.array(margins, np.float32)
    calibration = Calibration(risk_slope=slope, risk_intercept=-1.0, class_scale=scale, class_offset=(0.5,) * 11)
    scores = calibrated(calibration, margins[:, :11], margins[:, 11:])

    np.testing.assert_allclose(scores.probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(1 - scores.probabilities[:, 0], scores.risk / 100, atol=1e-15)
    np.testing.assert_array_equal(scores.code > 0, scores.risk >= 50)
    np.testing.assert_array_equal(scores.confidence, scores.probabilities[np.arange(len(margins)), scores.code])
    faults = np.exp(scale * (margins[:, 1:11] - margins[:, 1:11].max(axis=1, keepdims=True)).astype(np.float64))
    expected = faults / faults.sum(axis=1, keepdims=True) * scores.risk[:, None] / 100
    np.testing.assert_allclose(scores.probabilities[:, 1:], expected, rtol=1e-6, atol=1e-12)


def test_an_offset_moves_the_odds_between_two_faults_by_its_exponential():
    even = np.zeros((1, 11), np.float32), np.full((1, 1), 3, np.float32)
    offset = [0.0] * 11
    offset[4] = np.log(3)
    calibration = Calibration(risk_slope=1.0, risk_intercept=0.0, class_scale=1.0, class_offset=tuple(offset))
    scores = calibrated(calibration, *even)

    assert CLASSES[scores.code[0]] == CLASSES[4]
    assert scores.probabilities[0, 4] / scores.probabilities[0, 5] == pytest.approx(3)


def test_how_rows_are_cut_into_batches_changes_no_bit_of_a_score(scorer, trained):
    whole = scorer.score(rows_of(trained.X[:200]))
    single = [scorer.score(rows_of(trained.X[i : i + 1])) for i in range(200)]

    for field in whole._fields:
        assert np.concatenate([getattr(s, field) for s in single]).tobytes() == getattr(whole, field).tobytes()


def test_a_fault_that_was_learnt_is_named_with_the_feature_that_drives_it(scorer):
    X = np.zeros((3, 24), np.float32)
    X[1, 5], X[2, 7] = 3, 3
    rows = rows_of(X)
    scores = scorer.score(rows)
    drivers = scorer.drivers(rows, scores)

    assert scores.code.tolist() == [0, 5, 7]
    assert sorted(drivers) == [1, 2]
    assert [drivers[i][0].feature for i in (1, 2)] == [FEATURES[5], FEATURES[7]]
    assert drivers[1][0].value == 3.0
    assert drivers[1][0].contribution > 0


def test_drivers_are_five_at_most_the_strongest_first_and_missing_ones_have_no_value(scorer, trained):
    rows = rows_of(trained.X)
    scores = scorer.score(rows)
    drivers = scorer.drivers(rows, scores)

    assert set(drivers) == set(np.flatnonzero(scores.risk >= 80))
    for row, found in drivers.items():
        assert 1 <= len(found) <= 5
        assert sorted(found, key=lambda d: -abs(d.contribution)) == found
        for driver in found:
            value = trained.X[row, FEATURES.index(driver.feature)]
            assert driver.value == (None if np.isnan(value) else value)
    msgspec.json.encode(next(iter(drivers.values())))


def test_no_rows_give_no_scores(scorer):
    rows = rows_of(np.empty((0, 24), np.float32))
    scores = scorer.score(rows)

    assert scores.risk.shape == (0,)
    assert scorer.drivers(rows, scores) == {}


def test_without_a_bundle_the_rule_label_is_the_answer():
    rows = rows_of(np.zeros((2, 24), np.float32))
    scores = RulesScorer().score(rows)

    assert RulesScorer.version == "rules"
    assert (scores.code.tolist(), scores.risk.tolist(), scores.confidence.tolist()) == ([3, 3], [85, 85], [0.8, 0.8])
    assert scores.probabilities is None
    assert RulesScorer().drivers(rows, scores) == {}
