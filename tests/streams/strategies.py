"""Metric events that reach the edges of panes, windows, baselines, memory and rules far more often than by chance."""

import itertools
import random
from collections.abc import Mapping, Sequence

import msgspec
from hypothesis import strategies as st

from streams.contract import EVENT_TIME_MS_MIN, MetricEvent

T0 = 1_700_000_100_000
"""An event time, in ms, that starts a pane of every size."""

USUAL: Mapping[str, float | None] = {
    "latency_p99": 5.0,
    "utilization": 60.0,
    "error_rate": 0.0,
    "bandwidth_gbps": 100.0,
    "qp_errors": 0.0,
    "mr_failures": None,
}
"""What a healthy link reports: as a baseline it makes no rule fire on itself."""

ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"]
)

# From the stream's newest event to the next one: forth over every bound of the definitions, back into the past.
_FORTH_MS = st.sampled_from(
    [1, 1_000, 10_000, 14_999, 15_000, 60_000, 299_999, 300_000, 600_000, 899_999, 900_000, 3_600_000, 3_600_001]
) | st.integers(1, 2_000_000)
_LONG_FORTH_MS = st.sampled_from([7_200_000, 85_500_000, 86_400_000, 87_300_000, 90_000_001])
_BACK_MS = st.sampled_from([0, -1, -1_000, -10_000, -15_000, -300_000, -599_999, -600_000, -600_001, -900_000])
STEPS_MS = st.one_of(_FORTH_MS, _FORTH_MS, _FORTH_MS, st.just(900_000), _BACK_MS, _BACK_MS, _LONG_FORTH_MS)

STARTS_MS = st.just(T0) | st.integers(EVENT_TIME_MS_MIN, 4_000_000_000_000) | st.just(EVENT_TIME_MS_MIN)

# The bounds of the rules against a baseline of 5 µs, 60 % and 100 Gb/s; None, and now and then anything at all.
_LATENCIES = st.sampled_from([5.0, 5.0, 5.0, 6.0, 6.01, 6.5, 7.5, 7.6, 20.0, 20.1, 0.0]) | st.floats(0.001, 1e4)
_UTILIZATIONS = st.sampled_from([60.0, 60.0, 60.0, 80.0, 80.1, 90.0, 90.1, 100.0, 5.0, 5.01, 1.0, 0.0])
_ERROR_RATES = st.sampled_from([0.0, 0.0, 0.005, 0.0051, 0.01, 0.011, 0.02, 0.021, 0.05, 0.051, 1.0])
_BANDWIDTHS = st.sampled_from([100.0, 100.0, 70.0, 69.9, 60.0, 0.0]) | st.floats(0.001, 800)
_QP_ERRORS = st.sampled_from([0.0, 0.0, 0.0, 0.0, 100.0, 101.0, 900.0])
_MR_FAILURES = st.sampled_from([None, None, None, 0.0, 0.5])


def _sometimes(values: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.one_of(values, values, values, values, st.none())


_UNUSUAL = st.fixed_dictionaries(
    {
        "latency_p99": _sometimes(_LATENCIES | st.just(1e12)),
        "utilization": _sometimes(_UTILIZATIONS | st.floats(0, 100)),
        "error_rate": _sometimes(_ERROR_RATES | st.floats(0, 1)),
        "bandwidth_gbps": _sometimes(_BANDWIDTHS),
        "qp_errors": _sometimes(_QP_ERRORS),
        "mr_failures": _MR_FAILURES,
    }
)
# Either anything, or the usual but for a metric or two: the lower rules of the table need the upper ones to be silent.
METRIC_VALUES = _UNUSUAL.filter(lambda metrics: any(value is not None for value in metrics.values())) | st.tuples(
    st.sets(st.sampled_from(sorted(USUAL)), max_size=2), _UNUSUAL
).map(lambda odd: {**USUAL} | {metric: odd[1][metric] for metric in odd[0]})


def reading(ts: int, metrics: Mapping[str, float | None], *, stream_id: str = "leaf-1/1") -> MetricEvent:
    """An event, as the contract lets it through."""
    return msgspec.convert({"stream_id": stream_id, "ts": ts, **metrics}, MetricEvent)


@st.composite
def runs(draw: st.DrawFn, *, stream_id: str = "leaf-1/1", events_max: int = 40) -> list[MetricEvent]:
    """Events of one stream in arrival order: late ones, too late ones, repeats and gaps of a day among them."""
    start = draw(STARTS_MS)
    steps_and_metrics = draw(
        st.lists(st.tuples(STEPS_MS, METRIC_VALUES), min_size=min(5, events_max), max_size=events_max)
    )
    newest, events = start, []
    for step_ms, metrics in steps_and_metrics:
        ts = max(EVENT_TIME_MS_MIN, newest + step_ms)
        newest = max(newest, ts)
        events.append(reading(ts, metrics, stream_id=stream_id))
    return events


@st.composite
def fabrics(draw: st.DrawFn) -> list[MetricEvent]:
    """Events of one to three streams, interleaved in any order that keeps each stream's own."""
    ids = [f"leaf-1/{port}" for port in range(1, draw(st.integers(1, 3)) + 1)]
    return interleaved([draw(runs(stream_id=i, events_max=20)) for i in ids], draw(st.randoms(use_true_random=False)))


def interleaved(streams: Sequence[list[MetricEvent]], chance: random.Random) -> list[MetricEvent]:
    """Shuffle streams together, each in its own order."""
    turns = [i for i, events in enumerate(streams) for _ in events]
    chance.shuffle(turns)
    waiting = [iter(events) for events in streams]
    return [next(waiting[i]) for i in turns]


def long_run(seed: int, *, events: int, period_ms: int) -> list[MetricEvent]:
    """One stream long enough to fill its panes: a jittered period, some events late, missing or idle, a gap or two."""
    chance = random.Random(seed)
    ts = T0 + chance.randrange(86_400_000)
    made = []
    for _ in itertools.repeat(None, events):
        ts += chance.randrange(1, 2 * period_ms) + (chance.random() < 0.01) * chance.randrange(100_000_000)
        late_ms = (chance.random() < 0.15) * chance.randrange(700_000)
        is_idle = chance.random() < 0.5
        made.append(
            MetricEvent(
                stream_id="leaf-1/1",
                ts=ts - late_ms,
                latency_p99=chance.choice([None, 5.0, chance.lognormvariate(1.6, 0.3), chance.lognormvariate(3, 1)]),
                utilization=chance.choice([None, chance.uniform(0, 5.5) if is_idle else chance.uniform(20, 95)]),
                error_rate=chance.choice([0.0, chance.expovariate(1) * 0.01 % 1]),
                bandwidth_gbps=chance.choice([None, chance.uniform(0, 1) if is_idle else chance.uniform(40, 100)]),
            )
        )
    return made
