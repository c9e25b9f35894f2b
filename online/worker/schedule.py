"""Which model scores from which offset on, so that a replay scores by the same models as the worker before it."""

import bisect

import msgspec

SWITCHES_KEPT = 64
"""A model more than 64 promotions ago is not asked for: a rebuild goes back a day."""


class Schedule:
    """The models of one partition by the source offset from which each scores.

    >>> schedule = Schedule()
    >>> records = schedule.switch(100, "a"), schedule.switch(200, "b")
    >>> schedule.model_at(150), schedule.model_at(200), schedule.model_at(7)
    ('a', 'b', 'a')
    >>> schedule.restore(records[0])
    >>> schedule.offsets, schedule.switch(300, "a")
    ([100], None)
    """

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self._models: list[str] = []

    def switch(self, offset: int, model: str) -> bytes | None:
        """Let `model` score from `offset` on; return the schedule as a record, None where `model` scores already."""
        if self._models and self._models[-1] == model:
            return None
        self.offsets = [*self.offsets, offset][-SWITCHES_KEPT:]
        self._models = [*self._models, model][-SWITCHES_KEPT:]
        return msgspec.msgpack.encode([*zip(self.offsets, self._models, strict=True)])

    def model_at(self, offset: int) -> str | None:
        """Return the model that scores the event at `offset`; before the first switch, the model switched to there."""
        if not self._models:
            return None
        return self._models[max(0, bisect.bisect_right(self.offsets, offset) - 1)]

    def restore(self, record: bytes) -> None:
        """Go on from a record that `switch` returned."""
        switches = msgspec.msgpack.decode(record, type=list[tuple[int, str]])
        self.offsets, self._models = [offset for offset, _ in switches], [model for _, model in switches]
