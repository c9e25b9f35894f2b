"""Tables of features and targets to a signed bundle: fit two boosters, calibrate, examine, write.

Every step is a function of its arguments and a seed: the same table gives the same bytes. Calibration rests on links
and hours that taught nothing, and the examination on others again (the table's parts).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from offline.dataset.targets import HARD_DOWN, HORIZON_MS, TEST, TRAIN, VALIDATION, Targets
from offline.report.calls import Watched
from offline.report.evaluation import evaluate, evaluate_calls
from online.models.bundle import Calibration, Figures, Training, write_bundle
from online.models.scoring import calibrated
from online.models.trees import Forest
from streams.contract import CLASSES, LinkcastError

_GOLDEN_ROWS = 64
_VISIBLE_FROM = 0.8  # probability of an incident
_ROUNDS_MAX = 120
_PATIENCE = 15  # rounds without a gain on the held-out rows
# One thread: beside a busy broker and worker OpenMP's threads spend their time waiting for each other (a table of
# 35,000 rows on two loaded cores: 30 s with two threads, 5 s with one). The bytes are the same.
_TREES = {"tree_method": "hist", "max_depth": 6, "verbosity": 1, "nthread": 1}
_CLASSIFIER = _TREES | {
    "objective": "multi:softprob",
    "num_class": len(CLASSES),
    "multi_strategy": "multi_output_tree",
    "eval_metric": "mlogloss",
    "min_child_weight": 5.0,
    "eta": 0.15,
}
# Many positive rows are ahead of faults that nobody can foresee, noise among the targets: so half of the rows a tree,
# small trees and small steps. Depth 4 or 6, or three times the rows: the same ROC AUC on a fabric never seen, 0.81.
_RISK = _TREES | {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "max_depth": 5,
    "min_child_weight": 5.0,
    "eta": 0.08,
    "subsample": 0.5,
}


class TrainingRefused(LinkcastError):
    """A table that no useful model can be learnt from."""


class TrainingTable(NamedTuple):
    """n rows in any order, whose horizon has passed."""

    features: NDArray[np.float32]  # (n, 24) in the order of `contract.FEATURES`, NaN missing
    ts: NDArray[np.int64]  # (n,) ms
    targets: Targets
    part: NDArray[np.int8]  # (n,) TRAIN, VALIDATION or TEST; no link and no hour is in two of them
    weight: NDArray[np.float64]  # (n,) how many rows of the history each one stands for; 1 in TEST
    source: str  # in words, for the manifest
    watched: Watched | None = None  # the TEST rows, in their order, where they are whole streams


class _Sample(NamedTuple):
    rows: NDArray[np.intp]  # (m,) indices into the table, ascending
    weight: NDArray[np.float64]  # (m,)


def train_bundle(
    table: TrainingTable,
    out: Path,
    key: Ed25519PrivateKey,
    *,
    created_at: int,
    base_rate: float | None = None,
    seed: int = 0,
) -> Path:
    """Train on `table` and return the folder of the signed bundle, written below `out`.

    `base_rate` is the share of rows with an incident under way or within the horizon where the bundle will run; give
    it when the table has more incidents than life does (simulator profile `train`), else risk is far too high. Default:
    the table's own. `TrainingRefused` where the table has too little to learn from.
    """
    _check(table)
    is_incident, part = table.targets.code > 0, table.part
    taught, held_out = (
        _Sample(rows := np.flatnonzero(part == code), table.weight[rows]) for code in (TRAIN, VALIDATION)
    )
    if base_rate is None:
        known = part != TEST
        base_rate = float(np.average(is_incident[known], weights=table.weight[known]))
    risk = _fit(_RISK, table.features, is_incident, taught, held_out, seed)
    forest = Forest.from_booster(risk)
    sigmoid = _sigmoid(table, held_out, forest)
    classifier, class_weight = _fit_classifier(table, taught, held_out, forest, sigmoid, seed)
    forests = Forest.from_booster(classifier), forest
    calibration = _calibration(table, held_out, forests[0], sigmoid, class_weight, base_rate)
    test = np.flatnonzero(part == TEST)
    scores = calibrated(calibration, *(forest.margins(table.features[test]) for forest in forests))
    assert scores.probabilities is not None
    evaluation: Figures = {
        **evaluate(table.targets.at(test), scores.risk, scores.probabilities, base_rate),
        **(evaluate_calls(table.watched, scores.risk) if table.watched else {}),
        "rows_train": float(taught.rows.size),
        "rows_validation": float(held_out.rows.size),
        "rows_test": float(test.size),
        "trees_classifier": float(forests[0].roots.size),
        "trees_risk": float(forests[1].roots.size),
    }
    return write_bundle(
        out,
        classifier=classifier,
        risk=risk,
        calibration=calibration,
        training=Training(
            source=table.source,
            start=int(table.ts.min()),
            end=int(table.ts.max()),
            rows=len(table.ts),
            horizon_ms=HORIZON_MS,
            base_rate=base_rate,
        ),
        evaluation=evaluation,
        golden_rows=_golden_rows(table.features[test]),
        created_at=created_at,
        key=key,
    )


def _check(table: TrainingTable) -> None:
    for code, name in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
        found = np.unique(table.targets.code[table.part == code])
        if 0 not in found or not ((found > 0) & (found < HARD_DOWN)).any():
            raise TrainingRefused(
                f"the {name} part of {table.source} has no healthy row or no incident of any class. Give more links "
                f"or hours, or simulate with the profile 'train'."
            )


def _sigmoid(table: TrainingTable, held_out: _Sample, forest: Forest) -> tuple[float, float]:
    margin = forest.margins(table.features[held_out.rows])[:, 0].astype(np.float64)
    slope, intercept = fit_platt(margin, table.targets.code[held_out.rows] > 0, held_out.weight)
    if slope <= 0.0:
        raise TrainingRefused(
            f"risk learnt from {table.source} ranks other links and hours no better than chance. Give more incidents."
        )
    return slope, intercept


def _fit_classifier(
    table: TrainingTable,
    taught: _Sample,
    held_out: _Sample,
    forest: Forest,
    sigmoid: tuple[float, float],
    seed: int,
) -> tuple[xgb.Booster, NDArray[np.float64]]:
    """Fit which fault it is where there is one, and return with it the weight that each class had."""
    # Rows from the start on, and those ahead whose risk is high: all others look like health, and their class is noise.
    # On a fabric never seen, the classifier of all rows named 0.60 of the faults in progress (macro-F1), of these 0.88;
    # of rows from the start on alone 0.89, but then only 0.41 of the rows ahead with a risk of 50 or more, here 0.62.
    slope, intercept = sigmoid
    visible = slope * forest.margins(table.features[taught.rows])[:, 0] + intercept >= _logit(_VISIBLE_FROM)
    taught = _by_incident(table.targets, taught, visible | (table.targets.lead_ms[taught.rows] <= 0))
    held_out = _by_incident(table.targets, held_out, table.targets.lead_ms[held_out.rows] <= 0)
    code = table.targets.code
    # The root of what would make classes equally heavy: equal ones blow up the noise of a class of a few incidents.
    # Calibration takes it out again.
    heavy = np.bincount(code[taught.rows], taught.weight, minlength=len(CLASSES))
    class_weight: NDArray[np.float64] = np.sqrt(heavy.sum() / np.maximum(heavy, 1.0))

    def weighted(sample: _Sample) -> _Sample:
        weight = sample.weight * class_weight[code[sample.rows]]
        return _Sample(sample.rows, weight / weight.mean())

    booster = _fit(_CLASSIFIER, table.features, code, weighted(taught), weighted(held_out), seed)
    return booster, class_weight


def _by_incident(targets: Targets, sample: _Sample, among: NDArray[np.bool_]) -> _Sample:
    """Return the rows of `sample` where `among`, shape (m,), that have a fault class, every incident counting alike."""
    # Rows of one incident are near copies, and one link that loses packets for a day would outweigh all the others.
    code = targets.code[sample.rows]
    of_class = among & (code > 0) & (code != HARD_DOWN)
    rows, weight = sample.rows[of_class], sample.weight[of_class]
    incident = targets.incident[rows]
    return _Sample(rows, weight / np.bincount(incident, weight)[incident])


def _fit(
    params: dict[str, Any],
    features: NDArray[np.float32],
    y: NDArray[Any],
    taught: _Sample,
    held_out: _Sample,
    seed: int,
) -> xgb.Booster:
    data = xgb.QuantileDMatrix(features[taught.rows], y[taught.rows], weight=taught.weight)
    watch = xgb.QuantileDMatrix(features[held_out.rows], y[held_out.rows], weight=held_out.weight, ref=data)
    stop = xgb.callback.EarlyStopping(rounds=_PATIENCE, save_best=True)
    return xgb.train(
        params | {"seed": seed}, data, _ROUNDS_MAX, evals=[(watch, "held_out")], callbacks=[stop], verbose_eval=False
    )


def _calibration(
    table: TrainingTable,
    held_out: _Sample,
    classifier: Forest,
    sigmoid: tuple[float, float],
    class_weight: NDArray[np.float64],
    base_rate: float,
) -> Calibration:
    slope, intercept = sigmoid
    rate = float(np.average(table.targets.code[held_out.rows] > 0, weights=held_out.weight))
    faults = _by_incident(table.targets, held_out, table.targets.lead_ms[held_out.rows] <= 0)
    offset = -np.log(class_weight)
    scale = fit_scale(
        classifier.margins(table.features[faults.rows])[:, 1:].astype(np.float64),
        offset[1:],
        table.targets.code[faults.rows] - 1,
        faults.weight,
    )
    return Calibration(
        risk_slope=slope,
        # The held-out rows' odds of an incident are not those of the place it will run (Saerens et al., 2002).
        risk_intercept=intercept + _logit(base_rate) - _logit(rate),
        class_scale=scale,
        class_offset=tuple(offset.tolist()),
    )


def _logit(p: float) -> float:
    return float(np.log(p / (1.0 - p)))


def fit_platt(
    margin: NDArray[np.float64], is_positive: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[float, float]:
    """Return slope and intercept of the sigmoid that gives margins, shape (n,), their probability.

    Newton steps on the likelihood, with Platt's targets that keep it finite (Lin, Lin & Weng, Machine Learning 68,
    2007).
    """
    positive, negative = weight[is_positive].sum(), weight[~is_positive].sum()
    target = np.where(is_positive, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    Z = np.column_stack([margin, np.ones_like(margin)])

    def loss(theta: NDArray[np.float64]) -> float:
        return float(weight @ (np.logaddexp(0.0, Z @ theta) - target * (Z @ theta)))

    theta = np.array([1.0, 0.0])
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(Z @ theta, -500, 500)))
        curvature = (Z * (weight * p * (1.0 - p))[:, None]).T @ Z + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, Z.T @ (weight * (target - p)))
        before = loss(theta)
        while loss(theta + step) > before and np.abs(step).max() > 1e-10:
            step /= 2.0
        theta = theta + step
        if np.abs(step).max() <= 1e-10:
            break
    return float(theta[0]), float(theta[1])


def fit_scale(
    margins: NDArray[np.float64], offset: NDArray[np.float64], code: NDArray[np.int8], weight: NDArray[np.float64]
) -> float:
    """Return the scale under which softmax(scale · margins + offset) is most likely (Guo et al., ICML 2017).

    `margins` has shape (n, k), `code` the true columns. The likelihood's slope falls with the scale: bisection finds
    its zero between 1/2 and 2: beyond, the held-out incidents are too few to say.
    """
    low, high = np.log(0.5), np.log(2.0)
    true = margins[np.arange(len(code)), code]
    for _ in range(50):
        middle = (low + high) / 2.0
        logits = np.exp(middle) * margins + offset
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = (p * margins).sum(axis=1) / p.sum(axis=1)
        low, high = (middle, high) if weight @ (true - expected) > 0.0 else (low, middle)
    return float(np.exp((low + high) / 2.0))


def _golden_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    # Real rows from all over the test part, and one of which everything is missing.
    chosen = np.linspace(0, len(features) - 1, _GOLDEN_ROWS).astype(np.int64)
    return np.vstack([features[chosen], np.full((1, features.shape[1]), np.nan, np.float32)])
