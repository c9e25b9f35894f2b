"""The embedded Kafka as a process of this machine: up, found again, down.

One folder (`home`) holds one broker: `broker.json` (who runs, where), `broker.lock`, `broker.log`,
`server.properties`, and `data` unless another folder is given for it. The process outlives the command that started
it. It is known by its pid *and* its start time, so that a pid that was given to another program is never taken for
it, nor ended.
"""

import asyncio
import contextlib
import fcntl
import secrets
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]

from infra.broker import jars
from infra.broker.config import JVM, JVM_OF_TOOLS, server_properties
from infra.broker.failure import PORT_TAKEN, cause_in
from infra.java import find_java
from streams.contract import LinkcastError
from streams.kafka import KafkaSettings, why_no_answer

READY_SECONDS_MAX = 60.0
"""A start takes 3 s; a large log after kill −9 is recovered in well under a minute."""
STOP_SECONDS_MAX = 30.0
ATTEMPTS_MAX = 3
"""Kafka binds its ports seconds after they were found free (8.5 s measured), and others choose ports as well."""
LOG_CONFIG = Path(__file__).with_name("log4j2.properties")
STARTS = "linkcast starts Kafka"
"""What stands in the log before each start, so that a failure is never explained by an older one."""


class BrokerFailed(LinkcastError):
    """The embedded Kafka could not be brought up."""


class PortTaken(BrokerFailed):
    """Another program has the port that was asked for, or was quicker at one that was free when it was chosen."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What `broker.json` says of the broker that was started last."""

    bootstrap: str
    controller_port: int
    pid: int
    started: float  # the process's start time as the system tells it, in seconds since the epoch
    version: str  # of Kafka
    data: str
    log: str

    @property
    def port(self) -> int:
        """The port that clients use."""
        return int(self.bootstrap.rpartition(":")[2])

    def summary(self) -> dict[str, str | int]:
        """Return what concerns a user: bootstrap, pid, version, data, log."""
        kept = ("bootstrap", "pid", "version", "data", "log")
        return {field: getattr(self, field) for field in kept}

    def process(self) -> psutil.Process | None:
        """Return the process if it is alive and still the one that was started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            # The system derives the start time from the boot time, which a clock step moves a little.
            if process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - self.started) < 2:
                return process
        return None


class EmbeddedBroker:
    """The one embedded broker of a folder.

    Parameters
    ----------
    home
        Where its state, lock and log are.
    data
        Kafka's own log directory; unless given, that of the last start, at first `home/data`.
    """

    def __init__(self, home: Path, data: Path | None = None) -> None:
        self.home = home.absolute()
        self.log = self.home / "broker.log"
        self._state = self.home / "broker.json"
        last = self._last()
        self.data = (data or (Path(last.data) if last else self.home / "data")).absolute()

    def find(self) -> Running | None:
        """Return the broker that runs from this folder, or None."""
        last = self._last()
        return last if last and last.process() else None

    def up(self, *, port: int | None = None) -> Running:
        """Return the running broker, started if need be, once it answers.

        It takes `port`; without one that of its last start if it is free, else any free one, and another where somebody
        takes that before Kafka does. Raises `BrokerFailed`, `NoJava` or `JarsMissing`; then nothing is left running.
        Not to be called inside an event loop.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._locked():
            running = self.find()
            if running:
                self._check_same(running, port)
                asyncio.run(self._until_it_answers(running))
                return running
            for _ in range(ATTEMPTS_MAX - 1):
                with contextlib.suppress(PortTaken):  # the next start chooses ports anew
                    return self._bring_up(port)
            return self._bring_up(port)

    def down(self) -> Running | None:
        """End the running broker, cleanly if it lets us within 30 s, and return it; None if none ran."""
        if not self.home.is_dir():
            return None
        with self._locked():
            running = self.find()
            if running:
                _end(running)
            return running

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The system drops the lock with its holder, however that ends: a stale one can't be.
        with (self.home / "broker.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _last(self) -> Running | None:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=Running)
        except (FileNotFoundError, msgspec.DecodeError):
            return None  # none yet, or a write cut short by a full disk: a broker's data doesn't depend on it

    def _check_same(self, running: Running, port: int | None) -> None:
        if running.data != str(self.data) or port not in (None, running.port):
            raise BrokerFailed(
                f"a broker runs already at {running.bootstrap} with its data in {running.data}: "
                "'linkcast broker down' first, or leave --port and --data out to use it"
            )

    def _bring_up(self, port: int | None) -> Running:
        running = self._start(port)
        try:
            asyncio.run(self._until_it_answers(running))
        except BaseException:  # Ctrl-C as well: what we started must not stay behind half started
            _end(running)
            raise
        return running

    def _start(self, port: int | None) -> Running:
        port, controller_port = _choose_ports(port, self._last())
        jvm = self._jvm()
        self.data.mkdir(parents=True, exist_ok=True)
        properties = self.home / "server.properties"
        properties.write_text(server_properties(data=self.data, port=port, controller_port=controller_port), "ascii")
        if not (self.data / "meta.properties").exists():
            self._format([*jvm, *JVM_OF_TOOLS], properties)
        pid = self._launch([*jvm, *JVM, "kafka.Kafka", str(properties)])
        running = Running(
            bootstrap=f"127.0.0.1:{port}",
            controller_port=controller_port,
            pid=pid,
            started=psutil.Process(pid).create_time(),
            version=jars.VERSION,
            data=str(self.data),
            log=str(self.log),
        )
        # Before it answers: whoever comes after a kill −9 of this command finds the broker all the same.
        _write_whole(self._state, msgspec.json.encode(running))
        return running

    def _jvm(self) -> list[str]:
        java = find_java().path
        class_path = jars.class_path(jars.maven_repository(), progress=_say_progress)
        logging = (f"-Dlog4j2.configurationFile={LOG_CONFIG}", f"-Dlinkcast.broker.log={self.log}")
        return [str(java), "-cp", class_path, *logging]

    def _format(self, jvm: list[str], properties: Path) -> None:
        # 16 bytes, the first one 0: of a random one, every 64th text starts with "-" and is taken for an option.
        cluster = urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(properties)]
        # S603: our own argument list and no shell, here and below.
        ran = subprocess.run([*jvm, *tool], capture_output=True, text=True, cwd=self.home)  # noqa: S603
        if ran.returncode:
            raise self._failure(cause_in(ran.stderr + ran.stdout))

    def _launch(self, arguments: list[str]) -> int:
        """Start the broker as a process of its own, which outlives this one, and return its pid."""
        with self.log.open("ab") as log:
            log.write(f"{STARTS} {jars.VERSION}\n".encode())
            log.flush()
            process = subprocess.Popen(  # noqa: S603
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                start_new_session=True,  # Ctrl-C at the command that started it is not for the broker
            )
        process.returncode = 0  # let go: a Popen that is collected while its process lives would warn
        return process.pid

    async def _until_it_answers(self, running: Running) -> None:
        kafka = KafkaSettings(bootstrap=running.bootstrap)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while await why_no_answer(kafka) is not None:
            if running.process() is None:
                cause = cause_in(self._log_since_start())
                raise self._failure(cause, PortTaken if cause == PORT_TAKEN else BrokerFailed)
            if time.monotonic() > deadline:
                raise self._failure(f"pid {running.pid} runs and gave no answer within {READY_SECONDS_MAX:g} s")
            await asyncio.sleep(0.05)

    def _log_since_start(self) -> str:
        return self.log.read_text("utf-8", errors="replace").rpartition(STARTS)[2]

    def _failure(self, cause: str, kind: type[BrokerFailed] = BrokerFailed) -> BrokerFailed:
        return kind(f"Kafka did not come up: {cause}. Its data: {self.data}, its log: {self.log}")


@contextlib.contextmanager
def running_broker(home: Path) -> Iterator[str]:
    """Bring up the broker of `home`, give its bootstrap address, and take it down at the end if we started it."""
    broker = EmbeddedBroker(home)
    was_up = broker.find() is not None
    try:
        yield broker.up().bootstrap
    finally:
        if not was_up:
            broker.down()


def _end(running: Running) -> None:
    process = running.process()
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)


def _choose_ports(port: int | None, last: Running | None) -> tuple[int, int]:
    """Return the clients' port and the controller's: the given one, else the last ones while they are free."""
    if port is not None and not _is_free(port):
        raise PortTaken(f"port {port} is taken: choose another by --port, or leave it out for any free one")
    with socket.socket() as any_one, socket.socket() as any_other:  # both held, so that they differ
        any_one.bind(("127.0.0.1", 0))
        any_other.bind(("127.0.0.1", 0))
        chosen = port or (last.port if last and _is_free(last.port) else any_one.getsockname()[1])
        keep = last is not None and last.controller_port != chosen and _is_free(last.controller_port)
        return chosen, last.controller_port if last and keep else any_other.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Java binds: what lingers from closed connections does not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise BrokerFailed(f"port {port} is reserved for root: choose one above 1023 by --port") from error
        except OSError:
            return False
    return True


def _say_progress(fetched: int, total: int) -> None:
    """Say on stderr how far the first download is: on a terminal as it goes, else at its start and end."""
    if sys.stderr.isatty() or fetched in (0, total):
        end = "\r" if sys.stderr.isatty() and fetched < total else "\n"
        print(
            f"fetching Kafka {jars.VERSION}: {fetched / 1e6:.0f} of {total / 1e6:.0f} MB",
            end=end,
            file=sys.stderr,
            flush=True,
        )


def _write_whole(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)
