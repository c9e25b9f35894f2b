"""The fixtures of other projects (docs/data.md), unpacked for one test."""

from pathlib import Path

import pytest

from streams.ingest.sources import collect

DATA = Path(collect.__file__).with_name("samples")


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture
def sysfs_tree(tmp_path: Path) -> Path:
    """procfs's `sys/class/infiniband`: hfi1_0 (Omni-Path), mlx4_0 (two ports), mlx5_0 (hw_counters)."""
    lines = iter((DATA / "procfs-sys-class-infiniband.ttar").read_text().splitlines())
    for line in lines:
        kind, _, path = line.partition(": ")
        if kind == "Directory":
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
        elif kind == "Path":
            count = int(next(lines).removeprefix("Lines: "))
            content = "".join(next(lines) + "\n" for _ in range(count))
            (tmp_path / path).write_text(content.replace("EOF\n", ""))  # ttar's mark of no final newline
    return tmp_path / "fixtures" / "sys" / "class" / "infiniband"
