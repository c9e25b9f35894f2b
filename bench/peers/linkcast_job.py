"""The window job as an owner of linkcast's runner: the product's fetch, scanner, ids, commit, snapshots and recovery.

Its own are the kernel, `pane_means`, and what writes the records, `means_json`. No event becomes a Python object.
"""

import argparse
import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.peers import pane_means
from bench.peers.means_json import MeansWriter
from bench.peers.pane_means import STREAMS_MAX, advance, empty, parts
from streams import compiled, contract
from streams.contract import METRICS
from streams.features import snapshot
from streams.features.fingerprints import fingerprint
from streams.features.snapshot import Chunks, Manifest, check, copy_dirty, ids_in, put
from streams.features.stream_ids import StreamIds
from streams.group.owner import Outputs, Owner
from streams.group.runner import Membership, Runner
from streams.kafka import KafkaSettings
from streams.wire.decode import compile_scanners, decode
from streams.wire.packed import pack
from streams.wire.records import Record

_LATENCY = METRICS.index("latency_p99")
_CODE = fingerprint(pane_means, without=(compiled, contract, snapshot))


class WindowedPartition(Owner):
    """The owner of one partition: slot by stream id, and the panes of each."""

    def __init__(self, topic_out: str) -> None:
        self.topics = (topic_out,)
        self._ids = StreamIds(streams_max=STREAMS_MAX)
        self._panes = empty()
        self._writer = MeansWriter()
        self._ids_written = 0

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; return what they gave. What is no event is counted, and dropped."""
        events, rejected = decode(records)
        slot = self._ids.place(events.id_bytes, events.id_start, events.id_end)
        # Without a latency there is no mean, and of one stream too many no state.
        is_row = ~np.isnan(events.metrics[:, _LATENCY]) & (slot >= 0)
        if not is_row.all():
            events, slot = events.at(np.flatnonzero(is_row)), slot[is_row]
        means = advance(self._panes, slot, events.ts, events.metrics)
        self._writer.extend(self._ids.names[len(self._writer) :])
        became = {"row": len(slot), "dead": len(rejected) + int(np.count_nonzero(~is_row))}
        dead = Counter[str](one.reason for one in rejected)
        return Outputs({self.topics[0]: self._writer.write(slot, events.ts, means)}, became, dead, len(self._ids))

    def snapshot(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last snapshot, and say what its manifest is to say of it."""
        ids = self._ids.names
        chunks = copy_dirty(parts(self._panes), ids, self._ids_written)
        self._ids_written = len(ids)
        return chunks, {"feature_code": _CODE, "streams": len(ids), "model": "none"}

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Go on from a snapshot; `SnapshotRefused` if other code made it."""
        check(manifest, feature_code=_CODE)
        ids = ids_in(chunks)
        self._ids, self._panes, self._writer = StreamIds(streams_max=STREAMS_MAX, names=ids), empty(), MeansWriter()
        put(parts(self._panes), chunks)
        self._ids_written = len(ids)


async def main(arguments: argparse.Namespace) -> None:
    """Run the job as a member of a consumer group until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    _compile()
    prefix = arguments.topic_in.removesuffix("metrics")  # the runner's name for its source
    runner = Runner(
        KafkaSettings(bootstrap=arguments.bootstrap),
        prefix=prefix,
        member=Membership(group=arguments.app, computes=_CODE, instance=arguments.app),
        open_partition=lambda _: WindowedPartition(arguments.topic_out.removeprefix(prefix)),
    )
    await runner.run(stop)


def _compile() -> None:
    """Compile all that is compiled, or load it from its cache, before the group counts on this member."""
    compile_scanners()
    ids, writer, zero = StreamIds(streams_max=1), MeansWriter(), np.zeros(1, np.int64)
    writer.extend(["a/1"])
    means = advance(empty(), ids.slots(["a/1"]), zero, np.zeros((1, len(METRICS))))
    pack(writer.write(zero, zero, means), timestamp_ms=0, bytes_max=1, is_transactional=False)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--in", dest="topic_in", required=True, help="a topic whose name ends with 'metrics'")
    parser.add_argument("--out", dest="topic_out", required=True, help="a topic with the same prefix")
    parser.add_argument("--app", required=True)
    parser.add_argument("--state", help="unused: snapshots go to topic 'state' of the prefix")
    asyncio.run(main(parser.parse_args()))
