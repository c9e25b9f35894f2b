"""Tables of features and targets to a signed bundle: sample, fit two boosters, calibrate, examine, write.

Every step is a function of its arguments and a seed: the same table gives the same bytes. Calibration rests on links
and hours that taught nothing, and the examination on others again (`offline.targets.split`).
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from offline.evaluation import evaluate
from offline.targets import HARD_DOWN, HORIZON_MS, TEST, TRAIN, UNUSED, VALIDATION, Targets, split
from online.bundle import Calibration, Figures, Training, write_bundle
from online.scoring import calibrated
from online.trees import Forest
from streams.contract import CLASSES, LinkcastError

ROWS_MAX = 200_000
"""How many rows the boosters are fitted to; XGBoost sees the others through the weights of these."""
_ROUNDS, _PATIENCE, _GOLDEN_ROWS = 150, 10, 64
# One thread: the rows are bounded, and beside a busy broker and worker OpenMP's threads spend their time waiting for
# each other (a table of 35,000 rows on two loaded cores: 30 s with two threads, 5 s with one). The bytes are the same.
_TREES = {
    "tree_method": "hist",
    "max_depth": 6,
    "min_child_weight": 5.0,
    "eta": 0.15,
    "verbosity": 1,
    "nthread": 1,
}
_CLASSIFIER = _TREES | {
    "objective": "multi:softprob",
    "num_class": len(CLASSES),
    "multi_strategy": "multi_output_tree",
    "eval_metric": "mlogloss",
}
_RISK = _TREES | {"objective": "binary:logistic", "eval_metric": "logloss"}


class TrainingRefused(LinkcastError):
    """A table that no useful model can be learnt from."""


class TrainingTable(NamedTuple):
    """n rows in any order."""

    features: NDArray[np.float32]  # (n, 24) in the order of `contract.FEATURES`, NaN missing
    ts: NDArray[np.int64]  # (n,) ms
    link: NDArray[np.int64]  # (n,) both ports of a link share one code
    targets: Targets
    known_until: int  # ms, until when outcomes are known
    source: str  # in words, for the manifest


class _Sample(NamedTuple):
    rows: NDArray[np.intp]  # (m,) indices into the table, ascending
    weight: NDArray[np.float64]  # (m,) how many rows of the table each one stands for


def train_bundle(
    table: TrainingTable,
    out: Path,
    key: Ed25519PrivateKey,
    *,
    created_at: int,
    base_rate: float | None = None,
    parent: str | None = None,
    seed: int = 0,
) -> Path:
    """Train on `table` and return the folder of the signed bundle, written below `out`.

    `base_rate` is the share of rows with an incident under way or within the horizon where the bundle will run; give
    it when the table has more incidents than life does (simulator profile `train`), else risk is far too high. Default:
    the table's own. `TrainingRefused` or `SplitRefused` where the table has too little to learn from.
    """
    part = split(table.ts, table.link, known_until=table.known_until, seed=seed)
    is_incident = table.targets.code > 0
    observed = float(is_incident[(part == TRAIN) | (part == VALIDATION)].mean())
    _check(table, part)
    base_rate = observed if base_rate is None else base_rate
    taught = _sample(table.targets.code, part == TRAIN, ROWS_MAX, seed)
    held_out = _sample(table.targets.code, part == VALIDATION, ROWS_MAX // 2, seed)
    risk = _fit(_RISK, table.features, is_incident, taught, held_out, seed)
    classifier, class_weight = _fit_classifier(table, taught, held_out, seed)
    forests = Forest.from_booster(classifier), Forest.from_booster(risk)
    calibration = _calibration(table, held_out, forests, class_weight, base_rate)
    test = np.flatnonzero(part == TEST)
    scores = calibrated(calibration, *(forest.margins(table.features[test]) for forest in forests))
    assert scores.probabilities is not None
    evaluation: Figures = {
        **evaluate(table.targets.at(test), scores.risk, scores.probabilities, base_rate),
        "rows_train": float((part == TRAIN).sum()),
        "rows_validation": float((part == VALIDATION).sum()),
        "rows_test": float(test.size),
        "trees_classifier": float(forests[0].roots.size),
        "trees_risk": float(forests[1].roots.size),
    }
    used = part != UNUSED
    return write_bundle(
        out,
        classifier=classifier,
        risk=risk,
        calibration=calibration,
        training=Training(
            source=table.source,
            start=int(table.ts[used].min()),
            end=int(table.ts[used].max()),
            rows=int(used.sum()),
            horizon_ms=HORIZON_MS,
            base_rate=base_rate,
        ),
        evaluation=evaluation,
        golden_rows=_golden_rows(table.features[test]),
        created_at=created_at,
        key=key,
        parent=parent,
    )


def _check(table: TrainingTable, part: NDArray[np.int8]) -> None:
    for code, name in ((TRAIN, "train"), (VALIDATION, "validation"), (TEST, "test")):
        found = np.unique(table.targets.code[part == code])
        if 0 not in found or not ((found > 0) & (found < HARD_DOWN)).any():
            raise TrainingRefused(
                f"the {name} part of {table.source} has no healthy row or no incident of any class. Give more links "
                f"or hours, or simulate with the profile 'train'."
            )


def _sample(code: NDArray[np.int8], among: NDArray[np.bool_], rows_max: int, seed: int) -> _Sample:
    # Half for healthy rows, and half for the others in equal quotas: what is rare is kept whole.
    rng = np.random.default_rng(seed)
    rows, weight = [], []
    for target in np.unique(code[among]):
        of_target = np.flatnonzero(among & (code == target))
        quota = rows_max // 2 if target == 0 else rows_max // (2 * HARD_DOWN)
        kept = rng.choice(of_target, min(quota, of_target.size), replace=False, shuffle=False)
        rows.append(kept)
        weight.append(np.full(kept.size, of_target.size / kept.size))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return _Sample(np.concatenate(rows)[order], np.concatenate(weight)[order])


def _by_incident(targets: Targets, sample: _Sample) -> _Sample:
    # Rows of one incident are near copies, and one link that loses packets for a day would outweigh all the others: so
    # every incident counts alike, however long it lasts, and health as much as all of them.
    classed = targets.code[sample.rows] != HARD_DOWN
    rows, weight = sample.rows[classed], sample.weight[classed]
    incident = targets.incident[rows] + 1
    weight = weight / np.bincount(incident, weight)[incident]
    weight[incident == 0] *= np.unique(incident).size - 1
    return _Sample(rows, weight)


def _fit_classifier(
    table: TrainingTable, taught: _Sample, held_out: _Sample, seed: int
) -> tuple[xgb.Booster, NDArray[np.float64]]:
    code = table.targets.code
    taught, held_out = _by_incident(table.targets, taught), _by_incident(table.targets, held_out)
    # The root of what would make classes equally heavy: equal ones blow up the noise of a class of a few incidents.
    # Calibration takes it out again.
    heavy = np.bincount(code[taught.rows], taught.weight, minlength=len(CLASSES))
    class_weight: NDArray[np.float64] = np.sqrt(heavy.sum() / np.maximum(heavy, 1.0))

    def weighted(sample: _Sample) -> _Sample:
        weight = sample.weight * class_weight[code[sample.rows]]
        return _Sample(sample.rows, weight / weight.mean())

    return _fit(_CLASSIFIER, table.features, code, weighted(taught), weighted(held_out), seed), class_weight


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
        params | {"seed": seed}, data, _ROUNDS, evals=[(watch, "held_out")], callbacks=[stop], verbose_eval=False
    )


def _calibration(
    table: TrainingTable,
    held_out: _Sample,
    forests: tuple[Forest, Forest],
    class_weight: NDArray[np.float64],
    base_rate: float,
) -> Calibration:
    X, code = table.features[held_out.rows], table.targets.code[held_out.rows]
    slope, intercept = fit_platt(forests[1].margins(X)[:, 0].astype(np.float64), code > 0, held_out.weight)
    if slope <= 0.0:
        raise TrainingRefused(
            f"risk learnt from {table.source} ranks other links and hours no better than chance. Give more incidents."
        )
    rate = float(np.average(code > 0, weights=held_out.weight))
    faults = _by_incident(table.targets, held_out)
    faults = _Sample(faults.rows[is_fault := table.targets.code[faults.rows] > 0], faults.weight[is_fault])
    offset = -np.log(class_weight)
    scale = fit_scale(
        forests[0].margins(table.features[faults.rows])[:, 1:].astype(np.float64),
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
