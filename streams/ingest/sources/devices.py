"""What a device's figures mean, where its name alone tells: units, counters that nobody counts, bonds of ports.

Omni-Path's driver hfi1 fills in the counters of InfiniBand: data in flits of 8 bytes (node_exporter multiplies them by
4 all the same), and always 0 for what Omni-Path doesn't count (pma_get_ib_portcounters in hw/hfi1/mad.c).
"""

import re

from streams.ingest.sources.counters import WORD_BYTES

FLIT_BYTES = 8
NOT_COUNTED_BY_OPA = frozenset({"symbol_error", "port_xmit_wait"})

_OPA = re.compile(r"(?:hfi\d|opa)")  # the kernel's name, and the prefix that rdma-core's udev rules give
_BOND = re.compile(r"bond|lag", re.IGNORECASE)
_KERNELS_BOND = re.compile(r"mlx5_bond_\d+")


def data_bytes_of(device: str) -> int:
    """Return what one count of the device's data counters stands for, in bytes.

    >>> data_bytes_of("hfi1_0"), data_bytes_of("mlx5_0")
    (8, 4)
    """
    return FLIT_BYTES if _OPA.match(device) else WORD_BYTES


def is_named_as_bond(device: str) -> bool:
    """Whether the device is several ports in one, by its name. The rate that it states is then that of one of them."""
    return _BOND.search(device) is not None


def legs_taken_for_granted(device: str) -> int:
    """Return how many ports a bond has where nothing tells, 0 if that would be a guess.

    mlx5 makes `mlx5_bond_0` of the ports of one adapter, and those that have a rate worth bonding have two.

    >>> legs_taken_for_granted("mlx5_bond_0"), legs_taken_for_granted("rdma_bond0")
    (2, 0)
    """
    return 2 if _KERNELS_BOND.fullmatch(device) else 0
