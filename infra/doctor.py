"""What linkcast needs on this machine, whether it is there, and the fix where it isn't."""

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import streams
from infra.broker import jars
from infra.java import find_java
from infra.options import kafka_settings
from infra.topics import compare, list_topics
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, await_broker
from streams.topics import TOPICS

FREE_BYTES_MIN = 2_000_000_000
"""The demo's topics, table and models take 0.5 GB; a Kafka whose disk fills up ends at once."""
ANSWER_SECONDS_MAX = 5.0
PACKAGES = (
    *("aiokafka", "cramjam", "cryptography", "jgo", "numba", "numpy", "prometheus_client", "psutil", "pyarrow", "rich"),
    *("tzdata", "uvloop", "xgboost", "zstandard"),
)
"""What the extra `demo` brings, by import name. Markers and names of distributions can't be read without a library."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    fix: str = ""  # what to do, where it is not ok
    needed: bool = True  # False: worth saying, but nothing fails for it


async def examine(options: dict[str, Any]) -> list[Check]:
    """Look at this machine and at the cluster that `options` (of `cluster_options`) means; changes neither."""
    home, prefix = options["home"], options.pop("prefix")
    checks = [*_machine(), *_places(home), _model(home)]
    try:
        kafka = kafka_settings(options)
        await await_broker(kafka, seconds=ANSWER_SECONDS_MAX)
    except LinkcastError as error:
        return [*checks, Check("kafka", False, "no answer", str(error))]
    return [*checks, Check("kafka", True, f"answers at {kafka.bootstrap}"), await _topics(kafka, prefix)]


def _machine() -> Iterator[Check]:
    version = sys.version.split()[0]
    yield Check("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    yield Check(
        "packages",
        not absent,
        f"missing: {', '.join(absent)}" if absent else "all there",
        "run 'make setup' in the checkout",
    )
    try:
        java = find_java()
        yield Check("java", True, f"{java.version} at {java.path}")
    except LinkcastError as error:
        yield Check("java", False, "none", str(error))
    if "jgo" not in absent:
        yield _jars(jars.maven_repository())


def _jars(repository: Path) -> Check:
    missing = jars.missing_jars(repository)
    found = f"{len(missing)} to fetch" if missing else f"Kafka {jars.VERSION} verified"
    return Check("jars", not missing, found, "'linkcast broker up' fetches them", needed=False)


def _places(home: Path) -> Iterator[Check]:
    yield _writable("home", home, "give another folder by LINKCAST_HOME")
    free = shutil.disk_usage(_existing(home)).free
    yield Check(
        "disk", free >= FREE_BYTES_MIN, f"{free / 1e9:.1f} GB free at {home}", "free 2 GB, or set LINKCAST_HOME"
    )
    # As Numba chooses: the folder it is told, else beside the source, else the user's own.
    told = [Path(folder)] if (folder := os.environ.get("NUMBA_CACHE_DIR")) else []
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numba"
    caches = [
        _writable("numba cache", place, "set NUMBA_CACHE_DIR to a folder that you may write to")
        for place in (*told, Path(str(streams.__file__)).with_name("__pycache__"), users)
    ]
    yield next((cache for cache in caches if cache.ok), caches[0])


def _writable(name: str, folder: Path, fix: str) -> Check:
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return Check(name, True, f"{folder} is writable")
    except OSError as error:
        return Check(name, False, f"{folder}: {error.strerror}", fix)


def _existing(folder: Path) -> Path:
    """Return the nearest folder upwards that is there: making the rest is for whoever needs it."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _model(home: Path) -> Check:
    bundles = sorted(manifest.parent.name for manifest in (home / "models").glob("*/manifest.json"))
    found = f"{len(bundles)} in {home / 'models'}" if bundles else f"none in {home / 'models'}: the rules score"
    return Check("models", bool(bundles), found, "'linkcast train' makes one", needed=False)


async def _topics(kafka: KafkaSettings, prefix: str) -> Check:
    fix = "'linkcast topics apply' makes what is missing and says how to mend what differs"
    found = {topic.topic.removeprefix(prefix): topic for topic in await list_topics(kafka, prefix)}
    missing = [topic.name for topic in TOPICS if topic.name not in found]
    if missing:
        return Check("topics", False, f"missing: {', '.join(missing)}", fix)
    # How many partitions and copies was the choice of whoever made them; that they agree is what counts.
    of_metrics = found["metrics"].partitions
    differing = [
        str(difference)
        for topic in TOPICS
        for difference in compare(
            topic, found[topic.name], partitions=of_metrics, replication=found[topic.name].replication
        )
    ]
    return Check("topics", not differing, "; ".join(differing) or f"as declared, {of_metrics} partitions", fix)
