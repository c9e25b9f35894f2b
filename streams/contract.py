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
OutcomeClass = Literal[FaultClass, "hard_down"]
FAULT_CLASSES: tuple[str, ...] = get_args(FaultClass)
CLASSES = (HEALTHY, *FAULT_CLASSES)
"""Class codes: index 0 is healthy, 1 to 10 are the fault classes of the spec in its order."""

METRICS = (
    "latency_p99",
    "utilization",
    "error_rate",
    "bandwidth_gbps",
    "qp_errors",
    "mr_failures",
    "symbol_errors",
    "recoveries",
    "link_downed",
    "remote_errors",
    "discards",
    "stall",
)
"""The metrics of an event, in the order of every metric array here. The core features and the rules rest on the first
six; the others tell of a dying cable where nobody probes latency."""

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

MODEL_NAME = "linkcast"
"""The one model's name: the key of topics `retrain` and `rollout`."""

STREAM_ID_BYTES_MAX = 200
EVENT_TIME_MS_MIN = 946_684_800_000
"""2000-01-01: an event time before it is seconds sent for milliseconds."""
EVENT_TIME_MS_MAX = 4_102_444_800_000
"""2100-01-01: an event time beyond it is microseconds or nanoseconds sent for milliseconds."""
IDLE_MS = 25 * 3_600_000
"""A stream or counter that was silent for longer starts anew, and state without a snapshot is rebuilt from as far back.

Baselines are of 24 h, and the longest window reaches 1 h back: nothing older than both together would count any more.
"""

EventTimeMs = Annotated[int, Meta(ge=0, le=EVENT_TIME_MS_MAX, description="Event time, Unix epoch, UTC, milliseconds")]
SampleTimeMs = Annotated[
    int, Meta(ge=EVENT_TIME_MS_MIN, le=EVENT_TIME_MS_MAX, description="Event time, Unix epoch, UTC, milliseconds")
]
StreamId = Annotated[
    str,
    Meta(min_length=1, max_length=STREAM_ID_BYTES_MAX, description="node/port, 1 to 200 bytes of printable text"),
]
NonNegative = Annotated[float, Meta(ge=0, le=1e12)]  # the bound keeps every derived feature finite in float32
Percent = Annotated[float, Meta(ge=0, le=100)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Version = Annotated[Literal[1], Meta(description="Version of the record; an unknown one is a dead letter")]
Source = Annotated[
    str, Meta(pattern=r"^\d+:\d+:\d+$", max_length=41, description="partition:offset:index of the metric event")
]
Count = Annotated[int, Meta(ge=0, lt=2**53)]  # exact in any language's JSON, here and below
DurationMs = Annotated[int, Meta(ge=0, lt=2**53, description="Duration, milliseconds")]
Partition = Annotated[int, Meta(ge=0, lt=2**31)]
Offset = Annotated[int, Meta(ge=0, lt=2**53)]
ShortName = Annotated[str, Meta(min_length=1, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Words = Annotated[str, Meta(max_length=2_000)]
ModelVersion = Annotated[Name, Meta(description="Version of a bundle; `rules` where no bundle scored")]
Incident = Annotated[str, Meta(min_length=1, max_length=256, description="One cause, shared by all streams it struck")]
Numbers = Annotated[
    dict[ShortName, float | Annotated[dict[ShortName, float | None], Meta(max_length=64)] | None],
    Meta(max_length=64, description="Numbers by name, some of them by class as well; null is unknown"),
]


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
    ts: SampleTimeMs
    latency_p99: NonNegative | None = None  # µs; no port counter gives it, so null where nobody probes
    utilization: Percent | None = None  # % of the active link rate
    error_rate: Fraction | None = None  # errors per packet, a fraction and not percent
    bandwidth_gbps: NonNegative | None = None  # Gb/s of data, the larger of the two directions
    qp_errors: NonNegative | None = None  # queue-pair errors per 60 s, flush errors not counted
    mr_failures: NonNegative | None = None  # remote-access and registration failures per 60 s; feeds a rule only
    symbol_errors: NonNegative | None = None  # errors on the line per 60 s, before any packet is lost
    recoveries: NonNegative | None = None  # of the link by retraining, per 60 s
    link_downed: NonNegative | None = None  # failed recoveries that took the link down, per 60 s
    remote_errors: NonNegative | None = (
        None  # packets that arrived already marked bad, per 60 s: an earlier link's fault
    )
    discards: NonNegative | None = None  # packets that the port could not send, per 60 s
    stall: Fraction | None = None  # of the line rate, lost to waiting for credits
    extra: dict[str, float] | None = None  # further named numbers: bit error rate, temperature, rate …


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
Arm = Literal["champion", "canary"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The score of one metric event, on topic `predictions`, keyed by node, on the event's own partition number."""

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    ts: EventTimeMs  # of the event that was scored
    class_: Class = msgspec.field(name="class")  # the most probable class
    risk: Percent  # 100 × calibrated probability that an incident is under way or starts within the horizon
    probability: Fraction | None = None  # calibrated, of such an incident; null while nothing fills it in
    confidence: Fraction  # probability of `class`
    model: str  # version of the bundle that scored it; "rules" where no bundle was there yet
    src: Source  # of that event; the identity for dropping repeats
    probabilities: dict[str, float] | None = None  # by class, only when `class` is not healthy
    arm: Arm = "champion"
    change: Change = ""  # by hysteresis on risk; what the Lambda acts on
    episode: str | None = None  # shared by all predictions of one incident
    drivers: list[Driver] | None = None  # the strongest first, only when risk ≥ 80


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What really happened to one stream, on topic `outcomes`, keyed by node.

    Operators, tickets, fabric managers and the simulator write it; monitor and trainer read it. Identity: incident ×
    stream. A later one amends it, and counts for training alone once the incident was judged. Name the incident where
    its start may be amended.
    """

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    start: EventTimeMs
    class_: OutcomeClass = msgspec.field(name="class")
    source: Name  # who says so: an operator, a ticket, the fabric manager, the simulator
    end: EventTimeMs | None = None  # null while it lasts
    incident: Incident | None = None  # stream_id@start where it is left out
    severity: Name | None = None  # as the source grades it
    action_taken: Words | None = None  # what ended it: a cable swapped, a port drained

    def __post_init__(self) -> None:
        if self.end is not None and self.end < self.start:
            raise ValueError(f"end {self.end} is before start {self.start}: give both in ms, end null while it lasts")

    @property
    def incident_id(self) -> str:
        """The incident: as the sender named it, else one of this stream and start alone."""
        return self.incident or f"{self.stream_id}@{self.start}"

    @property
    def identity(self) -> tuple[str, str]:
        """Incident and stream."""
        return self.incident_id, self.stream_id


class Label(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An expert's verdict on one sample, on topic `labels`, keyed by node; it overrides the rule label.

    Review writes it; monitor and trainer read it. It judges the episode under way at `ts` and never makes an incident.
    Identity: stream × ts × expert. A later one amends it.
    """

    v: Version = msgspec.field(default_factory=_version)
    stream_id: StreamId
    ts: EventTimeMs  # of the sample
    class_: Class | Literal["false_positive"] = msgspec.field(name="class")  # the latter: the episode was a false alarm
    expert: Name
    labelled_at: EventTimeMs  # by the expert's clock
    risk: Percent | None = None  # as the expert sees it
    note: Words = ""

    @property
    def identity(self) -> tuple[str, int, str]:
        """Stream, event time and expert."""
        return self.stream_id, self.ts, self.expert


class Moments(msgspec.Struct, frozen=True):
    """Sums of one quantity. Added up over partitions they give the fleet's mean and variance."""

    count: Count  # of rows that have a value: what is missing counts nowhere
    sum: float
    sum_of_squares: Annotated[float, Meta(ge=0)]


class ModelSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What one model said in an interval, of every row and whoever was live."""

    risk: Moments
    episodes_opened: Count
    episodes_under_way: Count  # at the end of the interval


class ArmSignals(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm carried in an interval."""

    streams: Count
    predictions: Count
    scoring_ms: NonNegative  # CPU time it took to score them


class Signals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One partition over 5 min of event time, on topic `signals`, keyed by partition: what needs no truth.

    The monitor writes it once the partition's newest event is 2 min past the end; control reads it. Identity: partition
    × interval × models. The first counts.
    """

    v: Version = msgspec.field(default_factory=_version)
    partition: Partition
    start: EventTimeMs
    end: EventTimeMs  # excluded
    rows: Count
    streams: Count  # that had a row
    metrics: Annotated[dict[ShortName, Moments], Meta(max_length=64)]  # by the metric's name
    models: Annotated[dict[ModelVersion, ModelSignals], Meta(max_length=8)]  # champion and challenger, by version
    arms: Annotated[dict[Arm, ArmSignals], Meta(max_length=2)] = {}

    @property
    def identity(self) -> tuple[int, int, int, tuple[str, ...]]:
        """Partition, interval, and the models in the order of their versions."""
        return self.partition, self.start, self.end, tuple(sorted(self.models))


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model opened an episode, still has it open, or closed it: on topic `calls`, keyed by stream.

    The monitor writes it on the partition number of its source, for champion and challenger alike, whoever is live, and
    reads it again at a start. What is open is renewed every 6 h of event time, so that a start reads hours and not
    months. Identity: model × stream × opened_at × kind. Repeats are equal; of `renewed` the latest counts.
    """

    v: Version = msgspec.field(default_factory=_version)
    model: ModelVersion  # never a role: who is champion changes
    stream_id: StreamId
    opened_at: EventTimeMs
    kind: Literal["opened", "renewed", "closed"]
    ts: EventTimeMs  # of the row that opened, renewed or closed it
    class_: Class = msgspec.field(name="class")  # the most probable one where risk was highest
    highest_risk: Percent  # so far
    src: Source  # of the row at `ts`

    @property
    def identity(self) -> tuple[str, str, int, str]:
        """Model, stream, when it was opened, and what became of it."""
        return self.model, self.stream_id, self.opened_at, self.kind


class Called(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether one model called an incident, or a placebo, on any of its streams."""

    before_start: bool = False  # an episode opened within the horizon before the start
    while_it_lasted: bool = False  # one opened between start and end
    lead_ms: DurationMs | None = None  # from the earliest opening before the start to it; null where none was
    class_was_right: bool = False  # any of these episodes named the class of the incident

    @property
    def is_hit(self) -> bool:
        """Whether it counts as a hit: called before the start or while it lasted."""
        return self.before_start or self.while_it_lasted


class Placebo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The same streams some hours before an incident: a hit there is luck."""

    earlier_ms: DurationMs  # than the incident
    is_quiet: bool  # no incident of any of the streams was near; only quiet ones count
    champion: Called
    challenger: Called | None = None


class Unit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One matured incident as far as it struck one partition; units of one incident are joined over partitions.

    Joined, a model hit if it hit in any of them, and likewise each placebo, which is quiet if it is quiet in all. With
    h the hit and p the share of hits among quiet placebos, two at least, a model's skill is h − p; challenger ′ and
    champion differ by ½[(h′ − p′) − (h − p)].
    """

    incident: Incident
    class_: OutcomeClass = msgspec.field(name="class")
    start: EventTimeMs  # the earliest of its streams
    streams: Count  # that it struck in this partition
    is_covered: bool  # both models ran over all of it and its placebos; it counts only if so in each partition
    champion: Called
    challenger: Called | None = None
    placebos: Annotated[list[Placebo], Meta(max_length=8)] = []


class FalseEpisodes(msgspec.Struct, frozen=True, kw_only=True):
    """What one model raised for nothing in quiet port-time."""

    opened: Count
    port_ms: DurationMs  # spent in them within the interval, summed over ports


UNITS_MAX = 200
"""Of a scorecard, so that one of the longest names still fits a record of 1 MiB."""


class Scorecard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Champion and challenger side by side over one partition and interval, on topic `scorecards`, keyed by partition.

    The monitor writes it once the truth has matured: event time is past the horizon and the truth delay. Control reads
    it. Identity: partition × interval × champion × challenger. The first counts.
    """

    v: Version = msgspec.field(default_factory=_version)
    partition: Partition
    start: EventTimeMs
    end: EventTimeMs  # excluded
    champion: ModelVersion
    challenger: ModelVersion | None = None  # null while none is on trial
    units: Annotated[list[Unit], Meta(max_length=UNITS_MAX)] = []  # incidents that started in the interval
    units_left_out: Count = 0  # beyond `UNITS_MAX`, by incident; they count for nothing
    quiet_port_ms: DurationMs  # without an incident near, summed over ports
    champion_false: FalseEpisodes
    challenger_false: FalseEpisodes | None = None
    outcomes_late: Count = 0  # came after their unit was judged
    outcomes_censored: Count = 0  # the port was drained or fell silent before the horizon had passed
    outcomes_unknown: Count = 0  # of streams without a row of features

    @property
    def identity(self) -> tuple[int, int, int, str, str | None]:
        """Partition, interval, champion and challenger."""
        return self.partition, self.start, self.end, self.champion, self.challenger


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A detector fired, on topic `drift`, keyed by `subject`, or by `fleet`.

    The monitor writes those of nodes and streams, which are for operators; control writes and reads those of the fleet.
    Identity: scope × signal × channel × change time. Repeats are equal.
    """

    v: Version = msgspec.field(default_factory=_version)
    scope: Literal["fleet", "node", "stream"]
    subject: StreamId | None = None  # the node or stream; null for the fleet
    signal: ShortName  # a metric or feature, or `risk`, `calls_per_port`, `skill` …
    channel: Literal["mean", "variance", "error"]  # error: of matured mistakes
    ts: EventTimeMs  # of what raised the alarm
    changed_at: EventTimeMs  # estimate of when the change began
    detector: ShortName
    statistic: NonNegative | None = None  # null where the detector tells none
    threshold: NonNegative | None = None
    size_sigma: float  # shift in standard deviations of the reference, signed
    importance: Fraction | None = None  # the signal's share of what drives the champion's risk; null if no feature
    reference: ModelVersion  # the champion under which the reference was taken

    def __post_init__(self) -> None:
        if (self.scope == "fleet") != (self.subject is None):
            raise ValueError(f"scope {self.scope} with subject {self.subject}: name a node or a stream, the fleet none")

    @property
    def identity(self) -> tuple[str, str | None, str, str, int]:
        """Scope with its subject, signal, channel, and when the change began."""
        return self.scope, self.subject, self.signal, self.channel, self.changed_at


class RetrainRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request for a new model and what became of it, on topic `retrain`, keyed by `MODEL_NAME`.

    Control writes it before the job starts, and it is held until enough incidents have matured; the trainer reads it
    and writes its progress. Identity: job × state. A later one amends it, which is how progress is told.
    """

    v: Version = msgspec.field(default_factory=_version)
    model: Name
    champion: ModelVersion  # to be replaced
    bucket: EventTimeMs  # start of the cool-down bucket: many alarms in one make one job
    requested_at: EventTimeMs  # event time of the decision
    reason: Words
    state: Literal["held", "requested", "running", "done", "failed"]
    since: EventTimeMs  # data from here on count
    offsets: Annotated[dict[Partition, Offset], Meta(max_length=4_096)] = {}  # of `features`, where these data begin
    progress: Fraction | None = None
    detail: Words = ""
    result: ModelVersion | None = None  # the new bundle

    @property
    def job(self) -> str:
        """The job, by model, champion and cool-down bucket."""
        return f"{self.model}/{self.champion}/{self.bucket}"

    @property
    def identity(self) -> tuple[str, str]:
        """Job and state."""
        return self.job, self.state


class ModelManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Pointer to a signed bundle, on topic `models`, keyed by version."""

    v: Version = msgspec.field(default_factory=_version)
    version: str
    location: str  # of the bundle's folder: a path or a file:// URL that each worker can read
    manifest_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    published_at: EventTimeMs


class RolloutState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who carries the fabric from one step to the next, on topic `rollout`, keyed by `MODEL_NAME`.

    Control writes it, and an operator, whose command is such a record, too; workers, monitor and control read it.
    Identity: step. The first valid record of a step counts, for every reader: who comes second reads again, and tries
    at the next one.
    """

    v: Version = msgspec.field(default_factory=_version)
    model: Name
    step: Annotated[int, Meta(ge=1, lt=2**53)]  # one sequence for the model's whole life
    ts: EventTimeMs  # event time of the decision
    stage: Literal["steady", "shadow", "canary", "paused", "rolled_back"]
    champion: ModelVersion
    rollout: ShortName | None = None  # id of the rollout that this is a step of; null where none is under way
    challenger: ModelVersion | None = None
    share_percent: Percent = 0  # of the streams, that the challenger serves
    salt: Annotated[str, Meta(max_length=64)] = ""  # of the hash that deals streams to arms, one a rollout
    by: Name  # `control`, or the operator's name
    why: Words
    numbers: Numbers = {}  # that decided

    @property
    def identity(self) -> tuple[str, int]:
        """The step, of its model."""
        return self.model, self.step
