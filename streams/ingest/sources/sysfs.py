"""Ports of this machine from `/sys/class/infiniband`, or from any tree of that shape.

Layout, counters and their odd cases: Documentation/ABI/stable/sysfs-class-infiniband of the kernel; a device may lack
`counters/` (bnxt_re, irdma), have `hw_counters/` of its own instead of its ports', answer EINVAL (ConnectX-7 as a
switch) or `N/A (no PMA)`. Only what can't be read is left out.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from streams.ingest.sources.collect import Oddities, Reading
from streams.ingest.sources.counters import DATA, INDEX
from streams.ingest.sources.devices import data_bytes_of, is_named_as_bond

ROOT = Path("/sys/class/infiniband")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

HW_TRAFFIC = {
    "tx_bytes": "port_xmit_data",
    "rx_bytes": "port_rcv_data",
    "tx_pkts": "port_xmit_packets",
    "rx_pkts": "port_rcv_packets",
}
"""Where EFA and bnxt_re count traffic, in bytes; the latter has counters/ too, and answers EINVAL there."""

_RATE = re.compile(r"(\d+(?:\.\d+)?) ?Gb/sec")  # "2.5 Gb/sec (1X SDR)"
_INTERFACE = re.compile(r"[^/\s]{1,15}")  # IFNAMSIZ
_STATE = re.compile(r"(\d+):")  # "4: ACTIVE"


class Sysfs:
    """The devices under `root`, as streams `host/device:port`."""

    def __init__(self, root: Path, *, host: str, odd: Oddities) -> None:
        self._root, self._host, self._odd = root, host, odd
        self._boot_id = self._text(BOOT_ID)
        self._counts_words: set[Path] = set()

    def read(self) -> list[Reading]:
        """Read every port once, in the order of device names and port numbers."""
        return [
            reading
            for device in sorted(self._names(self._root))
            for port in sorted(filter(self._is_port, self._names(self._root / device / "ports")), key=int)
            if (reading := self._port(self._root / device, port)) is not None
        ]

    def _is_port(self, name: str) -> bool:
        if name.isascii() and name.isdigit():
            return True
        self._odd.note(self._root, "has ports that are no numbers", name)
        return False

    def _port(self, device: Path, port: str) -> Reading | None:
        folder = device / "ports" / port
        ts, monotonic_s = time.time_ns() // 1_000_000, time.monotonic()
        counters, data_bytes = self._counters(device, folder)
        rate = _RATE.match(self._text(folder / "rate"))
        states = {name: _STATE.match(self._text(folder / name)) for name in ("state", "phys_state")}
        if not (counters or rate or any(states.values())):
            self._odd.note(folder, "has nothing that can be read")
            return None
        if not counters and (unknown := self._unknown(device, folder)):
            self._odd.note(folder, "no counter's name is known", unknown)
        stated_gbps = float(rate[1]) if rate else np.nan
        is_roce = self._text(folder / "link_layer") == "Ethernet"
        return Reading(
            node=self._host,
            port=f"{device.name}:{int(port)}",
            ts=ts,
            monotonic_s=monotonic_s,
            counters=counters,
            data_bytes=data_bytes,
            rate_gbps=stated_gbps,
            bond_gbps=self._bond_gbps(device, folder, stated_gbps) if is_roce else np.nan,
            is_roce=is_roce,
            boot=self._boot_id + self._text(device / "node_guid"),
            extra={name: float(state[1]) for name, state in states.items() if state},
        )

    def _counters(self, device: Path, folder: Path) -> tuple[dict[str, int], int]:
        """Return the counters, and the unit of data in bytes."""
        of_port = folder / "hw_counters"
        of_hardware = of_port if of_port.is_dir() else device / "hw_counters"
        counters = {
            **self._folder(of_hardware),
            **self._folder(folder / "counters"),
            **self._folder(folder / "counters_ext", suffix="_64"),  # kernels before 4.5
        }
        if folder in self._counts_words or any(name in counters for name in DATA):
            self._counts_words.add(folder)
            return counters, self._data_bytes(device)
        in_bytes = {to: self._number(of_hardware / name) for name, to in HW_TRAFFIC.items()}
        known = {name: value for name, value in in_bytes.items() if value is not None}
        if not known:
            self._odd.note(folder, "counts no data: no bandwidth and no error rate from here")
        return {**counters, **known}, 1

    def _data_bytes(self, device: Path) -> int:
        try:
            driver = (device / "device" / "driver").readlink().name
        except OSError:
            driver = ""  # a copy of the tree
        return data_bytes_of(driver or device.name)

    def _unknown(self, device: Path, folder: Path) -> str:
        """Return the name of a counter of the port, if it has any."""
        folders = (folder / "counters", folder / "hw_counters", device / "hw_counters")
        names = (name for at in folders if at.is_dir() for name in sorted(self._names(at)) if name != "lifespan")
        return next(names, "")

    def _folder(self, folder: Path, suffix: str = "") -> dict[str, int]:
        there = set(self._names(folder)) if folder.is_dir() else set()
        values = {name: self._number(folder / (name + suffix)) for name in INDEX if name + suffix in there}
        return {name: value for name, value in values.items() if value is not None}

    def _bond_gbps(self, device: Path, port: Path, leg_gbps: float) -> float:
        """Return what the legs of a RoCE bond carry together by its network interface, NaN if there is none to be seen.

        The kernel's own speed of a bond is that of the legs that may send.
        """
        bond = next(filter(None, map(self._bond_of, self._interfaces(device, port))), None)
        if bond is None or not (is_named_as_bond(device.name) or self._has_all_legs(device, bond)):
            return np.nan
        speed = self._text(bond / "speed", is_optional=True)  # Mb/s; EINVAL or -1 while it is down
        if speed.isascii() and speed.isdigit() and int(speed):
            return int(speed) / 1000
        sends_on_one = self._text(bond / "bonding" / "mode").startswith(("active-backup", "broadcast"))
        legs = 1 if sends_on_one else len(self._legs(bond))
        return leg_gbps * legs if legs else np.nan

    def _interfaces(self, device: Path, port: Path) -> Iterator[Path]:
        """Yield the network interfaces of a RoCE port: those of its device, and that of its first GID."""
        of_device, of_all = device / "device" / "net", self._root.parent / "net"
        names = sorted(self._names(of_device)) if of_device.is_dir() else []
        names.append(self._text(port / "gid_attrs" / "ndevs" / "0", is_optional=True))
        for name in names:
            if _INTERFACE.fullmatch(name):
                yield of_device / name if (of_device / name).is_dir() else of_all / name

    @staticmethod
    def _bond_of(interface: Path) -> Path | None:
        """Return the interface itself or its master, whichever is a bond."""
        return next((bond for bond in (interface, interface / "master") if (bond / "bonding").is_dir()), None)

    def _legs(self, bond: Path) -> list[str]:
        return [name for name in self._text(bond / "bonding" / "slaves").split() if _INTERFACE.fullmatch(name)]

    def _has_all_legs(self, device: Path, bond: Path) -> bool:
        """Whether no leg has an RDMA device of its own: two devices under one interface are no bond of ports."""
        of_legs = [self._root.parent / "net" / leg / "device" / "infiniband" for leg in self._legs(bond)]
        own = [name for folder in of_legs if folder.is_dir() for name in self._names(folder)]
        return own == [device.name]

    def _number(self, file: Path) -> int | None:
        if not (text := self._text(file)):
            return None
        if text.isascii() and text.isdigit() and len(text) <= 20 and (value := int(text)) < 2**64:
            return value
        self._odd.note(file, "is no counter value", text)
        return None

    def _names(self, folder: Path) -> list[str]:
        try:
            return [path.name for path in folder.iterdir()]
        except OSError as error:
            self._odd.note(folder, error.strerror or str(error))
            return []

    def _text(self, file: Path, *, is_optional: bool = False) -> str:
        """Return a file's first 4 KiB without the white space around, nothing where it can't be read."""
        try:
            # A pipe somebody left in a tree must not hold up the sample: open it without waiting, and don't read it.
            with open(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as opened:  # noqa: PTH123
                if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    return (opened.read(4096) or b"").decode(errors="replace").strip()
                self._odd.note(file, "is no regular file")
        except FileNotFoundError:
            pass  # an optional one
        except OSError as error:
            if not is_optional:
                self._odd.note(file, error.strerror or str(error))
        return ""
