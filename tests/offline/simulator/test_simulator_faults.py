"""Each class leaves its signature on the ports that the truth names, and only there and then."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from offline.simulator.fabric import Fabric, Setting
from offline.simulator.parameters import FAULTS, TRAIN
from streams.contract import FAULT_CLASSES, METRICS

# What the median sample of a stream shows inside an incident; latency_ratio is to the stream's usual latency.
SIGNATURES = {
    "performance_degradation": lambda m: m["latency_ratio"] > 1.5,
    "anomaly_detected": lambda m: m["latency_ratio"] > 1.1 or m["utilization"] > 80 or m["error_rate"] > 0.005,
    "resource_saturation": lambda m: m["utilization"] > 90,
    "connection_instability": lambda m: 0.001 < m["error_rate"] <= 0.022,
    "packet_loss_detected": lambda m: m["error_rate"] > 0.02,
    "latency_spike": lambda m: 1.15 < m["latency_ratio"] < 2.0,
    "qp_error_rate_high": lambda m: m["qp_errors"] > 100,
    "memory_registration_failure": lambda m: m["mr_failures"] > 0,
    "rdma_timeout": lambda m: m["error_rate"] > 0.05 and m["latency_ratio"] > 3,
    "hard_down": lambda m: m["bandwidth_gbps"] == 0,
}


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    # Wide counters everywhere, so that an error counter that sticks does not hide what is to be seen.
    parameters = replace(TRAIN, classic_share=0.0, decoy_factor=0.0, clock_far_share=0.0)
    return Fabric(Setting(ports=300, hours=72.0, seed=21, period_s=60.0, parameters=parameters))


@pytest.fixture(scope="module")
def shown(fabric):
    """By class, one entry per incident and stream: the medians of its metrics inside the incident."""
    blocks = [np.concatenate(columns) for columns in zip(*fabric.run(), strict=True)]
    order = np.lexsort((blocks[1], blocks[0]))
    stream, ts, metrics = (column[order] for column in blocks)
    edges = np.searchsorted(stream, np.arange(fabric.setting.ports + 1))
    port = {name: i for i, name in enumerate(fabric.stream_ids)}
    found = defaultdict(list)
    for incident in fabric.incidents:
        for name in incident.streams:
            own = slice(edges[port[name]], edges[port[name] + 1])
            first, last = np.searchsorted(ts[own], [incident.start_ms + 61_000, incident.end_ms - 1_000])
            if last - first >= 3:
                with np.errstate(all="ignore"):
                    medians = {
                        m: np.median(x[~np.isnan(x)]) if (~np.isnan(x)).any() else np.nan
                        for m, x in zip(METRICS, metrics[own][first:last].T, strict=True)
                    }
                usual = np.nanmedian(metrics[own][:, 0])
                found[incident.class_].append(medians | {"latency_ratio": medians["latency_p99"] / usual})
    return found


def test_three_days_of_training_have_some_of_every_class_and_hundreds_in_all(fabric):
    n = Counter(incident.class_ for incident in fabric.incidents)

    assert set(n) == {*FAULT_CLASSES, "hard_down"}
    assert min(n.values()) >= 5
    assert sum(n.values()) >= 300


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_class_leaves_its_signature_on_nearly_all_its_streams(name, shown):
    fits = [SIGNATURES[name](medians) for medians in shown[name]]

    assert len(fits) >= 2
    assert np.mean(fits) >= 0.85


def test_only_a_link_that_carries_a_job_is_throttled(fabric):
    jobs = fabric._schedule
    throttled = [i for i in fabric.incidents if i.class_ == "bandwidth_throttling"]
    port = {name: i for i, name in enumerate(fabric.stream_ids)}

    assert throttled
    assert all(jobs.job_from(port[i.streams[0]], i.start_ms).start_ms <= i.start_ms for i in throttled)


@pytest.mark.parametrize("name", ["connection_instability", "rdma_timeout", "hard_down", "bandwidth_throttling"])
def test_both_ends_of_a_link_are_struck_together(name, fabric):
    ends = {frozenset((link.lower, link.upper)) for link in fabric.topology.links}
    struck = [frozenset(i.streams) for i in fabric.incidents if i.class_ == name]

    assert struck
    assert ends.issuperset(struck)


def test_no_stream_has_two_incidents_at_once(fabric):
    spans = defaultdict(list)
    for incident in fabric.incidents:
        for stream in incident.streams:
            spans[stream].append((incident.start_ms, incident.end_ms))

    assert all(a[1] <= b[0] for own in spans.values() for a, b in pairwise(own))


def test_the_stated_share_of_incidents_has_a_precursor():
    fabric = Fabric(Setting(ports=600, hours=96.0, seed=8))
    has = defaultdict(list)
    for incident in fabric.incidents:
        has[incident.class_].append(incident.precursor_start_ms is not None)

    for name in ("latency_spike", "connection_instability", "anomaly_detected"):
        assert np.mean(has[name]) == pytest.approx(FAULTS[name].predictable, abs=0.1)


def test_a_few_weak_links_get_half_of_the_frail_faults():
    parameters = replace(TRAIN, frailty_shape=0.15)
    fabric = Fabric(Setting(ports=600, hours=96.0, seed=8, parameters=parameters))
    links = [min(i.streams) for i in fabric.incidents if i.class_ == "connection_instability"]
    most = sorted(Counter(links).values(), reverse=True)

    assert sum(most[: 300 // 10]) >= 0.5 * len(links)


def test_an_outcome_tells_each_struck_stream_of_its_incident(fabric):
    outcomes = fabric.outcomes()

    assert len(outcomes) == sum(len(incident.streams) for incident in fabric.incidents)
    assert {o.incident for o in outcomes} == {i.incident for i in fabric.incidents}
