"""Scoring costs the same a row at every batch size, and gives XGBoost's own bits."""

import time
from collections.abc import Callable

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from online.models.bundle import native_margins
from online.models.trees import Forest

_BATCHES = (1, 24, 4_096)
_ROUNDS = 5


def bench(*, rows: int = 100_000, trees: int = 100, depth: int = 6) -> dict[str, float]:
    """Time both models over batches of 1, 24 and 4,096 rows, in µs a row, and count the margins whose bits differ.

    The classifier has 11 outputs in vector leaves, the risk model one; a fifth of all values is missing. Best of 5.
    """
    rng = np.random.default_rng(20_261_123)
    classifier, risk = boosters(rng, trees, depth)
    forests = Forest.from_booster(classifier), Forest.from_booster(risk)
    X = _rows(rng, rows)
    figures: dict[str, float] = {"rows": rows, "trees": trees, "depth": depth}
    for n in _BATCHES:
        figures[f"us_{n}"] = _us_per_row(lambda batch: [forest.margins(batch) for forest in forests], X, n, calls=2_000)
    for n in _BATCHES:
        figures[f"native_us_{n}"] = _us_per_row(
            lambda batch: [booster.inplace_predict(batch) for booster in (classifier, risk)], X, n, calls=100
        )
    figures["differing"] = sum(
        int((forest.margins(X).view(np.uint32) != native_margins(booster, X).view(np.uint32)).sum())
        for forest, booster in zip(forests, (classifier, risk), strict=True)
    )
    return figures


def boosters(rng: np.random.Generator, trees: int, depth: int) -> tuple[xgb.Booster, xgb.Booster]:
    """Return a classifier and a risk model of the shape of a bundle's, of something they can learn."""
    X = _rows(rng, 20_000)
    s = np.nan_to_num(X)
    noisy = s[:, 0] + s[:, 1] + rng.normal(size=len(s)) * 3
    y = np.where(noisy > 12, 1 + (np.abs(s[:, 2] * s[:, 3] + s[:, 4]).astype(int) % 10), 0)
    params = {"max_depth": depth, "eta": 0.1, "tree_method": "hist", "nthread": 1}
    vector_leaves = {"objective": "multi:softprob", "num_class": 11, "multi_strategy": "multi_output_tree"}
    classifier = xgb.train(params | vector_leaves, xgb.DMatrix(X, y), trees)
    risk = xgb.train(params | {"objective": "binary:logistic"}, xgb.DMatrix(X, y > 0), trees)
    return classifier, risk


def _rows(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    X = rng.normal(size=(n, 24)).astype(np.float32) * 10
    X[rng.random(X.shape) < 0.2] = np.nan
    return X


def _us_per_row(score: Callable[[NDArray[np.float32]], object], X: NDArray[np.float32], n: int, *, calls: int) -> float:
    calls = max(3, min(calls, 40_000 // n))
    batches = [X[i * n % (len(X) - n + 1) :][:n] for i in range(calls)]
    score(batches[0])
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter_ns()
        for batch in batches:
            score(batch)
        best = min(best, (time.perf_counter_ns() - start) / 1e3 / (calls * n))
    return round(best, 2)
