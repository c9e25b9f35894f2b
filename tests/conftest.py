"""A real Kafka for every test that asks for one.

The embedded broker, one a test process, from a fresh folder and ended with the session; LINKCAST_TEST_BROKER=docker
takes a container instead, LINKCAST_TEST_BOOTSTRAP=host:port a broker that is there already.
"""

import os
import resource
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from infra.broker.process import running_broker
from streams.kafka import KafkaSettings

settings.register_profile("busy machine", deadline=None)  # a slow example says nothing of the code here
settings.load_profile("busy machine")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once, before xdist starts processes that would all do it at the same time."""
    if not hasattr(session.config, "workerinput"):
        from online.worker.prediction_json import compile_encoder
        from streams.features.stream_table import compile_kernel

        compile_kernel()
        compile_encoder()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out for want of `make setup-cdk`: among the skipped nobody sees it."""
    skipped = terminalreporter.stats.get("skipped", ())
    if n := sum("make setup-cdk" in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(
            f"{n} tests of infra/cdk were left out: make setup-cdk brings what they need", yellow=True
        )


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """The settings of a real broker, shared by the tests of this process: keep to your own `prefix`."""
    if given := os.environ.get("LINKCAST_TEST_BOOTSTRAP"):
        yield KafkaSettings(bootstrap=given)
    elif os.environ.get("LINKCAST_TEST_BROKER") == "docker":
        from testcontainers.community.kafka import KafkaContainer

        container = KafkaContainer("confluentinc/cp-kafka:7.9.0").with_kraft()  # Kafka 3.9: the older line, too
        for setting in ("REPLICATION_FACTOR", "MIN_ISR"):
            container.with_env(f"KAFKA_TRANSACTION_STATE_LOG_{setting}", "1")
        with container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false"):
            yield KafkaSettings(bootstrap=container.get_bootstrap_server())
    else:
        with running_broker(tmp_path_factory.mktemp("broker")) as bootstrap:
            yield KafkaSettings(bootstrap=bootstrap)


@pytest.fixture
def prefix() -> str:
    """A topic prefix that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture
async def topics(kafka: KafkaSettings, prefix: str) -> str:
    """The prefix, with all declared topics created, 2 partitions each where their number is free."""
    from infra.topics import apply_topics

    await apply_topics(kafka, prefix, partitions=2, replication=1)
    return prefix


@pytest.fixture
def consume_all(kafka: KafkaSettings) -> Callable[[str], Awaitable[list]]:
    """`await consume_all(topic)` reads a topic's committed records from its beginning to its end now."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from streams.inside_aiokafka import fetch_metadata

    async def read(topic: str) -> list:
        consumer = AIOKafkaConsumer(
            **kafka.client_arguments(),
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_partition_fetch_bytes=16 * 1024 * 1024,
        )
        async with consumer:
            await fetch_metadata(consumer)
            partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            records = []
            while any([await consumer.position(p) < end for p, end in ends.items()]):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records += batch
        return records

    return read


@pytest.fixture
def room_for() -> Callable[[int], AbstractContextManager[None]]:
    """`with room_for(n):` lets no file grow beyond n bytes.

    The kernel then takes a part of a write and refuses the next one (EFBIG), as on a full disk, and needs no mount, no
    root and no child process.
    """

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, str, str], None]:
    """`edit(module, old, new)` lets whoever reads the module's source find `new` in it; what was imported stays."""

    def replace(module: ModuleType, old: str, new: str) -> None:
        edited, read = Path(str(module.__file__)), Path.read_bytes
        assert old.encode() in read(edited), f"{edited} has no {old!r}: the test would prove nothing"
        monkeypatch.setattr(
            Path,
            "read_bytes",
            lambda file: read(file).replace(old.encode(), new.encode()) if file == edited else read(file),
        )

    return replace
