"""The JSON of an invocation to rows of features, and their scores to JSON.

    {"features": {"utilization": 42.5, "latency_p99": null}}    one row, answered by one object
    {"rows": [{"utilization": 42.5}, …]}                        answered by {"rows": [one object a row, in order]}

A name that is left out or null is missing. What can't be a row is refused whole, with the place: a row that is scored
without half its values, because a name was mistyped, would look like any other.
"""

from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from online.models.bundle import Bundle
from online.models.scoring import calibrated
from streams.contract import CLASSES, FEATURES, LinkcastError

CONTENT_TYPE = "application/json"
ROWS_MAX = 1_024
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# Beyond float32 a number would become an infinity on its way to the trees; JSON itself has no NaN.
_Value = Annotated[float, Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
_Row: Any = msgspec.defstruct(
    "_Row", [(name, _Value | None, None) for name in FEATURES], frozen=True, forbid_unknown_fields=True
)


class RowsRefused(LinkcastError):
    """A body that is no rows of features."""


class OtherContentType(RowsRefused):
    """A body that isn't sent as JSON."""


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    features: _Row | None = None
    rows: Annotated[list[_Row], Meta(min_length=1, max_length=ROWS_MAX)] | None = None


class Answer(msgspec.Struct, frozen=True):
    """The score of one row."""

    class_: str = msgspec.field(name="class")  # the most probable class
    risk: float  # 0 to 100, not rounded: the bits of the worker's scorer
    confidence: float  # 0 to 1, probability of the class
    probabilities: dict[str, float]  # of all classes
    model: str  # version of the bundle


_decode = msgspec.json.Decoder(_Body).decode
_encode = msgspec.json.Encoder().encode


def answered(bundle: Bundle, content_type: str | None, body: bytes) -> bytes:
    """Return the answer to an invocation as JSON; `RowsRefused` says what is wrong with it."""
    X, is_single = read_rows(content_type, body)
    answers = scored(bundle, X)
    return _encode(answers[0] if is_single else {"rows": answers})


def read_rows(content_type: str | None, body: bytes) -> tuple[NDArray[np.float32], bool]:
    """Return the rows, shape (n, 24), NaN where missing, and whether it is one that was sent by itself."""
    if (content_type or "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise OtherContentType(f"content type {content_type!r}: send {CONTENT_TYPE}")
    try:
        sent = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RowsRefused(str(error)) from error
    if (sent.features is None) == (sent.rows is None):
        raise RowsRefused('send either {"features": {name: number or null}} or {"rows": [{name: number or null}, …]}')
    rows: list[Any] = [sent.features] if sent.rows is None else sent.rows
    # NumPy makes a NaN of None, which is what missing is to the trees.
    X = np.array([msgspec.structs.astuple(row) for row in rows], np.float32)
    if (empty := np.flatnonzero(np.isnan(X).all(axis=1))).size:
        raise RowsRefused(f"row {empty[0]} has no value at all: nothing can be said of it")
    return X, sent.rows is None


def scored(bundle: Bundle, X: NDArray[np.float32]) -> list[Answer]:
    """Score rows, shape (n, 24), by both boosters, as `online.models.scoring.Scorer` does."""
    scores = calibrated(bundle.manifest.calibration, bundle.classifier.margins(X), bundle.risk.margins(X))
    assert scores.probabilities is not None  # only the rules have none
    answers = zip(
        scores.code.tolist(), scores.risk.tolist(), scores.confidence.tolist(), scores.probabilities.tolist(),
        strict=True,
    )  # fmt: skip
    return [
        Answer(CLASSES[code], risk, confidence, dict(zip(CLASSES, probabilities, strict=True)), bundle.version)
        for code, risk, confidence, probabilities in answers
    ]
