"""The window job on Faust: a table in memory with its changelog, events taken some thousands at a time.

A table can't be written from the body of a `take` (faust#300, #497) unless Kafka's partitioner chooses the changelog's
partition. Here that is the event's own, since both have the stream as key: so `use_partitioner`, and one write a
stream and batch in place of one an event.
"""

import argparse
import struct
from array import array

import faust
import msgspec
from mode.loop import use

PANE_MS, PANES = 20_000, 180
WINDOW_PANES = (15, 45, 180)
HEAD = struct.Struct("<q3d3i")  # newest pane; sums and counts of the windows
SUM_BYTES = PANES * 8
BATCH, WITHIN_S = 4_000, 0.5  # 0.8 of the CPU of 1,000 within 0.1 s: fewer writes to the table


class Event(msgspec.Struct, gc=False):
    """What the job reads of an event."""

    stream_id: str
    ts: int
    latency_p99: float


class Output(msgspec.Struct, gc=False):
    """What it writes."""

    stream_id: str
    ts: int
    mean_5m: float
    mean_15m: float
    mean_60m: float


decode = msgspec.json.Decoder(Event).decode
encode = msgspec.json.Encoder().encode


class Windows:
    """The panes of one stream by pane modulo 180, empty where no event is, and the sums of the three windows."""

    def __init__(self, packed: bytes | None) -> None:
        packed = packed or HEAD.pack(-1, 0, 0, 0, 0, 0, 0) + bytes(PANES * 10)
        self.newest, *totals = HEAD.unpack_from(packed)
        self.sums, self.ns = totals[:3], totals[3:]
        self.sum, self.n = array("d"), array("H")
        self.sum.frombytes(packed[HEAD.size : HEAD.size + SUM_BYTES])
        self.n.frombytes(packed[HEAD.size + SUM_BYTES :])

    def pack(self) -> bytes:
        """Return the value for the table."""
        return HEAD.pack(self.newest, *self.sums, *self.ns) + self.sum.tobytes() + self.n.tobytes()

    def take(self, event: Event) -> Output:
        """Take one event of the stream."""
        pane, x = event.ts // PANE_MS, event.latency_p99
        if pane > self.newest:
            self._roll(pane)
        sums, ns = self.sums, self.ns
        self.sum[pane % PANES] += x
        self.n[pane % PANES] += 1
        for w in range(3):
            sums[w] += x
            ns[w] += 1
        return Output(event.stream_id, event.ts, sums[0] / ns[0], sums[1] / ns[1], sums[2] / ns[2])

    def _roll(self, new: int) -> None:
        for pane in range(max(self.newest + 1, new - PANES + 1), new + 1):
            for w, panes in enumerate(WINDOW_PANES):
                self.sums[w] -= self.sum[(pane - panes) % PANES]
                self.ns[w] -= self.n[(pane - panes) % PANES]
            self.sum[pane % PANES], self.n[pane % PANES] = 0.0, 0
        self.newest = new


def application(arguments: argparse.Namespace) -> faust.App:
    """Return the job."""
    app = faust.App(
        arguments.app,
        broker=f"kafka://{arguments.bootstrap}",
        store="memory://",
        datadir=arguments.state,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        broker_max_poll_records=8_192,
        stream_buffer_maxsize=8_192,
        producer_linger=0.02,
        producer_max_batch_size=256 << 10,
        topic_partitions=2,
        topic_replication_factor=1,
        topic_disable_leader=True,
        table_standby_replicas=0,
        web_enabled=False,
    )
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    topic_in, topic_out = app.topic(arguments.topic_in, **raw), app.topic(arguments.topic_out, **raw)
    table = app.Table("windows", partitions=2, use_partitioner=True, key_type=bytes, value_type=bytes)

    @app.agent(topic_in)
    async def windows(stream: faust.StreamT) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN_S):
            changed: dict[bytes, Windows] = {}
            for event in events:
                key = event.key
                state = changed.get(key)
                if state is None:
                    state = changed[key] = Windows(table.get(key))
                topic_out.send_soon(key=key, value=encode(state.take(decode(event.value))))
            for key, state in changed.items():
                table[key] = state.pack()

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True)
    parser.add_argument("--out", dest="topic_out", required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", required=True)
    use("uvloop")  # as `faust -L uvloop` does
    faust.Worker(application(parser.parse_args()), loglevel="WARNING").execute_from_commandline()
