"""The window job on Quix Streams: state per key in RocksDB, with its changelog, commits every second.

The head of a stream (its pane, the sums and counts of that pane and of the three windows) is one value; a pane gets a
value of its own once it has closed, which is every second event here. Writing both on each event took twice the CPU.
"""

import argparse
import struct
from typing import Any

import msgspec
from quixstreams import Application, State
from quixstreams.models.serializers import BytesDeserializer, BytesSerializer

PANE_MS, PANES = 20_000, 180
WINDOW_PANES = (15, 45, 180)
HEAD = struct.Struct("<qdi3d3i")  # pane; its sum and count; sums and counts of the windows
PANE = struct.Struct("<qdi")  # pane, sum, count
NO_PANE = PANE.pack(-1, 0.0, 0)


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


def means(value: bytes, state: State) -> bytes:
    """Take one event of a stream; return its record."""
    event = decode(value)
    new, x = event.ts // PANE_MS, event.latency_p99
    head = state.get_bytes("head")
    pane, pane_sum, pane_n, *windows = HEAD.unpack(head) if head else (new, 0.0, 0, 0.0, 0.0, 0.0, 0, 0, 0)
    if new > pane:
        state.set_bytes(f"{pane % PANES}", PANE.pack(pane, pane_sum, pane_n))
        leave(state, windows, pane, new)
        pane, pane_sum, pane_n = new, 0.0, 0
    s5, s15, s60, n5, n15, n60 = windows
    s5, s15, s60, n5, n15, n60 = s5 + x, s15 + x, s60 + x, n5 + 1, n15 + 1, n60 + 1
    state.set_bytes("head", HEAD.pack(pane, pane_sum + x, pane_n + 1, s5, s15, s60, n5, n15, n60))
    return encode(Output(event.stream_id, event.ts, s5 / n5, s15 / n15, s60 / n60))


def leave(state: State, windows: list[Any], old: int, new: int) -> None:
    """Take the panes that leave each window out of its sum and count."""
    for w, panes in enumerate(WINDOW_PANES):
        for pane in range(old - panes + 1, min(new - panes, old) + 1):
            of, total, n = PANE.unpack(state.get_bytes(f"{pane % PANES}", NO_PANE))
            if of == pane:
                windows[w] -= total
                windows[w + 3] -= n


def main(arguments: argparse.Namespace) -> None:
    """Run the job until SIGTERM, which Quix takes as its own."""
    app = Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.app,
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=arguments.state,
        producer_extra_config={"linger.ms": 20, "batch.size": 256 << 10},
        loglevel="WARNING",
    )
    topic_in = app.topic(arguments.topic_in, key_deserializer="bytes", value_deserializer=BytesDeserializer())
    topic_out = app.topic(arguments.topic_out, key_serializer="bytes", value_serializer=BytesSerializer())
    app.dataframe(topic_in).apply(means, stateful=True).to_topic(topic_out)
    app.run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True)
    parser.add_argument("--out", dest="topic_out", required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", required=True)
    main(parser.parse_args())
