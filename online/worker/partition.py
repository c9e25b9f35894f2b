"""The worker: partitions of `metrics` to features, labels, scores and predictions, with the model of topic `models`."""

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from online.episodes import CHANGES, Episodes, episode_id
from online.models.champion import Champion
from online.models.scoring import RulesScorer, Scorer, Scores
from online.worker.prediction_json import PredictionWriter
from online.worker.schedule import Schedule
from streams.contract import CLASSES, Prediction
from streams.features import record_batch
from streams.features.fingerprints import features_sha256
from streams.features.kernel import Rows
from streams.features.partition import Advanced, advance, dead_letter
from streams.features.snapshot import Chunks, Manifest, check, copy_dirty, ids_in
from streams.features.stream_table import StreamTable
from streams.group.owner import Messages, Outputs, Owner
from streams.measures import cpu
from streams.wire.packed import Message, Packed
from streams.wire.records import Record, Records

_FORGET_EVERY_MS = 600_000
_CLOCK_BACK_MS = 7_200_000
"""How much later than after 25 h a stream leaves memory: a broker whose clock is set back must not show in results."""

_ROWS_HELD_MAX = 512
"""Rows of features wait for company, since a record of a few costs as much as one of hundreds; but not for too much: a
producer has one request under way, and predictions wait while one of half a megabyte is."""

_encode = msgspec.json.Encoder().encode


class ScoredPartition(Owner):
    """The owner of one partition of `metrics`."""

    topics = ("predictions", "features", "metrics.dead")

    def __init__(self, number: int, *, topic: str, table: StreamTable, champion: Champion) -> None:
        self._number, self._topic, self._table, self._champion = number, topic, table, champion
        self._ids_written = 0  # of the table's ids, how many stand in the snapshot
        self._seen = self._forgotten_at = 0  # ms, by the broker's clock
        self._episodes = Episodes()
        self._schedule = Schedule()
        self._held: list[Advanced] = []  # whose features are not put out yet
        self._rows_held = 0
        self._writer = PredictionWriter(number)

    def snapshot(self) -> tuple[Chunks, dict[str, Any]]:
        """Copy what changed since the last snapshot, and say what its manifest is to say of it."""
        self._forget_idle()
        ids = self._table.ids
        chunks = copy_dirty((*self._table.parts(), *self._episodes.parts()), ids, self._ids_written)
        self._ids_written = len(ids)
        return chunks, {
            "feature_code": features_sha256(),
            "streams": len(ids),
            "model": self._schedule.model_at(sys.maxsize) or self._champion.scorer.version,
        }

    def _forget_idle(self) -> None:
        """Let streams leave memory, now and then: each is looked at. Rows held back and open episodes name slots."""
        if self._held or self._seen < self._forgotten_at + _FORGET_EVERY_MS:
            return
        self._forgotten_at = self._seen
        slots = self._table.forget_idle(self._seen - _CLOCK_BACK_MS, self._episodes.under_way(len(self._table.ids)))
        self._ids_written = min(self._ids_written, slots.min(initial=self._ids_written))

    def _learn_streams(self) -> None:
        """Follow the table's slots: new ones, and those that another stream had before."""
        ids, retaken = self._table.ids, self._table.streams.retaken
        self._writer.extend(ids[len(self._writer) :])
        for slot in retaken:
            self._writer.replace(slot, ids[slot])
        self._ids_written = min([self._ids_written, *retaken])
        retaken.clear()

    def switch_offsets(self) -> Sequence[int]:
        """Return the offsets from which another model scores."""
        return self._schedule.offsets

    def switch(self, offset: int) -> bytes | None:
        """Let the champion of the moment score from `offset` on; return the schedule that has to be on record first."""
        return self._schedule.switch(offset, self._champion.scorer.version)

    def restore_schedule(self, record: bytes) -> None:
        """Let the same models score as before."""
        self._schedule.restore(record)

    def restore(self, manifest: Manifest, chunks: Chunks) -> None:
        """Go on from a snapshot; `SnapshotRefused` if other code made it."""
        check(manifest, feature_code=features_sha256())
        ids = ids_in(chunks)
        self._table.restore(ids, chunks)
        self._episodes.restore(len(ids), chunks)
        self._ids_written = len(ids)

    def advance(self, records: Sequence[Record]) -> Outputs:
        """Take the next records in log order; return what they gave."""
        records = Records.of(records)
        scorer = self._scorer(int(records.offset[0]))
        with cpu("features", events=len(records)):
            advanced = advance(self._table, records)
            self._learn_streams()
            self._seen = int(records.timestamp[-1])
        with cpu("score", events=len(records)):
            scores = scorer.score(advanced.rows)
            change, opened_at = self._episodes.advance(advanced.slot, advanced.ts, scores.risk)
        with cpu("encode", events=len(records)):
            messages: Messages = {
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

    def _scorer(self, offset: int) -> Scorer | RulesScorer:
        model = self._schedule.model_at(offset)
        return self._champion.scorer if model is None else self._champion.named(model)

    def _features(self, advanced: Advanced) -> list[Message]:
        """Hold rows back until they make a record worth its while: nobody waits for them as for a prediction."""
        self._held.append(advanced)
        self._rows_held += len(advanced.ts)
        return self._encoded() if self._rows_held >= _ROWS_HELD_MAX else []

    def flush(self) -> dict[str, list[Message]]:
        """Return the rows of features held back."""
        return {"features": self._encoded()}

    def _encoded(self) -> list[Message]:
        held, self._held = self._held, []
        rows_held, self._rows_held = self._rows_held, 0
        if not rows_held:
            return []
        rows = Rows(*(np.concatenate(columns) for columns in zip(*(advanced.rows for advanced in held), strict=True)))
        slot, ts, offset, element = (
            np.concatenate([getattr(advanced, column) for advanced in held])
            for column in ("slot", "ts", "offset", "element")
        )
        values = record_batch.encode(slot, self._table.streams, ts, rows, offset, element)
        return [Message(None, value) for value in values]

    def _predictions(
        self,
        advanced: Advanced,
        scores: Scores,
        scorer: Scorer | RulesScorer,
        change: NDArray[np.int8],
        opened_at: NDArray[np.int64],
    ) -> Packed:
        """Encode one prediction a row: nearly all are healthy, outside an episode, and need no object each."""
        eventful = np.flatnonzero((scores.code != 0) | (opened_at >= 0))
        return self._writer.write(
            scorer.version, advanced.slot, advanced.ts, scores.risk, scores.confidence, advanced.offset,
            advanced.element, eventful, self._eventful(eventful, advanced, scores, scorer, change, opened_at),
        )  # fmt: skip

    def _eventful(
        self,
        rows: NDArray[np.intp],
        advanced: Advanced,
        scores: Scores,
        scorer: Scorer | RulesScorer,
        change: NDArray[np.int8],
        opened_at: NDArray[np.int64],
    ) -> list[bytes]:
        if not rows.size:
            return []
        drivers = scorer.drivers(advanced.rows, scores)
        ids, risk, confidence = self._table.ids, np.round(scores.risk, 2), np.round(scores.confidence, 4)
        return [
            _encode(
                Prediction(
                    v=1,
                    stream_id=(stream_id := ids[advanced.slot[i]]),
                    ts=int(advanced.ts[i]),
                    class_=CLASSES[scores.code[i]],
                    risk=float(risk[i]),
                    confidence=float(confidence[i]),
                    model=scorer.version,
                    src=f"{self._number}:{advanced.offset[i]}:{advanced.element[i]}",
                    probabilities=_named(scores.probabilities, i) if scores.code[i] else None,
                    change=CHANGES[change[i]],  # type: ignore[arg-type]
                    episode=None if opened_at[i] < 0 else episode_id(stream_id, int(opened_at[i])),
                    drivers=drivers.get(i),
                )
            )
            for i in rows.tolist()
        ]


def _named(probabilities: NDArray[np.float64] | None, row: int) -> dict[str, float] | None:
    if probabilities is None:
        return None
    return {name: round(p, 4) for name, p in zip(CLASSES, probabilities[row].tolist(), strict=True) if p >= 0.00005}
