"""Which model scores from which offset on, so that a replay takes the same turns as the worker before it."""

import bisect

import msgspec

TURNS_KEPT = 64
"""A model more than 64 promotions ago is not asked for: a rebuild goes back a day."""


class Turns:
    """The models of one partition by the source offset from which each scores.

    >>> turns = Turns()
    >>> note = turns.take(100, "a"), turns.take(200, "b")
    >>> turns.model_at(150), turns.model_at(200), turns.model_at(7)
    ('a', 'b', 'a')
    >>> turns.recall(note[0])
    >>> turns.offsets, turns.take(300, "a")
    ([100], None)
    """

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._models: list[str] = []

    def take(self, offset: int, model: str) -> bytes | None:
        """Let `model` score from `offset` on; return the record that says so, None where it does so already."""
        if self._models and self._models[-1] == model:
            return None
        self.offsets = [*self.offsets, offset][-TURNS_KEPT:]
        self._models = [*self._models, model][-TURNS_KEPT:]
        return msgspec.msgpack.encode([*zip(self.offsets, self._models, strict=True)])

    def model_at(self, offset: int) -> str | None:
        """Return the model that scores the event at `offset`: before the first turn that is its model, too."""
        if not self._models:
            return None
        return self._models[max(0, bisect.bisect_right(self.offsets, offset) - 1)]

    def recall(self, record: bytes) -> None:
        """Go on from a record of `take`."""
        turns = msgspec.msgpack.decode(record, type=list[tuple[int, str]])
        self.offsets, self._models = [offset for offset, _ in turns], [model for _, model in turns]
