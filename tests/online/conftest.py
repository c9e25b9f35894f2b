from types import SimpleNamespace

import numpy as np
import pytest
import xgboost as xgb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from online.models.bundle import Calibration, Training, write_bundle

CREATED_AT_MS = 1_795_392_000_000  # 2026-11-23


@pytest.fixture(scope="session")
def signing_key():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture(scope="session")
def trained():
    """Small boosters of the right kind: class 5 follows feature 5, class 7 feature 7; risk follows both."""
    rng = np.random.default_rng(11)
    X = rng.normal(size=(4_000, 24)).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = np.where(X[:, 5] > 1, 5, np.where(X[:, 7] > 1, 7, 0))
    vector_leaves = {"objective": "multi:softprob", "num_class": 11, "multi_strategy": "multi_output_tree"}
    return SimpleNamespace(
        classifier=xgb.train(vector_leaves | {"max_depth": 4}, xgb.DMatrix(X, y), 20),
        risk=xgb.train({"objective": "binary:logistic", "max_depth": 4}, xgb.DMatrix(X, y > 0), 20),
        X=X,
    )


@pytest.fixture(scope="session")
def write(trained, signing_key):
    """Write a bundle of the small boosters to a folder; keywords replace what it says."""

    def _write(out, **changed):
        said = {
            "classifier": trained.classifier,
            "risk": trained.risk,
            "calibration": Calibration(risk_slope=1.0, risk_intercept=0.0, class_scale=1.0, class_offset=(0.0,) * 11),
            "training": Training(source="a toy", start=0, end=1, rows=4_000, horizon_ms=3_600_000, base_rate=0.3),
            "evaluation": {"roc_auc": 0.9, "diagnosis_recall": {"latency_spike": None}},
            "golden_rows": trained.X[:40],
            "created_at": CREATED_AT_MS,
            "key": signing_key,
        }
        return write_bundle(out, **(said | changed))

    return _write
