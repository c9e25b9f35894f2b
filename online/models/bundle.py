"""A model as a folder that can be trusted: two boosters, a manifest of all they rest on, and a signature over it.

    20261123-1f4c9a0b/  classifier.ubj  risk.ubj  manifest.json  manifest.sig

The signature (Ed25519) covers the manifest, the manifest covers the rest by SHA-256. Nothing is parsed before its
signature holds, because native model parsers can be attacked too (LightGBM #7357, an out-of-bounds write from a crafted
model), and nothing is ever unpickled. Last come golden rows: our kernel and XGBoost itself must both give the margins
of the training machine, bit for bit.
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import xgboost as xgb
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta
from numpy.typing import NDArray

from online.episodes import CLOSED_BELOW_RISK, OPENED_FROM_RISK
from online.models import booster_file
from online.models.files import read_regular, sync_folder, write_whole
from online.models.trees import Forest
from streams.contract import CLASSES, FEATURES, EventTimeMs, LinkcastError, ModelVersion, Offset
from streams.features.fingerprints import features_sha256

FEATURE_SET = "core"

DRIVERS_FROM_RISK = 80.0
THRESHOLDS = {"opened_from": OPENED_FROM_RISK, "closed_below": CLOSED_BELOW_RISK, "drivers_from": DRIVERS_FROM_RISK}
"""The risks at which something happens; a bundle's evaluation holds for these."""

_MANIFEST, _SIGNATURE = "manifest.json", "manifest.sig"
_MODELS = {"classifier.ubj": len(CLASSES), "risk.ubj": 1}  # outputs of each
MANIFEST_BYTES_MAX = 1 << 20
# Loaded, a model takes 4.4 times its file (20 MB: 87): 70 MiB at most. `linkcast train` makes none above 2 MB.
_SIZES_MAX = {_MANIFEST: MANIFEST_BYTES_MAX, _SIGNATURE: 64} | dict.fromkeys(_MODELS, 16 << 20)

Figures = dict[str, float | dict[str, float | None] | None]
"""Measured figures by name, some of them by class; null is unknown."""
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class BundleRefused(LinkcastError):
    """A bundle that can't be trusted, or would score wrongly here. Its message is one line, whatever is in it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    r"""Return text from outside for a line of a log: control characters escaped, what is long cut in its middle.

    >>> one_line("v7\nmodel v8 scores from now on"), len(one_line("v" * 100_000))
    ('v7\\nmodel v8 scores from now on', 803)
    """
    return _cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in _cut(text)))


def _cut(text: str) -> str:
    return text if len(text) <= 800 else f"{text[:500]} … {text[-300:]}"  # the end says what to do


class File(msgspec.Struct, frozen=True):
    """What a file of the bundle must be."""

    sha256: _Sha256
    bytes: int


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """From margins to probabilities: Platt's sigmoid for risk, temperature and prior per class for the classifier.

    P(incident) = sigmoid(risk_slope · margin + risk_intercept); P(class k) of a fault is proportional to
    exp(class_scale · margin_k + class_offset_k).
    """

    risk_slope: Annotated[float, Meta(gt=0)]
    risk_intercept: float
    class_scale: Annotated[float, Meta(gt=0)]
    class_offset: Annotated[tuple[float, ...], Meta(min_length=len(CLASSES), max_length=len(CLASSES))]


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle was trained on."""

    source: str  # in words: which recordings or topics, which profile of a simulation
    start: EventTimeMs
    end: EventTimeMs
    rows: int  # before sampling
    horizon_ms: int  # how far ahead the targets look
    base_rate: float  # share of rows with an incident under way or within the horizon that risk is calibrated to
    offsets: dict[str, tuple[Offset, Offset]] = {}  # by topic-partition: first offset read, and the next one; {}: none


class SignalReference(msgspec.Struct, frozen=True, kw_only=True):
    """What is usual of one signal of the fleet, per 5 min of event time: an AR(1) around its mean."""

    mean: float
    sd: Annotated[float, Meta(ge=0)]
    ar1: Annotated[float, Meta(gt=-1, lt=1)]  # correlation with the 5 min before


class DriftReference(msgspec.Struct, frozen=True, kw_only=True):
    """What drift is told against until a fabric has one of its own: the fleet's signals and the model's own quality."""

    signals: dict[str, SignalReference]
    skill: Annotated[float, Meta(ge=-1, le=1)]  # hit rate less placebo rate, on held-out data
    false_time: Annotated[float, Meta(ge=0, le=1)]  # share of quiet port-time in false episodes, on the same


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Rows and their margins as XGBoost gave them when it was trained; little-endian float32, row by row."""

    rows: bytes  # (n, 24), NaN where missing
    classifier: bytes  # (n, 11)
    risk: bytes  # (n, 1)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a bundle's scores rest on."""

    v: Annotated[int, Meta(ge=1, le=1)] = 1
    created_at: EventTimeMs
    files: dict[str, File]
    xgboost: str
    feature_set: str
    features: tuple[str, ...]
    feature_code: _Sha256
    classes: tuple[str, ...]
    thresholds: dict[str, float]
    calibration: Calibration
    training: Training
    evaluation: Figures
    golden: Golden
    parent: ModelVersion | None = None  # version of the bundle that this one was trained to replace
    reference: DriftReference | None = None


class Bundle(NamedTuple):
    """A bundle that passed every check."""

    version: str
    manifest: Manifest
    classifier: Forest
    risk: Forest
    risk_booster: xgb.Booster  # the same trees, for SHAP


def write_bundle(
    out: Path,
    *,
    classifier: xgb.Booster,
    risk: xgb.Booster,
    calibration: Calibration,
    training: Training,
    evaluation: Figures,
    golden_rows: NDArray[np.float32],
    created_at: int,
    key: Ed25519PrivateKey,
    parent: str | None = None,
    reference: DriftReference | None = None,
) -> Path:
    """Write a signed bundle to `out/VERSION` and return that folder; it appears whole or not at all.

    `golden_rows` has shape (n, 24) with n ≥ 1. The version is the UTC date of `created_at` (ms) and the first 8 hex
    digits of the manifest's SHA-256, so the same training at the same time has the same version. `parent` is the
    version of the bundle that it is to replace.
    """
    files = dict(zip(_MODELS, (bytes(classifier.save_raw("ubj")), bytes(risk.save_raw("ubj"))), strict=True))
    manifest = Manifest(
        created_at=created_at,
        files={name: File(hashlib.sha256(content).hexdigest(), len(content)) for name, content in files.items()},
        xgboost=xgb.__version__,
        feature_set=FEATURE_SET,
        features=FEATURES,
        feature_code=features_sha256(),
        classes=CLASSES,
        thresholds=THRESHOLDS,
        calibration=calibration,
        training=training,
        evaluation=evaluation,
        golden=Golden(
            rows=golden_rows.astype("<f4").tobytes(),
            classifier=native_margins(classifier, golden_rows).astype("<f4").tobytes(),
            risk=native_margins(risk, golden_rows).astype("<f4").tobytes(),
        ),
        parent=parent,
        reference=reference,
    )
    files[_MANIFEST] = msgspec.json.encode(manifest, order="sorted")
    files[_SIGNATURE] = key.sign(files[_MANIFEST])
    return _place(out / _version(manifest, files[_MANIFEST]), files)


def native_margins(booster: xgb.Booster, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return XGBoost's own margins of the rows of `X`, shape (n, 24), as shape (n, k)."""
    margins = booster.predict(xgb.DMatrix(X, nthread=1), output_margin=True, validate_features=False)
    return np.asarray(margins, np.float32).reshape(len(X), -1)


def _version(manifest: Manifest, content: bytes) -> str:
    day = datetime.fromtimestamp(manifest.created_at / 1000, UTC)
    return f"{day:%Y%m%d}-{hashlib.sha256(content).hexdigest()[:8]}"


def _place(folder: Path, files: Mapping[str, bytes]) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
            whole = Path(scratch) / folder.name
            whole.mkdir()
            for name, content in files.items():
                write_whole(whole / name, content, mode=0o666, replace=True)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.is_dir():  # already there: the version is a hash of the content, so it is the same bundle
                    raise
            sync_folder(folder.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error  # not the scratch folder, gone by now
    return folder


def load_bundle(folder: Path, trusted_keys: Sequence[Ed25519PublicKey]) -> Bundle:
    """Return the bundle in `folder` if one of `trusted_keys` signed it and it scores here as it did when trained.

    Checks sizes, signature, hashes, versions, and then the models' form before XGBoost parses them, and last compares
    the golden rows; `BundleRefused` names the check that failed.
    """
    files = {name: _read(folder / name, size_max) for name, size_max in _SIZES_MAX.items()}
    _check_signature(folder, files, trusted_keys)
    try:
        manifest = msgspec.json.decode(files[_MANIFEST], type=Manifest)
    except ValueError as error:
        raise BundleRefused(
            f"{folder / _MANIFEST}: {error}. It was written by another version of linkcast: retrain the bundle."
        ) from error
    _check_hashes(folder, manifest, files)
    _check_versions(folder, manifest)
    (classifier, classifier_forest), (risk, risk_forest) = (
        _parse(folder / name, files[name], n_outputs) for name, n_outputs in _MODELS.items()
    )
    _check_golden(folder, manifest.golden, (classifier, risk), (classifier_forest, risk_forest))
    return Bundle(_version(manifest, files[_MANIFEST]), manifest, classifier_forest, risk_forest, risk)


def _read(path: Path, size_max: int) -> bytes:
    try:
        content = read_regular(path, size_max + 1)
    except OSError as error:
        raise BundleRefused(
            f"{path}: {error.strerror}. A bundle has {', '.join(_SIZES_MAX)}: copy it whole."
        ) from error
    if len(content) > size_max:
        raise BundleRefused(f"{path}: larger than {size_max} bytes. Train fewer or shallower trees.")
    return content


def _check_signature(folder: Path, files: Mapping[str, bytes], trusted_keys: Sequence[Ed25519PublicKey]) -> None:
    for key in trusted_keys:
        try:
            key.verify(files[_SIGNATURE], files[_MANIFEST])
        except InvalidSignature:
            continue
        return
    raise BundleRefused(
        f"{folder / _MANIFEST}: signed by none of the {len(trusted_keys)} trusted keys. If you trust whoever trained "
        f"it, add their public key to the trusted ones; if you trained it, it was changed: copy it again."
    )


def _check_hashes(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    if sorted(manifest.files) != sorted(_MODELS):
        raise BundleRefused(f"{folder / _MANIFEST}: lists {sorted(manifest.files)}, not {sorted(_MODELS)}: retrain it.")
    for name, file in manifest.files.items():
        if len(files[name]) != file.bytes or hashlib.sha256(files[name]).hexdigest() != file.sha256:
            raise BundleRefused(f"{folder / name}: size or SHA-256 is not the signed one. Copy the bundle again.")


def _check_versions(folder: Path, manifest: Manifest) -> None:
    # An older minor loads a newer model without an error and scores it wrongly.
    if manifest.xgboost.split(".")[:2] != xgb.__version__.split(".")[:2]:
        raise BundleRefused(
            f"{folder}: trained with xgboost {manifest.xgboost}, this process runs {xgb.__version__}; scores would "
            f"shift without an error. Install xgboost=={manifest.xgboost} or retrain the bundle."
        )
    trained = (manifest.feature_set, manifest.features, manifest.classes, manifest.thresholds, manifest.feature_code)
    running = (FEATURE_SET, FEATURES, CLASSES, THRESHOLDS, features_sha256())
    names = ("feature set", "features", "classes", "thresholds", "feature code")
    for name, ours, theirs in zip(names, running, trained, strict=True):
        if ours != theirs:
            raise BundleRefused(
                f"{folder}: trained with {name} {theirs}, this process has {ours}. Run the version of linkcast that "
                f"trained it, or retrain the bundle."
            )


def _parse(path: Path, content: bytes, n_outputs: int) -> tuple[xgb.Booster, Forest]:
    booster = xgb.Booster({"nthread": 1})
    try:
        saved = booster_file.read(content)
        if (saved.n_features, saved.n_outputs) != (len(FEATURES), n_outputs):
            raise ValueError(f"{saved.n_features} features to {saved.n_outputs} outputs")
        booster.load_model(bytearray(content))
        return booster, Forest.from_saved(saved)
    except (xgb.core.XGBoostError, ValueError) as error:
        raise BundleRefused(f"{path}: {str(error).partition(chr(10))[0]}. Retrain the bundle.") from error


def _check_golden(folder: Path, golden: Golden, boosters: Sequence[xgb.Booster], forests: Sequence[Forest]) -> None:
    if not golden.rows or len(golden.rows) % (4 * len(FEATURES)):
        raise BundleRefused(f"{folder}: has no golden rows to hold its scores to. Retrain the bundle.")
    rows = np.frombuffer(golden.rows, "<f4").reshape(-1, len(FEATURES)).astype(np.float32)
    for booster, forest, expected in zip(boosters, forests, (golden.classifier, golden.risk), strict=True):
        for scorer, margins in (("XGBoost", native_margins(booster, rows)), ("our kernel", forest.margins(rows))):
            if margins.astype("<f4").tobytes() != expected:
                raise BundleRefused(
                    f"{folder}: {scorer} gives other margins on the golden rows than where it was trained. This "
                    f"machine would score wrongly: retrain on it, and report the difference."
                )
