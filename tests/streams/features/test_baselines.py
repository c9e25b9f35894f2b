"""Means kept in 48 bits: in the same order, never above themselves, and the median of them by any guess."""

import math
import statistics

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.backfill import backfill_events
from streams.contract import CLASSES, FEATURES
from streams.features import baselines
from tests.reference import kept
from tests.streams.strategies import T0, USUAL, reading

MEANS = st.floats(0, 1e12) | st.sampled_from([0.0, 5e-324, 1e-300, 5.1, 60.0, 100.0, 1e12])
brief = settings(max_examples=200, deadline=None)


@given(mean=MEANS)
@brief
def test_what_is_kept_is_never_above_the_mean_and_less_than_2_to_the_minus_37_below(mean: float) -> None:
    back = baselines.mean_of(baselines.code_of(mean))

    assert back == kept(mean)
    assert 0 <= mean - back <= max(mean * 2.0**-37, 2.0**-1059)


@given(means=st.lists(MEANS, min_size=2, max_size=2))
@brief
def test_codes_are_in_the_order_of_the_means_and_none_is_that_of_an_empty_pane(means: list[float]) -> None:
    low, high = sorted(means)

    assert 0 < baselines.code_of(low) <= baselines.code_of(high) < 1 << 48
    assert baselines.code_of(math.nan) == 0


@given(
    means=st.lists(MEANS | st.just(math.nan) | st.sampled_from([3.0, 4.0]), max_size=96),
    guess=MEANS | st.just(math.nan),
)
@brief
def test_the_median_is_the_same_by_any_guess(means: list[float], guess: float) -> None:
    high, low = np.zeros((3, 96), np.uint32), np.zeros((3, 96), np.uint16)
    for i, mean in enumerate(means):
        baselines.put(high, low, 1, i, mean)
    values = [kept(mean) for mean in means if not math.isnan(mean)]

    median = baselines.median(high, low, 1, guess)

    assert median == statistics.median(values) if values else math.isnan(median)
    assert math.isnan(baselines.median(high, low, 0, guess))


def test_a_constant_stream_is_never_below_its_own_baseline() -> None:
    # Rule 7 asks for a utilization not below its baseline: of 200 constants none may miss it by what was cut off.
    chance = np.random.default_rng(5)
    for utilization in chance.uniform(5.1, 79.9, 200).tolist():
        usual = {**USUAL, "utilization": utilization}
        events = [reading(T0 + i * 100_000, usual) for i in range(20)]
        events.append(reading(T0 + 2_000_000, {**usual, "bandwidth_gbps": 69.0}))

        got = backfill_events(events)

        assert CLASSES[got.label[-1]] == "bandwidth_throttling", utilization
        assert 0 <= got.features[-1, FEATURES.index("utilization_delta_pct")] < 1e-9
