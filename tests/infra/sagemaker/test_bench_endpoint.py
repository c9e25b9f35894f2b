"""The benchmark at a tiny size: its answers are checked, and a wrong one counts."""

import msgspec
import numpy as np
import pytest

from bench import endpoint
from infra.sagemaker.rows import answered
from online.models.bundle import load_bundle


@pytest.fixture
def home(write, environment, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "signing.key.pub").write_text(next(iter(environment.values())))
    return write(tmp_path / "models")


def test_each_answer_over_http_has_the_bits_of_the_workers_scorer(home):
    figures = endpoint.bench(rate=50, seconds=1.0, closed_s=0.2, model=home)

    assert (figures["requests"], figures["differing"], figures["model"]) == (50, 0, home.name)
    assert figures["p50_ms"] > 0
    assert all(rows > 0 for rows in figures["rows_per_s"].values())


def test_one_bit_of_one_answer_is_counted(home, signing_key):
    bundle = load_bundle(home, [signing_key.public_key()])
    X = endpoint._rows(bundle, 3)
    served = endpoint.Served(0, None, bundle, X)
    bodies = [answered(bundle, "application/json", endpoint.body_of(x)) for x in X]
    assert endpoint._differing(served, bodies) == 0

    answer = msgspec.json.decode(bodies[1])
    answer["risk"] = float(np.nextafter(answer["risk"], 100))
    assert endpoint._differing(served, [bodies[0], msgspec.json.encode(answer), bodies[2]]) == 1
