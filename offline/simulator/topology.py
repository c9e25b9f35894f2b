"""The fabric's cables: a real InfiniBand cluster, or a fat tree of any size, and a subset of either.

Link i has two ports: 2·i is the lower end (a host's adapter, or a leaf's uplink port) and 2·i + 1 the upper one, so
that the other end of port p is p ^ 1.
"""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain, zip_longest
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.contract import LinkcastError, node_of

TopologyName = Literal["selene", "tree"]

_SWITCH = re.compile(r'^Switch\s+\d+\s+"[^"]+"\s+# "MF0;(?P<name>[^:]+):')
_TO_HOST = re.compile(r'^\[(?P<port>\d+)\]\s+"H-\w+"\[\d+\]\(\w+\)\s+# "(?P<host>luna-\S+) (?P<device>\S+?)\s*"')
_TO_SWITCH = re.compile(r'^\[(?P<port>\d+)\]\s+"S-\w+"\[(?P<far_port>\d+)\]\s+# "MF0;(?P<far>[^:]+):')

HOSTS_PER_LEAF, RAILS = 20, 8


class TopologyTooSmall(LinkcastError):
    """More ports were asked for than the topology has."""


class Link(NamedTuple):
    """One cable: the streams at its two ends, and the leaf switch it hangs on."""

    lower: str  # stream id of the host's adapter, or of the leaf's uplink port
    upper: str  # stream id of the leaf's port, or of the spine's
    leaf: str
    host: str | None  # None for an uplink


@dataclass(frozen=True)
class Topology:
    """Links as arrays over ports, shape (2 · links,); see the module for the numbering."""

    links: list[Link]
    stream_ids: list[str]
    nodes: list[str]
    node: NDArray[np.int64]  # index into `nodes`: a host or a switch
    leaf: NDArray[np.int64]  # index into `nodes` of the leaf this link hangs on
    host: NDArray[np.int64]  # index into `nodes` of the link's host; -1 on an uplink
    is_adapter: NDArray[np.bool_]  # the host's end: it has hw_counters, a switch port has none
    rate_gbps: float
    is_roce: bool


def topology(name: TopologyName, ports: int) -> Topology:
    """Return `ports` ports (an even number, at least 2) of a topology; `TopologyTooSmall` if it has fewer.

    `selene` is NVIDIA's HDR InfiniBand cluster as `ibnetdiscover` saw it in 2021, rail-optimised, 8 compute adapters a
    host. `tree` is a two-level fat tree of the same plan without bound, RoCE at 400 Gb/s.
    """
    if ports < 2 or ports % 2:
        raise ValueError(f"{ports} ports: a link has two, so ask for an even number of at least 2")
    links = list(_taken(selene_links() if name == "selene" else tree_links(ports), ports // 2))
    if len(links) < ports // 2:
        raise TopologyTooSmall(f"{name} has {2 * len(links)} usable ports, not {ports}: ask for fewer, or for `tree`")
    return _arrays(links, rate_gbps=200.0 if name == "selene" else 400.0, is_roce=name == "tree")


def selene_links() -> Iterator[Link]:
    """Yield the links of the compute hosts and the uplinks of their leaves, from the file of `ibnetdiscover`."""
    with gzip.open(files("offline.simulator") / "data" / "selene.compute.txt.gz", "rt") as lines:  # type: ignore[call-overload]
        leaf = ""
        for line in lines:
            if match := _SWITCH.match(line):
                leaf = match["name"].partition("/")[0]
            elif line.startswith("Ca"):
                leaf = ""  # adapters repeat, from their side, what the switches said
            elif not leaf.startswith("LG"):
                continue
            elif match := _TO_HOST.match(line):
                host = match["host"]
                yield Link(f"{host}/{match['device']}:1", f"{leaf}/{match['port']}", leaf, host)
            elif match := _TO_SWITCH.match(line):
                yield Link(f"{leaf}/{match['port']}", f"{match['far']}/{match['far_port']}", leaf, None)


def tree_links(ports: int) -> Iterator[Link]:
    """Yield the links of a rail-optimised fat tree of at least `ports` ports: 20 hosts of 8 rails a group."""
    for group in range(ports // (2 * HOSTS_PER_LEAF * RAILS) + 1):
        for rail in range(RAILS):
            leaf = f"leaf-{group * RAILS + rail:03}"
            for i in range(HOSTS_PER_LEAF):
                host = f"host{group * HOSTS_PER_LEAF + i}"
                yield Link(f"{host}/mlx5_{rail}:1", f"{leaf}/{i + 1}", leaf, host)
            for i in range(HOSTS_PER_LEAF):
                spine = f"spine-{rail:02}-{i:02}/{group + 1}"
                yield Link(f"{leaf}/{HOSTS_PER_LEAF + i + 1}", spine, leaf, None)


def _taken(links: Iterable[Link], n: int) -> Iterator[Link]:
    """Yield n links: whole hosts, in the order of their names, for two thirds of them, then uplinks of their leaves."""
    by_host: dict[str, list[Link]] = defaultdict(list)
    uplinks: dict[str, list[Link]] = defaultdict(list)
    for link in links:
        (uplinks[link.leaf] if link.host is None else by_host[link.host]).append(link)
    in_order = [link for _, of_host in sorted(by_host.items(), key=_natural) for link in of_host]
    n_down = min(-(-2 * n // 3), len(in_order))
    leaves = list(dict.fromkeys(link.leaf for link in in_order[:n_down]))
    up = [link for row in zip_longest(*(uplinks[leaf] for leaf in leaves)) for link in row if link is not None]
    n_up = min(n - n_down, len(up))
    yield from chain(in_order[: n - n_up], up[:n_up])


def _natural(item: tuple[str, list[Link]]) -> tuple[str, int]:
    prefix, digits = re.fullmatch(r"(.*?)(\d*)", item[0]).groups()  # type: ignore[union-attr]
    return prefix, int(digits or 0)


def _arrays(links: list[Link], *, rate_gbps: float, is_roce: bool) -> Topology:
    stream_ids = [stream for link in links for stream in (link.lower, link.upper)]
    nodes = list(dict.fromkeys(map(node_of, stream_ids)))
    nodes += sorted({link.leaf for link in links} - set(nodes))
    index = {name: i for i, name in enumerate(nodes)}

    def per_port(values: Iterable[int]) -> NDArray[np.int64]:
        return np.repeat(np.fromiter(values, np.int64), 2)

    host = per_port(-1 if link.host is None else index[link.host] for link in links)
    return Topology(
        links=links,
        stream_ids=stream_ids,
        nodes=nodes,
        node=np.array([index[node_of(stream)] for stream in stream_ids], np.int64),
        leaf=per_port(index[link.leaf] for link in links),
        host=host,
        is_adapter=(host >= 0) & (np.arange(host.size) % 2 == 0),
        rate_gbps=rate_gbps,
        is_roce=is_roce,
    )
