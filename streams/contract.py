"""The records of every topic: the one contract between producers, workers, operators and the Lambda.

Free of NumPy and Kafka, so that anything may import it. Times are integer milliseconds since the epoch, UTC. A
missing or null metric is *missing*, never zero. Within version 1 a field may be added with a default; none is
renamed, retyped, reused or removed. `docs/asyncapi.json` is generated from here (`python -m streams.asyncapi`).
"""

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

VERSION: Literal[1] = 1

HEALTHY = "healthy"
FaultClass = Literal[
    "performance_degradation",
    "anomaly_detected",
    "resource_saturation",
    "connection_instability",
    "packet_loss_detected",
    "latency_spike",
    "bandwidth_throttling",
    "qp_error_rate_high",
    "memory_registration_failure",
    "rdma_timeout",
]
Class = Literal["healthy", FaultClass]
FAULT_CLASSES: tuple[str, ...] = get_args(FaultClass)
CLASSES = (HEALTHY, *FAULT_CLASSES)
"""Class codes: index 0 is healthy, 1 to 10 are the fault classes of the spec in its order."""

METRICS = ("latency_p99", "utilization", "error_rate", "bandwidth_gbps", "qp_errors", "mr_failures")
"""The metrics of an event, in the order of every metric array here."""

FEATURES = (
    "latency_p99",
    "utilization",
    "error_rate",
    "bandwidth_gbps",
    "qp_errors",
    "latency_p99_5m_avg",
    "latency_p99_5m_std",
    "latency_p99_15m_avg",
    "latency_p99_1h_avg",
    "utilization_5m_avg",
    "latency_p99_delta_pct",
    "latency_p99_delta_abs",
    "utilization_delta_pct",
    "bandwidth_delta_pct",
    "latency_p99_rate",
    "latency_p99_accel",
    "utilization_rate",
    "hour",
    "day_of_week",
    "is_weekend",
    "is_business_hours",
    "latency_x_utilization",
    "error_x_bandwidth",
    "health_score",
)
"""The feature set `core`, in the order of every feature array here."""

STREAM_ID_BYTES_MAX = 200
EVENT_TIME_MS_MAX = 4_102_444_800_000
"""2100-01-01: an event time beyond it is microseconds or nanoseconds sent for milliseconds."""

EventTimeMs = Annotated[int, Meta(ge=0, le=EVENT_TIME_MS_MAX, description="Event time, Unix epoch, UTC, milliseconds")]
StreamId = Annotated[
    str,
    Meta(min_length=1, max_length=STREAM_ID_BYTES_MAX, description="node/port, 1 to 200 bytes of printable text"),
]
NonNegative = Annotated[float, Meta(ge=0, le=1e12)]  # the bound keeps every derived feature finite in float32
Percent = Annotated[float, Meta(ge=0, le=100)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Version = Annotated[Literal[1], Meta(description="Version of the record; an unknown one is a dead letter")]
Source = Annotated[str, Meta(pattern=r"^\d+:\d+:\d+$", description="partition:offset:index of the metric event")]


def _version() -> Literal[1]:
    # A factory and not a default: omit_defaults would leave the version out of the bytes.
    return VERSION


class LinkcastError(Exception):
    """The world's fault, told with what happened, where, and what to do. Never a caller's bug."""


def node_of(stream_id: str) -> str:
    """Return the key of a stream: its id up to the last slash, or all of it where there is none.

    >>> node_of("leaf-012/17"), node_of("host3/mlx5_0:1"), node_of("lonely")
    ('leaf-012', 'host3', 'lonely')
    """
    return stream_id.rpartition("/")[0] or stream_id


class MetricEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one port did up to `ts`, on topic `metrics`, keyed by node; alone or in an array of them (a sweep)."""

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    ts: EventTimeMs
    latency_p99: NonNegative | None = None  # µs; no port counter gives it, so null where nobody probes
    utilization: Percent | None = None  # % of the active link rate
    error_rate: Fraction | None = None  # errors per packet, a fraction and not percent
    bandwidth_gbps: NonNegative | None = None  # Gb/s of data, the larger of the two directions
    qp_errors: NonNegative | None = None  # queue-pair errors per 60 s, flush errors not counted
    mr_failures: NonNegative | None = None  # remote-access and registration failures per 60 s; feeds a rule only
    extra: dict[str, float] | None = None  # named numbers for the extended feature set: stall, recoveries, BER …


DeadReason = Literal[
    "not_json",
    "not_arrow",
    "wrong_type",
    "unknown_version",
    "out_of_range",
    "no_metric",
    "too_large",
    "too_deep",
    "too_late",
    "from_the_future",
    "too_many_streams",
    "empty_sweep",
    "bad_key",
    "tombstone",
    "no_time",
    "corrupt",
]
"""Why a record became a dead letter: the header `reason` on topic `metrics.dead`."""


class Driver(msgspec.Struct, frozen=True):
    """One feature's push on the risk of one prediction."""

    feature: str
    value: float | None  # the feature's own value, in its unit; null where it was missing
    contribution: float  # SHAP value on the risk model's margin, in log-odds


Change = Literal["opened", "worsened", "eased", "closed", ""]


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The score of one metric event, on topic `predictions`, keyed by node, on the event's own partition number."""

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    ts: EventTimeMs  # of the event that was scored
    class_: Class = msgspec.field(name="class")  # the most probable class
    risk: Percent  # 100 × calibrated probability that an incident is under way or starts within the horizon
    confidence: Fraction  # probability of `class`
    model: str  # version of the bundle that scored it; "rules" where no bundle was there yet
    src: Source  # of that event; the identity for dropping repeats
    probabilities: dict[str, float] | None = None  # by class, only when `class` is not healthy
    arm: Literal["champion", "canary"] = "champion"
    change: Change = ""  # by hysteresis on risk; what the Lambda acts on
    episode: str | None = None  # shared by all predictions of one incident
    drivers: list[Driver] | None = None  # the strongest first, only when risk ≥ 80


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What really happened to a stream, on topic `outcomes`, keyed by node."""

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    start: EventTimeMs
    class_: FaultClass | Literal["hard_down"] = msgspec.field(name="class")
    source: str  # who says so: an operator, a ticket, the fabric manager, the simulator
    end: EventTimeMs | None = None  # null while it lasts
    incident: str | None = None  # shared by all streams that one cause struck


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An expert's verdict on one sample, on topic `labels`, keyed by node; it overrides the rule label."""

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    ts: EventTimeMs  # of the sample
    class_: Class = msgspec.field(name="class")
    expert: str
    labelled_at: EventTimeMs
    risk: Percent | None = None
    note: str = ""


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A detector fired, on topic `drift`, keyed by stream or fleet scope."""

    v: Version = msgspec.field(default_factory=_version)
    scope: str  # a stream_id, or "fleet"
    feature: str
    channel: Literal["mean", "variance", "error"]
    ts: EventTimeMs  # of the event that raised the alarm
    changed_at: EventTimeMs  # estimate of when the change began
    statistic: NonNegative
    threshold: NonNegative
    size_sigma: float  # shift in standard deviations of the reference, signed
    reference: str  # version of the bundle that the reference belongs to


class Confusion(msgspec.Struct, frozen=True):
    """Counts of one class over matured predictions."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


class Scorecard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Confusion counts of champion and challenger over one interval of matured predictions, on topic `scorecards`."""

    v: Version = msgspec.field(default_factory=_version)
    partition: Annotated[int, Meta(ge=0)]
    start: EventTimeMs  # of the interval, by prediction time
    end: EventTimeMs
    champion: str
    by_class: dict[str, Confusion]
    challenger: str | None = None
    challenger_by_class: dict[str, Confusion] | None = None
    censored: Annotated[int, Meta(ge=0)] = 0  # predictions whose port was drained before the horizon passed


class RetrainRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a new model and its progress, on topic `retrain`, keyed by model name."""

    v: Version = msgspec.field(default_factory=_version)
    model: str
    job: str  # model, champion and cool-down bucket: the identity that makes one job of many alarms
    requested_at: EventTimeMs
    reason: str
    state: Literal["requested", "running", "done", "failed"] = "requested"
    detail: str = ""
    result: str | None = None  # version of the new bundle


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Pointer to a signed bundle, on topic `models`, keyed by version."""

    v: Version = msgspec.field(default_factory=_version)
    version: str
    location: str  # of the bundle's folder: a path or a file:// URL that each worker can read
    manifest_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    published_at: EventTimeMs


class RolloutState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who carries the fabric, on topic `rollout`, keyed by model name."""

    v: Version = msgspec.field(default_factory=_version)
    model: str
    champion: str
    ts: EventTimeMs  # of the decision
    stage: Literal["steady", "shadow", "canary", "rolled_back"] = "steady"
    challenger: str | None = None
    share_percent: Percent = 0
    salt: str = ""  # of hash(stream, rollout)
    why: str = ""
    numbers: dict[str, float] = {}
