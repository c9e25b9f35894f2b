import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from online.models.bundle import native_margins
from online.models.trees import Forest

VECTOR_LEAVES = {"objective": "multi:softprob", "num_class": 11, "multi_strategy": "multi_output_tree"}


def rows(n: int, seed: int, missing: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 24)).astype(np.float32) * 100
    X[:, 17:21] = rng.integers(0, 24, (n, 4))  # many ties with thresholds
    X[rng.random(X.shape) < missing] = np.nan
    return X


def booster(
    params: dict, *, n_trees: int = 12, depth: int = 5, missing: float = 0.2, seed: int = 1, n_rows: int = 2_000
) -> xgb.Booster:
    X = rows(n_rows, seed, missing)
    y = (np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 17]) * 10 > 60) * (1 + (np.nan_to_num(X[:, 3]) > 0))
    y = y if "num_class" in params else y > 0
    return xgb.train(params | {"max_depth": depth, "nthread": 1}, xgb.DMatrix(X, y, nthread=1), n_trees)


@pytest.mark.parametrize(
    "params",
    [
        VECTOR_LEAVES,
        {"objective": "binary:logistic"},
        {"objective": "binary:logistic", "base_score": 0.013},
        {"objective": "reg:squarederror"},
    ],
)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_margins_are_xgboosts_own_bit_for_bit(params, missing):
    trained = booster(params, missing=missing)
    X = rows(20_000, seed=2)
    X[0] = np.nan

    ours = Forest.from_booster(trained).margins(X)

    assert ours.tobytes() == native_margins(trained, X).tobytes()


@given(seed=st.integers(0, 10_000), depth=st.integers(1, 8), n_trees=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_any_shape_of_tree_gives_the_same_bits(seed, depth, n_trees):
    trained = booster(VECTOR_LEAVES, n_trees=n_trees, depth=depth, seed=seed, n_rows=300)
    X = rows(300, seed + 1)

    assert Forest.from_booster(trained).margins(X).tobytes() == native_margins(trained, X).tobytes()


def test_a_value_equal_to_a_threshold_goes_where_xgboost_sends_it():
    trained = booster({"objective": "binary:logistic"})
    forest = Forest.from_booster(trained)
    thresholds = forest.nodes["threshold"][~np.isnan(forest.nodes["threshold"])]
    X = np.repeat(thresholds[:, None], 24, axis=1)

    assert forest.margins(X).tobytes() == native_margins(trained, X).tobytes()


def test_trees_of_a_single_leaf_are_walked_too():
    trained = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(np.zeros((4, 24)), [0, 0, 0, 1]), 2)
    forest = Forest.from_booster(trained)
    X = rows(5, seed=3)

    assert forest.depth == 0
    assert forest.margins(X).tobytes() == native_margins(trained, X).tobytes()


def test_how_rows_are_cut_into_batches_changes_no_bit():
    forest = Forest.from_booster(booster(VECTOR_LEAVES))
    X = rows(100, seed=4)

    one_by_one = np.vstack([forest.margins(X[i : i + 1]) for i in range(100)])

    assert one_by_one.tobytes() == forest.margins(X).tobytes()
    assert forest.margins(X[:0]).shape == (0, 11)


@pytest.mark.parametrize("X", [np.zeros((2, 23), np.float32), np.zeros((2, 24)), np.zeros(24, np.float32)])
def test_rows_of_another_shape_or_type_are_the_callers_bug(X):
    with pytest.raises(ValueError, match=r"float32 of \(n, 24\)"):
        Forest.from_booster(booster({"objective": "binary:logistic"})).margins(X)


def test_boosters_that_the_walk_cannot_follow_are_told_what_to_train_instead():
    one_tree_per_class = booster({"objective": "multi:softprob", "num_class": 3})
    dart = booster({"objective": "binary:logistic", "booster": "dart"}, n_trees=1)

    with pytest.raises(ValueError, match="multi_output_tree"):
        Forest.from_booster(one_tree_per_class)
    with pytest.raises(ValueError, match="gbtree"):
        Forest.from_booster(dart)
