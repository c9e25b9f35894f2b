"""Features to class, confidence and risk: the models' margins through our own calibration, the same live and offline.

Two models, one answer. The risk model alone says whether an incident is under way or near, the classifier which one if
so: P(fault k) = P(incident) · P(k | incident), P(healthy) = 1 − P(incident). So class and risk can't contradict each
other, and a base rate is corrected in one place.
"""

from typing import NamedTuple

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from online.models.bundle import DRIVERS_FROM_RISK, Bundle, Calibration
from streams.compiled import kernel
from streams.contract import CLASSES, FEATURES, Driver
from streams.features.kernel import Rows

DRIVERS_MAX = 5


class Scores(NamedTuple):
    """The answer for n rows."""

    code: NDArray[np.int8]  # (n,) an index into `contract.CLASSES`; a fault where risk is 50 or more
    confidence: NDArray[np.float64]  # (n,) probability of that class
    risk: NDArray[np.float64]  # (n,) 0 to 100
    probabilities: NDArray[np.float64] | None  # (n, 11) in the order of `contract.CLASSES`; None where rules spoke


class Scorer:
    """Scores with the two models of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.version = bundle.version
        self._bundle = bundle

    def score(self, rows: Rows) -> Scores:
        """Score `rows.features`; nothing else of the rows is looked at."""
        classifier, risk = self._bundle.classifier, self._bundle.risk
        return calibrated(
            self._bundle.manifest.calibration, classifier.margins(rows.features), risk.margins(rows.features)
        )

    def drivers(self, rows: Rows, scores: Scores) -> dict[int, list[Driver]]:
        """Return what pushed risk up or down, the strongest first, by index of the rows with risk of 80 or more.

        SHAP values of the risk model (Lundberg et al., Nature Machine Intelligence 2, 2020), in log-odds. Only the risk
        model's, because XGBoost 3.2 has no SHAP for vector leaves.
        """
        high = np.flatnonzero(scores.risk >= DRIVERS_FROM_RISK)
        if not high.size:
            return {}
        X = rows.features[high]
        data = xgb.DMatrix(X, nthread=1)
        shap = self._bundle.risk_booster.predict(data, pred_contribs=True, validate_features=False)
        return {int(row): _strongest(x, pushes[:-1]) for row, x, pushes in zip(high, X, shap, strict=True)}


def _strongest(x: NDArray[np.float32], pushes: NDArray[np.float32]) -> list[Driver]:
    order = np.argsort(-np.abs(pushes), kind="stable")[:DRIVERS_MAX]
    return [
        Driver(FEATURES[i], None if np.isnan(x[i]) else float(x[i]), float(pushes[i])) for i in order if pushes[i] != 0
    ]


class RulesScorer:
    """Stands in until a bundle is published: the rule label of each row is the answer."""

    version = "rules"

    def score(self, rows: Rows) -> Scores:
        """Return the rows' rule labels with their risk and confidence; rules know no probabilities."""
        return Scores(rows.label, rows.confidence, rows.rule_risk, None)

    def drivers(self, rows: Rows, scores: Scores) -> dict[int, list[Driver]]:
        """Return nothing: a rule is its own reason."""
        return {}


def calibrated(
    calibration: Calibration, class_margins: NDArray[np.float32], risk_margins: NDArray[np.float32]
) -> Scores:
    """Turn margins, shapes (n, 11) and (n, 1), into scores."""
    n = len(risk_margins)
    scores = Scores(np.empty(n, np.int8), np.empty(n), np.empty(n), probabilities := np.empty((n, len(CLASSES))))
    _calibrate(
        class_margins, risk_margins[:, 0], calibration.class_scale, np.array(calibration.class_offset),
        calibration.risk_slope, calibration.risk_intercept, scores.code, scores.confidence, scores.risk, probabilities,
    )  # fmt: skip
    return scores


@kernel
def _calibrate(
    class_margins: NDArray[np.float32],
    risk_margins: NDArray[np.float32],
    scale: float,
    offset: NDArray[np.float64],
    slope: float,
    intercept: float,
    code: NDArray[np.int8],
    confidence: NDArray[np.float64],
    risk: NDArray[np.float64],
    probabilities: NDArray[np.float64],
) -> None:
    # Row by row and never vectorised over rows: a row's bits don't depend on which batch it came in.
    for i in range(risk_margins.size):
        incident = 1.0 / (1.0 + np.exp(-(slope * risk_margins[i] + intercept)))
        p = probabilities[i]
        fault = 1
        for k in range(1, p.size):
            p[k] = scale * class_margins[i, k] + offset[k]
            if p[k] > p[fault]:
                fault = k
        highest, total = p[fault], 0.0
        for k in range(1, p.size):
            p[k] = np.exp(p[k] - highest)
            total += p[k]
        for k in range(1, p.size):
            p[k] *= incident / total
        p[0] = 1.0 - incident
        code[i] = fault if incident >= 0.5 else 0
        confidence[i] = p[code[i]]
        risk[i] = 100.0 * incident
