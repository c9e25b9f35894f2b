"""Records of topic `predictions` as the Lambda takes them: checked strictly, or refused with a reason.

What is refused here will be refused at the next try as well, so it is a dead letter and never a retry.
"""

import base64
import binascii
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from streams.contract import EVENT_TIME_MS_MAX, FEATURES, STREAM_ID_BYTES_MAX, Class, LinkcastError, node_of

VALUE_BYTES_MAX = 64 * 1024
"""A prediction with all probabilities and drivers is below 4 KiB."""

Reason = Literal["tombstone", "not_base64", "too_large", "not_json", "unknown_version", "out_of_range", "wrong_type"]
"""Why a record became a dead letter: the header `reason`."""
ChangeKind = Literal["opened", "worsened", "eased", "closed"]


class RecordRefused(LinkcastError):
    """No prediction, and no retry will make it one."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


def _printable(text: str) -> str:
    if len(text.encode(errors="surrogatepass")) > STREAM_ID_BYTES_MAX:
        raise ValueError(f"longer than {STREAM_ID_BYTES_MAX} bytes")
    if not text or any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        raise ValueError("empty, or holds a character that can't be printed")
    return text


def _unset(value: Any) -> Any:
    return None if value == "" else value  # the contract writes "" for no change


Id = Annotated[str, AfterValidator(_printable)]
Percent = Annotated[float, Field(ge=0, le=100)]
Fraction = Annotated[float, Field(ge=0, le=1)]
EventTimeMs = Annotated[int, Field(ge=0, le=EVENT_TIME_MS_MAX)]
Source = Annotated[str, Field(pattern=r"^\d{1,10}:\d{1,19}:\d{1,10}$")]
FeatureName = Annotated[str, Field(min_length=1, max_length=64)]
FeatureValue = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]  # beyond float32 the trees would see an infinity
Features = Annotated[dict[FeatureName, FeatureValue | None], Field(max_length=4 * len(FEATURES))]


class Strict(BaseModel):
    """What is checked strictly, and frozen."""

    # NaN and infinity are in no field's range; what a later release adds is ignored, as the contract says.
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="ignore", populate_by_name=True)


class Driver(Strict):
    """One feature's push on the risk of one prediction."""

    feature: FeatureName
    value: float | None = None  # in the feature's own unit; None where it was missing
    push: Annotated[float, Field(alias="contribution")]  # SHAP value on the risk model's margin, log-odds


class _Event(Strict):
    v: Literal[1] = 1
    stream_id: Id
    ts: EventTimeMs  # event time
    src: Source  # partition:offset:index of the metric event; the identity for dropping repeats
    features: Features | None = None  # by name; None is missing

    @cached_property
    def node(self) -> str:
        """The stream's id up to its last slash."""
        return node_of(self.stream_id)


class Score(Strict):
    """What a scorer says of one event."""

    class_: Annotated[Class, Field(alias="class")]  # the most probable class
    risk: Percent
    confidence: Fraction  # probability of `class_`
    model: Annotated[str, Field(min_length=1, max_length=200)]
    probabilities: dict[Class, Fraction] | None = None


class Change(_Event, Score):
    """A scored metric event: a prediction's fields that the Lambda needs, and `features` where the Lambda scored it."""

    change: Annotated[ChangeKind | None, BeforeValidator(_unset)] = None
    episode: Annotated[str, Field(min_length=1, max_length=STREAM_ID_BYTES_MAX + 32)] | None = None
    drivers: Annotated[list[Driver], Field(max_length=100)] | None = None  # the strongest first

    @model_validator(mode="after")
    def _belongs_to_an_episode(self) -> "Change":
        if self.change and not self.episode:
            raise ValueError("a change without its episode")
        return self

    @cached_property
    def opened_at(self) -> int:
        """Event time in ms at which its episode was opened; its own where the episode does not say.

        >>> Change(stream_id="a/1", ts=9, src="0:0:0", class_="healthy", risk=70.0, confidence=0.9, model="m",
        ...        change="worsened", episode="a/1@5").opened_at
        5
        """
        at = (self.episode or "").rpartition("@")[2]
        return int(at) if at.isascii() and at.isdigit() and len(at) < 16 else self.ts

    @property
    def band(self) -> int:
        """The announced band of risk, ⌊risk / 10⌋, 9 at most."""
        return min(int(self.risk // 10), 9)


class Unscored(_Event):
    """A metric event with its features and no prediction: the Lambda has it scored."""

    features: Features

    @model_validator(mode="after")
    def _has_a_feature(self) -> "Unscored":
        if not self.known:
            raise ValueError("no feature with a value")
        return self

    @cached_property
    def known(self) -> dict[str, float]:
        """The features of the contract that have a value."""
        return {name: value for name in FEATURES if (value := self.features.get(name)) is not None}


class KafkaRecord(NamedTuple):
    """Where a record of an invocation came from, with its own bytes for the dead-letter topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


def read(value: bytes | None) -> Change | Unscored:
    """Return what a record says. Raises `RecordRefused` for a tombstone and for anything that is no prediction.

    >>> read(b'{"v":1,"stream_id":"a/1","ts":0,"src":"0:0:0","class":"healthy","risk":NaN,"confidence":1,"model":"m"}')
    Traceback (most recent call last):
    lambda_adapter.records.RecordRefused: out_of_range: risk: finite_number
    """
    if value is None:
        raise RecordRefused("tombstone", "a prediction is never deleted")
    if len(value) > VALUE_BYTES_MAX:
        raise RecordRefused("too_large", f"{len(value)} bytes, {VALUE_BYTES_MAX} at most")
    try:
        return Change.model_validate_json(value)
    except ValidationError as error:
        if any(e["type"] == "missing" and e["loc"] == ("class",) for e in error.errors(**_TERSE)):
            return _unscored(value)
        raise _refused(error) from None


def _unscored(value: bytes) -> Unscored:
    try:
        return Unscored.model_validate_json(value)
    except ValidationError as error:
        raise _refused(error) from None


_TERSE: Mapping[str, bool] = {"include_url": False, "include_context": False, "include_input": False}
_OUT_OF_RANGE = ("finite_number", "greater_than_equal", "less_than_equal", "string_too_long", "too_long")


def _refused(error: ValidationError) -> RecordRefused:
    """Return the first fault by field and kind. Never the input: telemetry text belongs in no header and no log."""
    first = error.errors(**_TERSE)[0]
    where, kind = str(first["loc"][0]) if first["loc"] else "", first["type"]
    if kind == "json_invalid":
        return RecordRefused("not_json", "the value is no JSON")
    if where == "v":
        return RecordRefused("unknown_version", "this Lambda reads version 1: deploy the release that writes it")
    reason: Reason = "out_of_range" if kind in _OUT_OF_RANGE else "wrong_type"
    return RecordRefused(reason, f"{where}: {kind}" if where else kind)


def bytes_of(text: str | None) -> bytes | None:
    """Return what base64 says, None for None. Raises `RecordRefused`."""
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordRefused("not_base64", str(error)) from None
