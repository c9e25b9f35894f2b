"""The cables: read from a real fabric, or grown; and any subset holds together."""

import numpy as np
import pytest

from offline.simulator.topology import TopologyTooSmall, selene_links, topology
from streams.contract import STREAM_ID_BYTES_MAX, node_of


def test_selene_has_eight_compute_adapters_a_host_and_leaves_of_forty_ports():
    links = list(selene_links())
    per_host: dict[str, int] = {}
    for link in links:
        if link.host:
            per_host[link.host] = per_host.get(link.host, 0) + 1

    assert np.median(list(per_host.values())) == 8
    assert len({link.leaf for link in links}) == 200
    assert all(node_of(link.lower if link.host is None else link.upper) == link.leaf for link in links)


@pytest.mark.parametrize("name", ["selene", "tree"])
@pytest.mark.parametrize("ports", [2, 8, 300, 5_000])
def test_a_subset_has_exactly_the_ports_asked_for_each_once(name, ports):
    cables = topology(name, ports)

    assert len(set(cables.stream_ids)) == len(cables.stream_ids) == ports
    assert max(map(len, cables.stream_ids)) <= STREAM_ID_BYTES_MAX
    assert [cables.nodes[i] for i in cables.node] == [node_of(stream) for stream in cables.stream_ids]


@pytest.mark.parametrize("name", ["selene", "tree"])
def test_two_thirds_of_the_links_go_to_hosts_and_the_rest_up(name):
    cables = topology(name, 600)

    assert np.mean(cables.host >= 0) == pytest.approx(2 / 3, abs=0.01)
    assert np.array_equal(cables.is_adapter, (cables.host >= 0) & (np.arange(600) % 2 == 0))


def test_more_ports_than_a_topology_has_are_refused_with_a_way_out():
    with pytest.raises(TopologyTooSmall, match="tree"):
        topology("selene", 100_000)


def test_an_odd_number_of_ports_is_a_mistake():
    with pytest.raises(ValueError, match="even"):
        topology("tree", 7)
