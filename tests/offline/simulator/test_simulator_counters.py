"""Counters behave as hardware's do, and the effects on them are painted as the segments say."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offline.simulator import segments as effect
from offline.simulator.fabric import Fabric, Setting
from offline.simulator.parameters import TRUE
from offline.simulator.segments import Segment, columns, painted
from streams.contract import METRICS
from streams.ingest.sources.counters import COUNTERS, INDEX

PERIOD_MS, N_TICKS = 30_000, 20


def lived(parameters, hours=6.0):
    fabric = Fabric(Setting(ports=60, hours=hours, seed=9, parameters=parameters))
    start = fabric._begin(0, 60)
    before = start.state.counters.copy()
    after, events = fabric.simulate(0, 60, start, 0, fabric.setting.n_ticks)
    return before, after, events


def test_counters_that_start_near_their_top_wrap_and_give_no_odd_rate():
    before, after, events = lived(replace(TRUE, near_wrap_share=1.0, qp_error_share=1.0, decoy_factor=0.0))
    at = INDEX["local_ack_timeout_err"]
    wrapped = after.state.counters[:, at] < before[:, at]

    assert wrapped.any()
    assert np.nanmax(events.metrics[:, METRICS.index("qp_errors")]) < 100


def test_a_stuck_error_counter_makes_the_error_rate_unknown_and_never_zero():
    before, _, events = lived(replace(TRUE, classic_share=1.0, stuck_share=0.2, decoy_factor=0.0))
    is_stuck = before[:, INDEX["port_rcv_errors"]] == 65_535
    error_rate = events.metrics[:, METRICS.index("error_rate")]

    assert 0 < is_stuck.sum() < 60
    assert np.isnan(error_rate[is_stuck[events.stream]]).all()
    assert np.isfinite(error_rate[~is_stuck[events.stream]]).mean() > 0.8


def test_traffic_of_one_end_is_what_the_other_end_receives():
    before, after, _ = lived(replace(TRUE, decoy_factor=0.0))
    counted = (after.state.counters - before).astype(float)
    sent, received = counted[:, INDEX["port_xmit_data"]], counted[:, INDEX["port_rcv_data"]]
    other = np.arange(60) ^ 1

    np.testing.assert_allclose(sent, received[other], rtol=0.01)  # they aren't sampled at the same instant


def test_no_counter_stands_above_its_width():
    _, after, _ = lived(replace(TRUE, classic_share=1.0, near_wrap_share=1.0, stuck_share=0.5))
    top = np.array([2**counter.bits - 1 for counter in COUNTERS], np.uint64)

    assert (after.state.counters <= top).all()


@st.composite
def segments(draw):
    start = draw(st.integers(-100_000, PERIOD_MS * N_TICKS + 100_000))
    return Segment(
        row=draw(st.integers(0, 3)),
        effect=draw(st.sampled_from([effect.LOAD, effect.LATENCY, effect.ERROR, effect.CLEARED])),
        start_ms=start,
        end_ms=start + draw(st.integers(1, 300_000)),
        first=draw(st.floats(0.1, 2.0)),
        last=draw(st.floats(0.1, 2.0)),
        is_log=draw(st.booleans()),
    )


def paint(world, first_row=0, n_rows=4, first_tick=0, n_ticks=N_TICKS):
    when = {"start_ms": first_tick * PERIOD_MS, "period_ms": PERIOD_MS, "n_ticks": n_ticks}
    return painted(columns(world), first_row=first_row, n_rows=n_rows, **when)


@given(st.lists(segments(), max_size=8), st.integers(1, N_TICKS - 1), st.integers(1, 3), st.randoms())
def test_no_cut_and_no_order_changes_what_is_painted(world, tick, row, random):
    whole = paint(world)
    shuffled = random.sample(world, len(world))
    left, right = paint(shuffled, n_ticks=tick), paint(shuffled, first_tick=tick, n_ticks=N_TICKS - tick)

    np.testing.assert_array_equal(np.concatenate([left, right], axis=2), whole)
    np.testing.assert_array_equal(paint(shuffled, first_row=row, n_rows=4 - row), whole[:, row:])


def test_a_segment_counts_by_its_share_of_the_interval():
    world = [Segment(0, effect.DOWN, 45_000, 60_000, 1.0), Segment(0, effect.LATENCY, 60_000, 120_000, 1.0, 3.0)]
    grid = paint(world, n_rows=1)

    assert grid[effect.DOWN, 0, :4].tolist() == [0.0, 0.5, 0.0, 0.0]
    assert grid[effect.LATENCY, 0, :5].tolist() == [1.0, 1.0, 1.5, 2.5, 1.0]
