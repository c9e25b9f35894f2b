"""Who may share a group: members whose outputs rest on the same code, rules and time zone."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from online import episodes
from online.models import scoring, trees
from online.worker import prediction_json
from online.worker.service import WorkerSettings, outputs_sha256
from streams import contract, measures
from streams.features import labels, panes, record_batch, stream_table
from streams.features.labels import load_rules
from streams.wire import decode, events, scan


def settings(**changed) -> WorkerSettings:
    said = {
        "prefix": "",
        "group": "g",
        "time_zone": "UTC",
        "rules": load_rules(),
        "streams_max": 1,
        "trusted_keys": Path(),
        "health_host": "",
        "health_port": 0,
    }
    return WorkerSettings(**(said | changed))


@pytest.fixture(scope="module")
def ours() -> str:
    return outputs_sha256()


@pytest.mark.parametrize(
    ("module", "old", "new", "moves"),
    [
        (panes, "mean = shift + (", "mean = shift - (", True),
        (labels, "if op == 0:", "if op == 7:", True),
        (decode, "def decode(", "def decoded(", True),
        (scan, "def scan(", "def scanned(", True),
        (events, "import msgspec", "import msgspec\nX = 1", True),
        (episodes, "_STAYED_MS = 120_000", "_STAYED_MS = 120_001", True),
        (trees, "x >= node.threshold", "x > node.threshold", True),
        (scoring, "incident >= 0.5", "incident > 0.5", True),
        (prediction_json, "100.0)), 100, 2)", "100.0)), 100, 1)", True),
        (record_batch, "ROWS_MAX = 3_000", "ROWS_MAX = 2_999", True),
        (stream_table, "STREAMS_MAX = 200_000", "STREAMS_MAX = 100_000", True),
        (contract, '"latency_p99",', '"latency",', True),
        (measures, "SMALL_BATCH = 256", "SMALL_BATCH = 255", False),
        (labels, "so a missing operand never fires a rule", "and no rule fires", False),
    ],
)
def test_members_share_all_code_that_an_output_rests_on(
    edit: Callable[[ModuleType, str, str], None], ours: str, module: ModuleType, old: str, new: str, moves: bool
) -> None:
    edit(module, old, new)

    assert (outputs_sha256() != ours) is moves


def test_members_share_code_time_zone_and_rules(monkeypatch) -> None:
    monkeypatch.setattr("online.worker.service.outputs_sha256", lambda: "a" * 64)
    ours, rules = settings().member().computes, load_rules()

    assert settings(instance="another").member().computes == ours
    assert settings(time_zone="Europe/Berlin").member().computes != ours
    assert settings(rules=rules._replace(bound=rules.bound * 2)).member().computes != ours
    monkeypatch.setattr("online.worker.service.outputs_sha256", lambda: "f" * 64)
    assert settings().member().computes != ours
