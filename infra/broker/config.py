"""The settings of the embedded Kafka: one KRaft node on loopback, quick to start, able to carry 12 MiB records."""

from pathlib import Path

JVM = ("-Xms512m", "-Xmn320m", "-Xmx768m", "-XX:+UseSerialGC")
"""No collector beside Kafka's own threads, and room for ten seconds of garbage at 10,000 events/s: a collection stops
the broker for 20 ms, however little there is. One every two seconds (-Xmn64m) doubled p99 of a prediction."""
JVM_OF_TOOLS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""For what ends before a second compiler pays."""


def server_properties(*, data: Path, port: int, controller_port: int) -> str:
    """Return the `server.properties` of a single node with its log in `data`.

    >>> print(server_properties(data=Path("d"), port=9092, controller_port=9093).splitlines()[3])
    listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": data,
        # A mistyped topic is an error, never a new topic with the wrong partitions.
        "auto.create.topics.enable": "false",
        # One node: every internal topic has one replica, and few partitions are quick to make and to load.
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # After kill -9 the node is let in again once its former life's session is over: 9 s by default.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        # The cleaner's default buffer of 128 MiB is a quarter of this heap; 32 MiB hold 1.4 million keys a pass.
        "log.cleaner.dedupe.buffer.size": 32 * 1024 * 1024,
        # `metrics.dead` takes 13 MiB: a record of 12 MiB with its headers. Topics have their own, smaller limits.
        "message.max.bytes": 14 * 1024 * 1024,
    }
    return "".join(f"{key}={_escaped(value)}\n" for key, value in settings.items())


def _escaped(value: object) -> str:
    r"""Return a value as Java's Properties reads it back: backslashes doubled, what is not ASCII as escapes.

    >>> print(_escaped("dätä"))
    d\u00e4t\u00e4
    """
    text = str(value).replace("\\", "\\\\")
    return "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in text)
