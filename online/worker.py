"""The worker: partitions of `metrics` to features, labels, scores and predictions, with the model of topic `models`."""

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from online.bundle import feature_code_sha256
from online.champion import Champion
from online.episodes import CHANGES, Episodes, episode_id
from online.scoring import RulesScorer, Scorer, Scores
from online.turns import Turns
from streams import feature_batch
from streams.contract import CLASSES, Prediction, node_of
from streams.decode import Record
from streams.features import Rows
from streams.measures import cpu
from streams.owner import Outputs, Owner
from streams.partition import Advanced, Message, advance, dead_letter
from streams.snapshot import Chunks, Manifest, check, ids_in, take
from streams.stream_table import StreamTable

_encode = msgspec.json.Encoder().encode


class ScoredPartition(Owner):
    """The owner of one partition of `metrics`."""

    topics = ("predictions", "features", "metrics.dead")

    def __init__(self, number: int, *, topic: str, table: StreamTable, champion: Champion) -> None:
        self._number, self._topic, self._table, self._champion = number, topic, table, champion
        self._ids_written = 0
        self._episodes = Episodes()
        self._turns = Turns()
        self._held: list[Advanced] = []  # whose features are not put out yet
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
            "model": self._turns.model_at(sys.maxsize) or self._champion.scorer.version,
        }

    def turns(self) -> Sequence[int]:
        """Return the offsets from which another model scores."""
        return self._turns.offsets

    def turn(self, offset: int) -> bytes | None:
        """Let the champion of the moment score from `offset` on; return what has to be on record first."""
        return self._turns.take(offset, self._champion.scorer.version)

    def recall(self, turns: bytes) -> None:
        """Let the same models score as before."""
        self._turns.recall(turns)

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Go on from a snapshot; `SnapshotRefused` if other code made it."""
        check(manifest, feature_code=feature_code_sha256())
        ids = ids_in(chunks)
        self._table.restore(ids, chunks)
        self._episodes.restore(len(ids), chunks)
        self._ids_written = len(ids)

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; return what they gave."""
        scorer = self._scorer(records[0].offset)
        with cpu("features"):
            advanced = advance(self._table, records)
        with cpu("score"):
            scores = scorer.score(advanced.rows)
            change, opened_at = self._episodes.advance(advanced.slot, advanced.ts, scores.risk)
        with cpu("encode"):
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
        return Outputs(messages, became, dead, streams=len(self._table.ids))

    def _scorer(self, offset: int) -> Scorer | RulesScorer:
        model = self._turns.model_at(offset)
        return self._champion.scorer if model is None else self._champion.named(model)

    def _features(self, advanced: Advanced) -> list[Message]:
        """Hold rows back until they make a record of full size: nobody waits for them as for a prediction."""
        self._held.append(advanced)
        return self._encoded() if sum(len(held.ts) for held in self._held) >= feature_batch.ROWS_MAX else []

    def flush(self) -> dict[str, list[Message]]:
        """Return the rows of features held back."""
        return {"features": self._encoded()}

    def _encoded(self) -> list[Message]:
        held, self._held = self._held, []
        stream_id = [stream_id for advanced in held for stream_id in advanced.stream_id]
        if not stream_id:
            return []
        rows = Rows(*(np.concatenate(columns) for columns in zip(*(advanced.rows for advanced in held), strict=True)))
        ts, offset, element = (
            np.concatenate([getattr(advanced, column) for advanced in held]) for column in ("ts", "offset", "element")
        )
        return [Message(None, value) for value in feature_batch.encode(stream_id, ts, rows, offset, element)]

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
                    stream_id=advanced.stream_id[i],
                    ts=int(advanced.ts[i]),
                    class_=CLASSES[scores.code[i]],
                    risk=float(risk[i]),
                    confidence=float(confidence[i]),
                    model=scorer.version,
                    src=f"{self._number}:{advanced.offset[i]}:{advanced.element[i]}",
                    probabilities=_named(scores.probabilities, i) if scores.code[i] else None,
                    change=CHANGES[change[i]],  # type: ignore[arg-type]
                    episode=None if opened_at[i] < 0 else episode_id(advanced.stream_id[i], int(opened_at[i])),
                    drivers=drivers.get(i),
                )
            )
        nodes = self._nodes
        return [Message(nodes[slot], value) for slot, value in zip(slots, values, strict=True)]


def _named(probabilities: NDArray[np.float64] | None, row: int) -> dict[str, float] | None:
    if probabilities is None:
        return None
    return {name: round(p, 4) for name, p in zip(CLASSES, probabilities[row].tolist(), strict=True) if p >= 0.00005}
