"""The worker: partitions of `metrics` to features, labels, scores and predictions, with the model of topic `models`."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from online.bundle import feature_code_sha256
from online.episodes import CHANGES, Episodes, episode_id
from online.scoring import RulesScorer, Scorer, Scores
from streams import feature_batch, measures
from streams.contract import CLASSES, Prediction, node_of
from streams.decode import Record
from streams.partition import Advanced, Message, advance, dead_letter
from streams.runner import Outputs
from streams.snapshot import Chunks, Manifest, check, ids_in, take
from streams.stream_table import StreamTable

_encode = msgspec.json.Encoder().encode


class Champion:
    """The scorer of the moment. Owners read it once a batch, so a model changes between two batches only."""

    def __init__(self) -> None:
        self.scorer: Scorer | RulesScorer = RulesScorer()


class ScoredPartition:
    """The owner of one partition of `metrics`."""

    def __init__(self, number: int, *, topic: str, table: StreamTable, champion: Champion) -> None:
        self._number, self._topic, self._table, self._champion = number, topic, table, champion
        self._ids_written = 0
        self._episodes = Episodes()
        self._nodes: list[bytes] = []  # by slot: the key of a prediction, and how its JSON begins
        self._heads: list[str] = []

    def take(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last snapshot, and say what its manifest is to say of it."""
        ids = self._table.ids
        chunks = take((*self._table.parts(), *self._episodes.parts()), ids, self._ids_written)
        self._ids_written = len(ids)
        return chunks, {
            "feature_code": feature_code_sha256(),
            "streams": len(ids),
            "model": self._champion.scorer.version,
        }

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Go on from a snapshot; `SnapshotRefused` if other code made it."""
        check(manifest, feature_code=feature_code_sha256())
        ids = ids_in(chunks)
        self._table.restore(ids, chunks)
        self._episodes.restore(len(ids), chunks)
        self._ids_written = len(ids)

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; return what they gave."""
        scorer = self._champion.scorer
        with _stage("features"):
            advanced = advance(self._table, records)
        with _stage("score"):
            scores = scorer.score(advanced.rows)
            change, opened_at = self._episodes.advance(advanced.slot, advanced.ts, scores.risk)
        with _stage("encode"):
            messages = {
                "predictions": self._predictions(advanced, scores, scorer, change, opened_at),
                "features": self._features(advanced),
                "metrics.dead": [
                    dead_letter(rejected, topic=self._topic, partition=self._number) for rejected in advanced.rejected
                ],
            }
        dead: dict[str, int] = {}
        for rejected in advanced.rejected:
            dead[rejected.reason] = dead.get(rejected.reason, 0) + 1
        became = {
            "row": len(advanced.ts),
            "late": advanced.late,
            "repeat": advanced.repeats,
            "dead": len(advanced.rejected),
        }
        return Outputs(messages, became, dead, streams=len(self._table.streams))

    def _features(self, advanced: Advanced) -> list[Message]:
        if not len(advanced.ts):
            return []
        values = feature_batch.encode(
            advanced.slot, self._table.streams, advanced.ts, advanced.rows, advanced.offset, advanced.element
        )
        return [Message(None, value) for value in values]

    def _predictions(
        self,
        advanced: Advanced,
        scores: Scores,
        scorer: Scorer | RulesScorer,
        change: NDArray[np.int8],
        opened_at: NDArray[np.int64],
    ) -> list[Message]:
        """Encode one prediction a row: nearly all are healthy, and their JSON is written as it stands (1 µs, not 3)."""
        for stream_id in self._table.ids[len(self._nodes) :]:
            self._nodes.append(node_of(stream_id).encode())
            self._heads.append(f'{{"v":1,"stream_id":{_encode(stream_id).decode()},"ts":')
        risk, confidence = np.round(scores.risk, 2), np.round(scores.confidence, 4)
        slots = advanced.slot.tolist()
        tail = f',"model":"{scorer.version}","src":"{self._number}:'
        heads = self._heads
        columns = zip(
            slots,
            advanced.ts.tolist(),
            risk.tolist(),
            confidence.tolist(),
            advanced.offset.tolist(),
            advanced.element.tolist(),
            strict=True,
        )
        values = [
            f'{heads[slot]}{ts},"class":"healthy","risk":{r},"confidence":{c}{tail}{offset}:{element}"}}'.encode()
            for slot, ts, r, c, offset, element in columns
        ]
        drivers = scorer.drivers(advanced.rows, scores)
        for i in np.flatnonzero((scores.code != 0) | (opened_at >= 0)).tolist():
            values[i] = _encode(
                Prediction(
                    v=1,
                    stream_id=self._table.ids[slots[i]],
                    ts=int(advanced.ts[i]),
                    class_=CLASSES[scores.code[i]],
                    risk=float(risk[i]),
                    confidence=float(confidence[i]),
                    model=scorer.version,
                    src=f"{self._number}:{advanced.offset[i]}:{advanced.element[i]}",
                    probabilities=_named(scores.probabilities, i) if scores.code[i] else None,
                    change=CHANGES[change[i]],  # type: ignore[arg-type]
                    episode=None if opened_at[i] < 0 else episode_id(self._table.ids[slots[i]], int(opened_at[i])),
                    drivers=drivers.get(i),
                )
            )
        nodes = self._nodes
        return [Message(nodes[slot], value) for slot, value in zip(slots, values, strict=True)]


def _named(probabilities: NDArray[np.float64] | None, row: int) -> dict[str, float] | None:
    if probabilities is None:
        return None
    return {name: round(p, 4) for name, p in zip(CLASSES, probabilities[row].tolist(), strict=True) if p >= 0.00005}


class _stage:  # noqa: N801  # reads as a statement
    """Adds the time of its block to the worker's measures."""

    def __init__(self, name: str) -> None:
        self._seconds = measures.STAGE_SECONDS.labels(name)

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds.inc(time.perf_counter() - self._start)
