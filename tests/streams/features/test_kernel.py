"""Features by definition (against the slow reference), by hand-computed cases, and by what must never change them."""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offline.backfill import backfill_events
from streams.contract import FEATURES, METRICS, MetricEvent
from streams.features.kernel import Columns
from streams.features.stream_table import StreamTable, compile_kernel
from tests.reference import reference
from tests.streams.agreement import agreed
from tests.streams.strategies import T0, ZONES, fabrics, interleaved, long_run, reading, runs

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
PANE = 15 * MINUTE  # of a baseline

# No deadline: the machine that runs the tests is shared, and a slow example is no wrong one.
thorough = settings(max_examples=200, deadline=None)
brief = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> None:
    compile_kernel()


def event(after_ms: int, latency_p99: float | None = None, **metrics: float) -> MetricEvent:
    return reading(T0 + after_ms, {"latency_p99": latency_p99, **metrics})


def last(events: list[MetricEvent], feature: str) -> float | None:
    return agreed(events)[-1].features[feature]


def dispositions(events: list[MetricEvent]) -> list[str]:
    return [verdict.disposition for verdict in agreed(events)]


# --- against the definitions


@given(events=fabrics(), time_zone=ZONES)
@thorough
def test_every_feature_and_label_is_what_its_definition_says(events: list[MetricEvent], time_zone: str) -> None:
    agreed(events, time_zone=time_zone)


@pytest.mark.parametrize("period_ms", [SECOND, 10 * SECOND, MINUTE, 7 * MINUTE, 25 * MINUTE])
@pytest.mark.parametrize("seed", [1, 2])
def test_definitions_hold_over_full_windows_and_full_baselines(seed: int, period_ms: int) -> None:
    agreed(long_run(seed, events=250, period_ms=period_ms))


@given(times_ms=st.lists(st.integers(0, 4_102_444_800_000), min_size=1, max_size=200, unique=True), time_zone=ZONES)
@brief
def test_the_calendar_is_that_of_the_time_zone_at_any_time_until_2100(times_ms: list[int], time_zone: str) -> None:
    agreed([MetricEvent(stream_id=f"leaf/{ts}", ts=ts, utilization=1) for ts in times_ms], time_zone=time_zone)


# --- what must not change a bit


def in_batches(events: Sequence[MetricEvent], cuts: Sequence[int]) -> tuple[list[int], list[bytes]]:
    """The kernel over `events` cut at `cuts`: dispositions, and the bytes of every output, batch after batch."""
    table = StreamTable()
    codes: list[int] = []
    outputs: list[list[NDArray[Any]]] = []
    edges = [0, *sorted(cuts), len(events)]
    for start, end in pairwise(edges):
        batch = events[start:end]
        metrics = np.array([[getattr(e, m) for m in METRICS] for e in batch], np.float64).reshape(-1, len(METRICS))
        ts = np.array([e.ts for e in batch], np.int64)
        disposition, rows = table.advance(
            Columns(table.slots([e.stream_id for e in batch]), ts, metrics, np.zeros_like(ts))
        )
        codes += disposition.tolist()
        outputs.append([rows.event + start, *rows[1:]])
    return codes, [np.concatenate(column).tobytes() for column in zip(*outputs, strict=True)]


@given(data=st.data(), events=fabrics())
@brief
def test_where_a_run_is_cut_into_batches_changes_no_bit(data: st.DataObject, events: list[MetricEvent]) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(events)), max_size=6))

    assert in_batches(events, cuts) == in_batches(events, [])


def test_cutting_a_long_run_between_all_events_changes_no_bit() -> None:
    events = long_run(3, events=2_000, period_ms=40 * SECOND)

    assert in_batches(events, range(1, len(events))) == in_batches(events, [])


@given(streams=st.tuples(*(runs(stream_id=f"leaf-{i}/1", events_max=15) for i in range(3))), chance=st.randoms())
@brief
def test_the_order_of_events_across_streams_changes_no_bit(
    streams: tuple[list[MetricEvent], ...], chance: random.Random
) -> None:
    events = interleaved(streams, chance)
    together = backfill_events(events)

    for alone in streams:
        mine = [i for i, e in enumerate(events) if e.stream_id == alone[0].stream_id]
        my_rows = np.isin(together.rows, mine)
        by_itself = backfill_events(alone)
        assert together.disposition[mine].tobytes() == by_itself.disposition.tobytes()
        assert together.features[my_rows].tobytes() == by_itself.features.tobytes()
        assert together.label[my_rows].tobytes() == by_itself.label.tobytes()


@given(before=runs(events_max=15), after=runs(events_max=15), silent_ms=st.integers(25 * HOUR, 60 * HOUR))
@brief
def test_a_stream_silent_for_25_hours_may_leave_memory_without_changing_a_bit(
    before: list[MetricEvent], after: list[MetricEvent], silent_ms: int
) -> None:
    shift = max(e.ts for e in before) + silent_ms - min(e.ts for e in after)
    after = [msgspec.structs.replace(e, ts=e.ts + shift) for e in after]
    whole, forgotten = backfill_events([*before, *after]), backfill_events(after)

    assert whole.disposition[len(before) :].tobytes() == forgotten.disposition.tobytes()
    assert whole.features[whole.rows >= len(before)].tobytes() == forgotten.features.tobytes()


# --- windows


@pytest.mark.parametrize(
    ("feature", "span_ms", "pane_ms"),
    [
        ("latency_p99_5m_avg", 5 * MINUTE, 15 * SECOND),
        ("latency_p99_15m_avg", 15 * MINUTE, MINUTE),
        ("latency_p99_1h_avg", HOUR, 5 * MINUTE),
    ],
)
def test_a_window_holds_whole_panes_the_current_one_included(feature: str, span_ms: int, pane_ms: int) -> None:
    # panes   [ 0 )[ 1 )[ 2 ) … [ span/pane )
    #          10    30                20        the last pane's window begins with pane 1
    first, second = event(pane_ms - 1, 10), event(pane_ms, 30)

    assert last([first, second, event(span_ms - 1, 20)], feature) == 20
    assert last([first, second, event(span_ms, 20)], feature) == 25
    assert last([first, second, event(span_ms + pane_ms - 1, 20)], feature) == 25
    assert last([first, second, event(span_ms + pane_ms, 20)], feature) == 20
    assert last([first, event(span_ms, 20)], feature) == 20


def test_the_deviation_is_that_of_a_sample() -> None:
    latencies = [2, 4, 4, 4, 5, 5, 7, 9]
    events = [event(i * SECOND, latency) for i, latency in enumerate(latencies)]

    assert last(events, "latency_p99_5m_std") == pytest.approx((32 / 7) ** 0.5)
    assert last(events[:1], "latency_p99_5m_std") is None
    assert last(events[1:3], "latency_p99_5m_std") == 0


@pytest.mark.parametrize("level", [5.0, 1e6, 5e11])
def test_a_small_deviation_survives_a_large_mean(level: float) -> None:
    events = [event(i * 7 * SECOND, level * (1 + (i % 2) * 1e-7)) for i in range(40)]

    assert last(events, "latency_p99_5m_std") == pytest.approx(level * 5e-8 * (40 / 39) ** 0.5, rel=1e-4)


def test_a_reading_that_is_missing_counts_in_no_mean() -> None:
    events = [event(0, 10), event(SECOND, utilization=50), event(2 * SECOND, 20)]

    assert last(events, "latency_p99_5m_avg") == 15
    assert last(events, "utilization_5m_avg") == 50


def test_idle_samples_count_in_the_mean_of_utilization() -> None:
    assert last([event(0, utilization=0), event(SECOND, utilization=50)], "utilization_5m_avg") == 25


# --- baselines


def test_before_a_pane_has_closed_the_baseline_is_its_mean_so_far() -> None:
    assert last([event(0, 4)], "latency_p99_delta_abs") == 0
    assert last([event(0, 4), event(PANE - 1, 8)], "latency_p99_delta_abs") == 2
    assert last([event(0, 4), event(PANE - 1, 8)], "latency_p99_delta_pct") == pytest.approx(100 / 3)


def test_once_a_pane_has_closed_the_current_one_never_counts() -> None:
    assert last([event(0, 4), event(PANE, 8)], "latency_p99_delta_abs") == 4
    assert last([event(0, 4), event(PANE, 1_000), event(PANE + 1, 8)], "latency_p99_delta_abs") == 4


def test_the_baseline_is_the_median_of_pane_means_however_many_events_each_has() -> None:
    busy = [event(i, 100) for i in range(50)]

    assert last([*busy, event(PANE, 10), event(2 * PANE, 20), event(4 * PANE, 0)], "latency_p99_delta_abs") == -20
    assert last([*busy, event(PANE, 10), event(4 * PANE, 0)], "latency_p99_delta_abs") == -55


def test_the_baseline_reaches_back_96_panes_and_no_further() -> None:
    assert last([event(PANE - 1, 10), event(97 * PANE - 1, 30)], "latency_p99_delta_abs") == 20
    assert last([event(PANE - 1, 10), event(97 * PANE, 30)], "latency_p99_delta_abs") == 0
    assert last([event(0, 10), event(PANE, 12), event(97 * PANE, 30)], "latency_p99_delta_abs") == 18


def test_a_late_event_still_changes_the_pane_that_has_closed() -> None:
    events = [event(PANE - 1, 10), event(PANE, 50), event(PANE - 2, 30), event(PANE + 1, 50)]

    assert dispositions(events) == ["row", "row", "late", "row"]
    assert last(events, "latency_p99_delta_abs") == 30


def test_a_late_event_may_close_the_first_pane() -> None:
    assert last([event(PANE, 50), event(PANE - 1, 10), event(PANE + 1, 50)], "latency_p99_delta_abs") == 40


def test_only_active_samples_make_the_baselines_of_bandwidth_and_utilization() -> None:
    events = [
        event(0, utilization=5, bandwidth_gbps=1),
        event(1, utilization=5.01, bandwidth_gbps=40),
        event(2, bandwidth_gbps=7),  # of unknown utilization: not known to be active
        event(PANE, utilization=50.01, bandwidth_gbps=60),
    ]

    assert last(events, "bandwidth_delta_pct") == pytest.approx(50)
    assert last(events, "utilization_delta_pct") == pytest.approx(45)
    assert last(events[:1], "bandwidth_delta_pct") is None
    assert last(events[:1], "utilization_delta_pct") is None


def test_a_baseline_of_zero_has_a_difference_and_no_percentage() -> None:
    events = [event(0, 0, utilization=50, bandwidth_gbps=0), event(PANE, 3, utilization=50, bandwidth_gbps=3)]

    assert last(events, "latency_p99_delta_abs") == 3
    assert last(events, "latency_p99_delta_pct") is None
    assert last(events, "bandwidth_delta_pct") is None


# --- rates


def test_rates_are_per_minute_whatever_the_period() -> None:
    events = [event(0, 0, utilization=10), event(MINUTE, 10, utilization=20), event(MINUTE + 30_000, 30, utilization=5)]

    assert last(events[:1], "latency_p99_rate") is None
    assert last(events[:2], "latency_p99_rate") == 10
    assert last(events[:2], "latency_p99_accel") is None
    assert last(events, "latency_p99_rate") == 40
    assert last(events, "latency_p99_accel") == 60
    assert last(events, "utilization_rate") == -30


def test_a_previous_event_exactly_one_hour_old_still_counts() -> None:
    first_two = [event(0, 10), event(MINUTE, 20)]

    assert last([*first_two, event(MINUTE + HOUR, 80)], "latency_p99_rate") == 1
    assert last([*first_two, event(MINUTE + HOUR, 80)], "latency_p99_accel") == pytest.approx(-9 / 60)
    assert last([*first_two, event(MINUTE + HOUR + 1, 80)], "latency_p99_rate") is None
    assert last([*first_two, event(MINUTE + HOUR + 1, 80), event(2 * HOUR, 80)], "latency_p99_accel") is None


def test_the_previous_event_is_the_newest_even_if_it_lacks_the_reading() -> None:
    events = [event(0, 10), event(MINUTE, utilization=1), event(2 * MINUTE, 30), event(3 * MINUTE, 50)]

    assert last(events[:3], "latency_p99_rate") is None
    assert last(events, "latency_p99_rate") == 20
    assert last(events, "latency_p99_accel") is None


def test_a_late_event_is_nobody_s_previous() -> None:
    assert last([event(MINUTE, 10), event(30_000, 500), event(2 * MINUTE, 30)], "latency_p99_rate") == 20


# --- what becomes of an event


def test_an_event_exactly_as_late_as_allowed_is_accepted() -> None:
    assert dispositions([event(601_000, 1), event(1_000, 1), event(999, 1)]) == ["row", "late", "too_late"]


def test_a_repeat_is_told_by_its_time_alone_and_counts_once() -> None:
    events = [event(0, 10), event(0, 50), event(MINUTE, 20), event(0, 10), event(30_000, 30), event(30_000, 30)]

    assert dispositions(events) == ["row", "repeat", "row", "repeat", "late", "repeat"]
    assert last([*events, event(MINUTE + 1, 20)], "latency_p99_5m_avg") == 20


def test_the_last_64_accepted_events_are_remembered() -> None:
    events = [event(i * SECOND, 1) for i in range(65)]

    assert dispositions([*events, event(SECOND, 1)])[-1] == "repeat"
    assert dispositions([*events, event(0, 1)])[-1] == "late"


def test_the_newest_event_is_remembered_behind_any_number_of_late_ones() -> None:
    late = [event(i, 1) for i in range(64)]

    assert dispositions([event(MINUTE, 1), *late, event(MINUTE, 1)])[-1] == "repeat"


def test_neither_a_repeat_nor_a_too_late_event_changes_its_stream() -> None:
    clean = [event(0, 10), event(HOUR, 20), event(HOUR + MINUTE, 40)]
    noise = [clean[0], clean[1], event(HOUR, 9e9), event(HOUR - 600_001, 9e9), clean[2]]

    assert backfill_events(noise).features.tobytes() == backfill_events(clean).features.tobytes()


# --- the rest


@pytest.mark.parametrize(
    ("time_zone", "utc_ms", "hour", "weekday"),
    [
        ("Europe/Berlin", 1_774_745_999_999, 1, 6),  # Sunday 2026-03-29 00:59:59.999 UTC, a moment before summer time
        ("Europe/Berlin", 1_774_746_000_000, 3, 6),
        ("America/New_York", 1_793_512_799_999, 1, 6),  # Sunday 2026-11-01 05:59:59.999 UTC, 01:59 EDT
        ("America/New_York", 1_793_512_800_000, 1, 6),  # 01:00 EST: the same hour again
        ("Australia/Lord_Howe", 1_775_314_799_999, 1, 6),  # 2026-04-04 14:59:59.999 UTC, 01:59 at +11
        ("Australia/Lord_Howe", 1_775_314_800_000, 1, 6),  # 01:30 at +10:30: half an hour back
        ("Asia/Kathmandu", 1_774_721_700_000, 0, 6),  # 2026-03-28 18:15 UTC is midnight at +5:45
        ("Asia/Kathmandu", 1_774_721_699_999, 23, 5),
        ("UTC", 0, 0, 3),  # a Thursday
    ],
)
def test_hour_and_weekday_are_local(time_zone: str, utc_ms: int, hour: int, weekday: int) -> None:
    features = agreed([MetricEvent(stream_id="leaf/1", ts=utc_ms, utilization=1)], time_zone=time_zone)[0].features

    assert (features["hour"], features["day_of_week"], features["is_weekend"]) == (hour, weekday, weekday >= 5)


def test_business_hours_are_8_up_to_the_last_moment_before_19_every_day() -> None:
    midnight = 1_774_742_400_000  # a Sunday
    times = [8 * HOUR - 1, 8 * HOUR, 19 * HOUR - 1, 19 * HOUR]
    events = [MetricEvent(stream_id=f"leaf/{t}", ts=midnight + t, utilization=1) for t in times]

    assert [verdict.features["is_business_hours"] for verdict in agreed(events)] == [False, True, True, False]


def test_interactions_and_health_come_from_the_event_and_its_baseline() -> None:
    events = [event(0, 10), event(PANE, 15, utilization=60, error_rate=0.01, bandwidth_gbps=80)]

    assert last(events, "latency_x_utilization") == pytest.approx(9)
    assert last(events, "error_x_bandwidth") == pytest.approx(0.8)
    assert last(events, "health_score") == pytest.approx(100 - 24 - 15 - 3)


def test_health_counts_no_fall_of_latency_and_ends_at_zero() -> None:
    better = event(PANE, 1, utilization=50, error_rate=0)
    lost = event(PANE, 1e6, utilization=50, error_rate=1)

    assert last([event(0, 10), better], "health_score") == pytest.approx(80)
    assert last([event(0, 10), lost], "health_score") == 0


@pytest.mark.parametrize("metric", ["latency_p99", "utilization", "error_rate", "bandwidth_gbps", "qp_errors"])
def test_what_a_missing_metric_enters_is_missing_and_never_zero(metric: str) -> None:
    present = {"latency_p99": 5.0, "utilization": 60.0, "error_rate": 0.1, "bandwidth_gbps": 90.0, "qp_errors": 1.0}
    needs = {
        "latency_p99": "latency_p99 latency_p99_delta_pct latency_p99_delta_abs latency_p99_rate latency_p99_accel "
        "latency_x_utilization health_score",
        "utilization": "utilization utilization_delta_pct utilization_rate latency_x_utilization health_score",
        "error_rate": "error_rate error_x_bandwidth health_score",
        "bandwidth_gbps": "bandwidth_gbps bandwidth_delta_pct error_x_bandwidth",
        "qp_errors": "qp_errors",
    }[metric]
    before = [reading(T0 + i * MINUTE, present) for i in range(2)]
    without = reading(T0 + 2 * MINUTE, {**present, metric: None})

    features = backfill_events([*before, without]).features[-1]

    assert {name for name, value in zip(FEATURES, features, strict=True) if np.isnan(value)} == set(needs.split())


def test_no_event_gives_no_row() -> None:
    assert backfill_events([]).features.shape == (0, len(FEATURES))
    assert reference([]) == []


def test_a_baseline_next_to_nothing_gives_a_huge_feature_and_never_infinity():
    events = [
        reading(T0 + i * 60_000, {"latency_p99": 1e-30, "utilization": 50.0, "bandwidth_gbps": 1e-30})
        for i in range(16)
    ]
    events.append(reading(T0 + 16 * 60_000, {"latency_p99": 1e12, "utilization": 50.0, "bandwidth_gbps": 1e12}))

    last = backfill_events(events).features[-1]

    assert np.isfinite(last[~np.isnan(last)]).all()
    assert last[FEATURES.index("latency_p99_delta_pct")] == np.finfo(np.float32).max
