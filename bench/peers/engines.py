"""The engines of the comparison: where each one's job is, how it is installed, and how it is started.

Each peer lives in a folder of its own in the user's cache, named by the hash of what it is made from: a virtual
environment with the packages of its hashed lock, or a jar that Maven built from a copy of its sources.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from infra.demo.processes import end
from infra.java import find_java
from streams.contract import LinkcastError

ROOT = Path(__file__).parents[2]
JOBS = Path(__file__).parent
STOP_S_MAX = 30.0
_OURS = {"bare": "bench.peers.bare", "linkcast": "bench.peers.linkcast_job"}
_PYTHON = {"faust": "faust-streaming", "quix": "quixstreams", "bytewax": "bytewax"}
_JAVA = {"kafka_streams": "kafka-streams", "flink": "flink", "flink-chained": "flink"}
"""The folder of each one's sources, which is the name of the project as well."""
_VARIANT = {"flink": ("keyBy", ()), "flink-chained": ("tuned by hand", ("--chained", "true"))}
"""Of a project that has two rows: what tells them apart, and the arguments that do it."""
_HEAP_MAX = {"kafka-streams": "-Xmx768m", "flink": "-Xmx1g"}
_WARM_UP = {"faust": 5_000, "quix": 10_000, "bytewax": 50_000}
_WARM_UP_JAVA = 700_000
_WARM_UP_OURS = 150_000
_ROUNDS_MAX = {"faust": 3, "quix": 3}
"""Of engines that take a minute until the hour has expired: enough for a range, and the whole lasts minutes less."""

ENGINES = (*_OURS, *_PYTHON, *_JAVA)


class NotInstalled(LinkcastError):
    """An engine could not be made ready on this machine."""


class Engine(NamedTuple):
    """One engine, ready to run."""

    name: str
    command: tuple[str, ...]
    version: str
    warm_up: int  # outputs before the first sample: imports, compilers and caches are behind it

    @property
    def rounds_max(self) -> int | None:
        """In how many rounds it takes part, None: in all."""
        return _ROUNDS_MAX.get(self.name)

    @property
    def carries(self) -> bool:
        """Whether its output is its input."""
        return self.name == "bare"


def install(name: str) -> Engine:
    """Make an engine ready, from the cache where it is there; raises `NotInstalled`."""
    if name in _OURS:
        what = f"aiokafka {version('aiokafka')}" if name == "bare" else f"linkcast {version('linkcast')}"
        return Engine(name, (sys.executable, "-m", _OURS[name]), what, _WARM_UP_OURS)
    if name in _PYTHON:
        python = _environment(name)
        return Engine(name, (str(python), str(JOBS / f"{name}_job.py")), _locked_version(name), _WARM_UP[name])
    return _java_engine(name)


def _java_engine(name: str) -> Engine:
    project = _JAVA[name]
    variant, arguments = _VARIANT.get(name, ("", ()))
    jar = _jar(JOBS / "java" / project)
    what = ", ".join(filter(None, (_pom_version(jar.parents[1] / "pom.xml", project), variant)))
    command = (str(find_java().path), _HEAP_MAX[project], "-jar", str(jar), *arguments)
    return Engine(name, command, what, _WARM_UP_JAVA)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linkcast" / "peers"


def _environment(name: str) -> Path:
    """Return the Python of a peer's own virtual environment."""
    lock = ROOT / "requirements" / f"peers-{name}.txt"
    home = _cache() / f"{name}-{hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(name, [*pip, "--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", lock])
        (home / "ready").touch()
    return python


def _jar(sources: Path) -> Path:
    """Return the jar of a Java project, built outside the checkout; two engines may share it."""
    name = sources.name
    files = sorted(path for path in sources.rglob("*") if path.is_file() and "target" not in path.parts)
    if not files:
        raise NotInstalled(f"{name}: no sources in {sources.relative_to(ROOT)}")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]
    build = _cache() / f"{name}-{digest}"
    jar = build / "target" / "app.jar"
    if not jar.exists():
        if not shutil.which("mvn"):
            raise NotInstalled(f"{name}: no mvn on PATH to build it with (Debian: apt-get install maven)")
        shutil.copytree(sources, build, ignore=shutil.ignore_patterns("target"), dirs_exist_ok=True)
        _run(name, ["mvn", "-q", "-f", build / "pom.xml", "package"])
    return jar


def _run(name: str, command: list[str | Path]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        said = [line for line in (ran.stdout + ran.stderr).splitlines() if line.strip()]
        raise NotInstalled(f"{name}: {command[0]} ended with {ran.returncode}: {said[-1] if said else 'no word'}")


def _locked_version(name: str) -> str:
    lock = (ROOT / "requirements" / f"peers-{name}.txt").read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock, re.MULTILINE))
    return f"{_PYTHON[name]} {pins[_PYTHON[name]]}"


def _pom_version(pom: Path, project: str) -> str:
    found = re.search(r"<(?:flink|kafka)\.version>([^<]+)<", pom.read_text())
    return f"{project} {found[1] if found else 'as its pom says'}"


def check_names(names: list[str]) -> None:
    """Raise `NotInstalled` for a name that is no engine's."""
    unknown = [name for name in names if name not in ENGINES]
    if unknown:
        raise NotInstalled(f"no engine {', '.join(unknown)}: choose among {', '.join(ENGINES)}")


@contextlib.contextmanager
def running(
    engine: Engine, *, bootstrap: str, topic_in: str, topic_out: str, app: str, home: Path, core: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run an engine on one core until the block ends; what it says goes to `home/APP.log`, its state to `home/APP`."""
    state = home / app
    state.mkdir(exist_ok=True)
    arguments = ["--bootstrap", bootstrap, "--in", topic_in, "--out", topic_out, "--app", app, "--state", str(state)]
    ours = os.sched_getaffinity(0)
    with (home / f"{app}.log").open("ab") as log:
        # Inherited, and not set afterwards: a Java that saw more cores at its start would choose another collector.
        os.sched_setaffinity(0, {core})
        try:
            process = subprocess.Popen(
                [*engine.command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=state if engine.name not in _OURS else ROOT, start_new_session=True,
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, ours)
    try:
        yield process
    finally:
        end(process, within_s=STOP_S_MAX)
