"""The fabric as a whole: the same bytes always, loads and gaps as measured, and no impossible figure."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from offline.simulator.fabric import Block, Fabric, Setting
from offline.simulator.load import seren
from offline.simulator.parameters import DECOYS, FAULTS, TRAIN, TRUE
from streams.contract import METRICS

SMALL = Setting(ports=24, hours=2.0, seed=11)


def together(blocks) -> Block:
    return Block(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def sha256(block: Block) -> str:
    return hashlib.sha256(b"".join(column.tobytes() for column in block)).hexdigest()


@pytest.fixture(scope="module")
def day() -> tuple[Fabric, Block]:
    fabric = Fabric(Setting(ports=1200, hours=24.0, seed=4, profile="true", period_s=120.0))
    return fabric, together(fabric.run())


def test_a_seed_gives_the_same_bytes_for_ever():
    block = together(Fabric(SMALL).run())
    first = Block(*(column[:1_000] for column in block))
    of_the_rules, of_the_cable = (first._replace(metrics=part) for part in np.split(first.metrics, [6], axis=1))

    assert sha256(of_the_rules) == "fa6f4f01fa320a415caa1ef7abd64264428bec5e43b0653bfdc7e70b59b18085"
    assert sha256(of_the_cable) == "324fbda6ba8df0821c2d1124836ab73de13d68b1e4507d98700cfc7b02685f13"


def test_two_processes_give_the_bytes_of_one():
    assert sha256(together(Fabric(SMALL).run(processes=2))) == sha256(together(Fabric(SMALL).run()))


@pytest.mark.parametrize("ticks", [1, 50, 1_000])
def test_no_cut_of_time_into_blocks_changes_the_bytes(ticks, monkeypatch):
    as_it_is = sha256(together(Fabric(SMALL).run()))
    monkeypatch.setattr("offline.simulator.fabric.BLOCK_TICKS", ticks)
    monkeypatch.setattr("offline.simulator.fabric.SLICE_PORTS", 1 + ticks % 7)

    assert sha256(together(Fabric(SMALL).run())) == as_it_is


def test_another_seed_gives_another_fabric():
    assert sha256(together(Fabric(replace(SMALL, seed=12)).run())) != sha256(together(Fabric(SMALL).run()))


def test_a_longer_run_begins_with_the_incidents_of_the_shorter():
    short = Fabric(Setting(ports=100, hours=12.0, seed=2)).incidents
    long = Fabric(Setting(ports=100, hours=24.0, seed=2)).incidents

    assert len(short) > 10
    assert long[: len(short)] == short


def test_ports_are_idle_as_often_as_on_seren(day):
    utilization = day[1].metrics[:, METRICS.index("utilization")]

    assert np.nanmean(utilization < 1.0) == pytest.approx(TRUE.idle_share, abs=0.06)


def test_active_ports_carry_what_they_carry_on_seren(day):
    utilization = day[1].metrics[:, METRICS.index("utilization")]
    cdf, share = seren()
    measured = 100 * np.interp((1 + TRUE.idle_share) / 2, cdf, share)

    assert np.nanmedian(utilization[utilization >= 1.0]) == pytest.approx(measured, rel=0.15)


def test_every_figure_is_one_that_the_contract_allows(day):
    metrics = day[1].metrics
    known = ~np.isnan(metrics)

    assert np.all(metrics[known] >= 0)
    assert np.nanmax(metrics[:, 1]) <= 100
    assert np.nanmax(metrics[:, 2]) <= 1
    assert known.any(axis=1).all()


def test_only_adapters_count_queue_pair_errors(day):
    fabric, block = day
    is_adapter = fabric.topology.is_adapter[block.stream]

    assert np.isnan(block.metrics[~is_adapter][:, 4:6]).all()
    assert np.isnan(block.metrics[is_adapter, 4]).mean() < 0.05


def test_some_samples_are_missing_some_repeated_and_some_late(day):
    fabric, block = day
    due = fabric.setting.ports * fabric.setting.n_ticks
    distinct = np.unique(np.column_stack([block.stream, block.ts]), axis=0).shape[0]
    newest_before = np.maximum.accumulate(block.ts)

    assert 0.01 < 1 - distinct / due < 0.05
    assert 0.0005 < 1 - distinct / block.ts.size < 0.002
    assert ((newest_before - block.ts) > 600_000).any()


def test_reboots_and_cleared_counters_never_make_a_negative_rate():
    fabric = Fabric(Setting(ports=60, hours=12.0, seed=6, parameters=replace(TRAIN, decoy_factor=20.0)))
    names = {decoy.name for decoy in fabric.decoys}
    block = together(fabric.run())

    assert {"reboot", "counter_clear"} <= names
    assert np.nanmin(block.metrics) >= 0
    assert np.nanmax(block.metrics[:, 1]) <= 100


def test_decoys_are_no_incidents_and_far_more_frequent_than_faults():
    fabric = Fabric(Setting(ports=300, hours=24 * 60, seed=3, profile="true"))
    hardware = [i for i in fabric.incidents if FAULTS[i.class_].is_frail]

    assert {decoy.name for decoy in fabric.decoys} == set(DECOYS)
    assert {incident.class_ for incident in fabric.incidents}.isdisjoint(DECOYS)
    assert len(fabric.decoys) >= 10 * len(hardware)


def test_a_setting_without_a_sample_is_refused():
    with pytest.raises(ValueError, match="no sample"):
        Fabric(replace(SMALL, hours=0.001))
