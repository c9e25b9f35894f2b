"""The window job on Bytewax: `stateful_batch` per stream, with a recovery store that is written every second.

Bytewax keeps offsets in that store and not in Kafka: after a crash it goes on from the last epoch there.
"""

import argparse
from array import array
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import msgspec
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.operators import StatefulBatchLogic
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

PANE_MS, PANES = 20_000, 180
WINDOW_PANES = (15, 45, 180)
EPOCH_S = 1.0

EMPTY_SUM, EMPTY_N = array("d", [0.0] * PANES), array("H", [0] * PANES)


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


class Windows(StatefulBatchLogic[Event, Output, tuple]):
    """The panes of one stream by pane modulo 180, empty where no event is, and the sums of the three windows."""

    def __init__(self, state: tuple | None) -> None:
        self.newest, self.sum, self.n, self.sums, self.ns = state or (-1, EMPTY_SUM[:], EMPTY_N[:], [0.0] * 3, [0] * 3)

    def on_batch(self, values: list[Event]) -> tuple[list[Output], bool]:
        """Take events in order; keep the state."""
        return [self._take(event) for event in values], False

    def _take(self, event: Event) -> Output:
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

    def snapshot(self) -> tuple:
        """Return a copy of the state, for the recovery store."""
        return self.newest, self.sum[:], self.n[:], self.sums[:], self.ns[:]


def parse(messages: list[KafkaSourceMessage]) -> list[tuple[str, Event]]:
    """Return events by stream."""
    events = [decode(message.value) for message in messages]
    return [(event.stream_id, event) for event in events]


def pack(outputs: list[tuple[str, Output]]) -> list[KafkaSinkMessage]:
    """Return records under the key of their event."""
    return [KafkaSinkMessage(key.encode(), encode(output)) for key, output in outputs]


def dataflow(arguments: argparse.Namespace) -> Dataflow:
    """Return the job."""
    # Kafka's own partitioner, as the input has it: librdkafka's default is another.
    produce = {"partitioner": "murmur2_random", "linger.ms": "5", "batch.size": str(256 << 10)}
    flow = Dataflow("windows")
    messages = op.input("in", flow, KafkaSource([arguments.bootstrap], [arguments.topic_in], batch_size=8_192))
    events = op.flat_map_batch("parse", messages, parse)
    outputs = op.stateful_batch("windows", events, Windows)
    records = op.flat_map_batch("pack", outputs, pack)
    op.output("out", records, KafkaSink([arguments.bootstrap], arguments.topic_out, add_config=produce))
    return flow


def main(arguments: argparse.Namespace) -> None:
    """Run the job until a signal ends the process: the recovery store is there for what was under way."""
    store = Path(arguments.state)
    if not any(store.iterdir()):
        init_db_dir(store, 1)
    cli_main(
        dataflow(arguments),
        workers_per_process=1,
        epoch_interval=timedelta(seconds=EPOCH_S),
        recovery_config=RecoveryConfig(store, timedelta(0)),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True)
    parser.add_argument("--out", dest="topic_out", required=True)
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", required=True)
    main(parser.parse_args())
