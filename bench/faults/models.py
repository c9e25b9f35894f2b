"""Models for the workers of a scenario, each of them new, and for the oracle by their versions."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench import score
from bench.faults.feed import START_MS
from online.models.bundle import Calibration, Training, load_bundle, write_bundle
from online.models.keys import load_or_create_key, load_trusted_keys
from online.models.scoring import Scorer


def bundles(home: Path, seed: int) -> Iterator[Path]:
    """Yield bundles without end, of two small models in turn, signed by the key that the workers of `home` trust."""
    rng = np.random.default_rng(seed)
    key = load_or_create_key(home / "keys" / "signing.key")
    golden_rows = rng.normal(size=(40, 24)).astype(np.float32)
    boosters = itertools.cycle(score.boosters(rng, trees=5, depth=4) for _ in range(2))
    for created_at, (classifier, risk) in enumerate(boosters, START_MS):
        yield write_bundle(
            home / "models",
            classifier=classifier,
            risk=risk,
            calibration=Calibration(risk_slope=1, risk_intercept=0, class_scale=1, class_offset=(0,) * 11),
            training=Training(source="a toy", start=0, end=1, rows=20_000, horizon_ms=1, base_rate=0.5),
            evaluation={},
            golden_rows=golden_rows,
            created_at=created_at,
            key=key,
        )


def loader(home: Path) -> Callable[[str], Scorer]:
    """Return what reads a bundle of `bundles` by its version."""
    return lambda version: Scorer(load_bundle(home / "models" / version, load_trusted_keys(home / "keys")))
