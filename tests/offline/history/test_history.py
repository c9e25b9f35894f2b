import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.dataset.targets import HORIZON_MS, LONGEST_WINDOW_MS, TEST, TRAIN, VALIDATION, Targets
from offline.history import simulated
from offline.history.simulated import PARTS, base_rate, simulated_histories
from offline.simulator.fabric import Setting
from offline.simulator.parameters import FAULTS

SETTING = Setting(ports=40, hours=6.0, seed=3)


@pytest.fixture(scope="module")
def table():
    return simulated_histories(SETTING)


def test_parts_are_fabrics_of_their_own_later_and_later_with_a_gap_between(table):
    end_ms = 0
    for part in (TRAIN, VALIDATION, TEST):
        ts = table.ts[table.part == part]
        assert ts.min() >= end_ms
        end_ms = ts.max() + LONGEST_WINDOW_MS + HORIZON_MS


def test_the_part_that_examines_is_whole_and_watched_in_its_own_order(table):
    test = table.part == TEST
    ticks = SETTING.n_ticks - HORIZON_MS / 30_000  # rows of the last hour aren't matured

    np.testing.assert_array_equal(table.weight[test], 1.0)
    np.testing.assert_array_equal(table.watched.ts, table.ts[test])
    assert test.sum() == pytest.approx(PARTS.count(TEST) * SETTING.ports * ticks, rel=0.1)
    assert table.watched.stream.max() < len(table.watched.stream_ids) == PARTS.count(TEST) * SETTING.ports


def test_sampled_rows_stand_for_all_of_their_part(table):
    sampled = table.part != TEST
    a_fabric = {part: table.weight[table.part == part].sum() / PARTS.count(part) for part in (TRAIN, VALIDATION, TEST)}

    assert a_fabric[TRAIN] == pytest.approx(a_fabric[TEST], rel=0.1)
    assert a_fabric[VALIDATION] == pytest.approx(a_fabric[TEST], rel=0.1)
    assert sampled.sum() < 0.5 * table.weight[sampled].sum()


def test_no_incident_is_in_two_parts(table):
    of_part = [set(table.targets.incident[table.part == part].tolist()) - {-1} for part in (TRAIN, VALIDATION, TEST)]

    assert all(of_part)
    assert len(set.union(*of_part)) == sum(map(len, of_part))


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=6), healthy=st.integers(0, 200), seed=st.integers(0, 9))
def test_a_sample_keeps_the_weight_of_each_incident_and_bounds_its_rows(sizes, healthy, seed):
    incident = np.repeat(np.arange(-1, len(sizes)), [healthy, *sizes])
    lead_ms = np.where(incident >= 0, np.arange(incident.size) % 2 * 60_000, 0)
    weight = simulated._sampled(Targets((incident >= 0).astype(np.int8), incident, lead_ms), seed)
    weight_of, rows_of = np.bincount(incident + 1, weight), np.bincount(incident + 1, weight > 0)

    np.testing.assert_allclose(weight_of, [healthy, *sizes])
    assert (rows_of[1:] <= 2 * simulated._ROWS_OF_INCIDENT).all()
    assert (rows_of[1:] >= np.minimum(sizes, simulated._ROWS_OF_INCIDENT)).all()


def test_the_true_base_rate_is_what_the_table_of_faults_says():
    # Most of it is the hour before what is short; a fault of a link counts for its ports, and one of a host for them.
    incidents_a_year = sum(fault.per_year for fault in FAULTS.values())

    assert base_rate("true", seed=1, ports=800, hours=240.0) == pytest.approx(incidents_a_year / 8_760, rel=0.5)
