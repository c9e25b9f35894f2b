"""Ports of this machine from `/sys/class/infiniband`, or from any tree of that shape.

Layout, counters and their odd cases: Documentation/ABI/stable/sysfs-class-infiniband of the kernel; a device may lack
`counters/` (bnxt_re, irdma), have `hw_counters/` of its own instead of its ports', answer EINVAL (ConnectX-7 as a
switch) or `N/A (no PMA)`. Only what can't be read is left out.
"""

import os
import re
import stat
import time
from pathlib import Path

import numpy as np

from streams.sources.collect import Oddities, Reading
from streams.sources.counters import INDEX

ROOT = Path("/sys/class/infiniband")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_RATE = re.compile(r"(\d+(?:\.\d+)?) ?Gb/sec")  # "2.5 Gb/sec (1X SDR)"
_STATE = re.compile(r"(\d+):")  # "4: ACTIVE"


class Sysfs:
    """The devices under `root`, as streams `host/device:port`."""

    def __init__(self, root: Path, *, host: str, odd: Oddities) -> None:
        self._root, self._host, self._odd = root, host, odd
        self._boot_id = self._text(BOOT_ID)

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
        counters = self._counters(device, folder)
        rate = _RATE.match(self._text(folder / "rate"))
        states = {name: _STATE.match(self._text(folder / name)) for name in ("state", "phys_state")}
        if not (counters or rate or any(states.values())):
            self._odd.note(folder, "has nothing that can be read")
            return None
        return Reading(
            node=self._host,
            port=f"{device.name}:{int(port)}",
            ts=ts,
            monotonic_s=monotonic_s,
            counters=counters,
            rate_gbps=float(rate[1]) if rate else np.nan,
            is_roce=self._text(folder / "link_layer") == "Ethernet",
            boot=self._boot_id + self._text(device / "node_guid"),
            extra={name: float(state[1]) for name, state in states.items() if state},
        )

    def _counters(self, device: Path, folder: Path) -> dict[str, int]:
        if not (folder / "counters").is_dir():
            self._odd.note(folder, "has no counters/: no bandwidth and no error rate from here")
        of_port = folder / "hw_counters"
        return {
            **self._folder(of_port if of_port.is_dir() else device / "hw_counters"),
            **self._folder(folder / "counters"),
            **self._folder(folder / "counters_ext", suffix="_64"),  # kernels before 4.5
        }

    def _folder(self, folder: Path, suffix: str = "") -> dict[str, int]:
        there = set(self._names(folder)) if folder.is_dir() else set()
        values = {name: self._number(folder / (name + suffix)) for name in INDEX if name + suffix in there}
        return {name: value for name, value in values.items() if value is not None}

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

    def _text(self, file: Path) -> str:
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
            self._odd.note(file, error.strerror or str(error))
        return ""
