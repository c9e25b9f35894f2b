"""The jars of the embedded Kafka: exactly those of `kafka.lock.toml`, fetched by jgo into the local Maven repository.

A jar is used only if its sha256 is the locked one; what comes over the network is checked before it gets its name, so
that an interrupted or altered download never stands where a good jar is looked for.

    python -m infra.broker.jars --lock    # resolve ROOTS again and rewrite the lock: review the difference
"""

import hashlib
import os
import sys
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streams.contract import LinkcastError

if TYPE_CHECKING:
    from jgo.maven import Artifact

VERSION = "4.3.1"
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",  # the broker names no binding, and would log nothing
)
LOCK = Path(__file__).with_name("kafka.lock.toml")


class JarsMissing(LinkcastError):
    """A jar of the lock is not here and could not be fetched, or what was fetched is not the locked one."""


class LockedJar(NamedTuple):
    """One line of the lock: Maven coordinates, size and sha256 of the file."""

    group: str
    name: str
    version: str
    size: int
    sha256: str

    def artifact_in(self, repository: Path) -> "Artifact":
        """Return jgo's artifact of this jar, cached under `repository`."""
        from jgo.maven import MavenContext

        context = MavenContext(repo_cache=repository, timeout=60)
        return context.project(self.group, self.name).at_version(self.version).artifact()

    def path_in(self, repository: Path) -> Path:
        """Return where this jar stands in a Maven repository, whether or not it is there."""
        return repository.joinpath(*self.group.split("."), self.name, self.version, f"{self.name}-{self.version}.jar")


def locked_jars() -> list[LockedJar]:
    """Return the jars of the committed lock, in its order: the class path's."""
    return [LockedJar(**entry) for entry in tomllib.loads(LOCK.read_text("utf-8"))["jar"]]


def maven_repository() -> Path:
    """Return the local Maven repository that jgo and `mvn` share: M2_REPO, else `~/.m2/repository`."""
    from jgo.constants import default_maven_repo

    return Path(default_maven_repo())


def missing_jars(repository: Path) -> list[LockedJar]:
    """Return the locked jars that `repository` lacks, or holds with other bytes."""
    with ThreadPoolExecutor(4) as pool:
        jars = locked_jars()
        sound = pool.map(lambda jar: _is_sound(jar.path_in(repository), jar), jars)
        return [jar for jar, ok in zip(jars, sound, strict=True) if not ok]


def class_path(repository: Path, *, progress: Callable[[int, int], None]) -> str:
    """Return the class path of the broker, all its jars verified, the missing ones fetched first.

    `progress` is told (bytes fetched, bytes to fetch) after each jar. Raises `JarsMissing`.
    """
    missing = missing_jars(repository)
    fetched, total = 0, sum(jar.size for jar in missing)
    if missing:
        progress(0, total)
    with ThreadPoolExecutor(4) as pool:
        for jar in pool.map(lambda jar: _fetch(jar, repository), missing):
            fetched += jar.size
            progress(fetched, total)
    return os.pathsep.join(str(jar.path_in(repository)) for jar in locked_jars())


def _fetch(jar: LockedJar, repository: Path) -> LockedJar:
    import requests

    repository.mkdir(parents=True, exist_ok=True)
    target = jar.path_in(repository)
    # jgo writes straight to the final name: let it do so in a folder of its own, and move what proved right.
    with tempfile.TemporaryDirectory(dir=repository, prefix=".linkcast-") as staging:
        try:
            arrived = jar.artifact_in(Path(staging)).resolve()
        except (requests.RequestException, RuntimeError) as error:
            raise JarsMissing(
                f"{target.name}: could not be fetched from Maven Central ({type(error).__name__}): check the network "
                "and try again, or use a Kafka you have by LINKCAST_BOOTSTRAP"
            ) from error
        if not _is_sound(arrived, jar):
            raise JarsMissing(
                f"{target.name}: its sha256 is not the one in {LOCK.name}; a proxy or mirror altered it or cut it "
                "short. Nothing was kept: try again, or from another network"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        arrived.replace(target)
    return jar


def _is_sound(path: Path, jar: LockedJar) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def resolve_lock() -> str:
    """Resolve `ROOTS` with all they need at run time, and return the text of the lock."""
    from jgo.maven import MavenContext

    context = MavenContext()
    # "!": each root with the versions of its own pom; managed, one root would impose its versions on the others.
    inputs, transitive = context.resolver.resolve([context.create_dependency(f"{root}!") for root in ROOTS])
    lines = ["# The jars of the embedded Kafka. Written by `python -m infra.broker.jars --lock`.\n"]
    for dependency in inputs + transitive:
        artifact = dependency.artifact
        jar = artifact.resolve().read_bytes()
        lines.append(
            f'\n[[jar]]\ngroup = "{artifact.groupId}"\nname = "{artifact.artifactId}"\nversion = "{artifact.version}"\n'
            f'size = {len(jar)}\nsha256 = "{hashlib.sha256(jar).hexdigest()}"\n'
        )
    return "".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] != ["--lock"]:
        sys.exit("usage: python -m infra.broker.jars --lock")
    LOCK.write_text(resolve_lock(), "utf-8")
    print(f"{LOCK.name}: {len(locked_jars())} jars", file=sys.stderr)
