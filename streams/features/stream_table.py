"""The streams of one partition: slot by id, and their windows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streams.contract import FEATURES, METRICS
from streams.features import windows
from streams.features.calendar import Transitions, transitions
from streams.features.kernel import FEATURE_ROW, METRIC_ROW, ROW, Columns, Rows, advance
from streams.features.labels import OPERAND_ROW, RuleTable, compiled, load_rules
from streams.features.snapshot import Chunks, Part, put
from streams.features.stream_ids import StreamIds
from streams.features.windows import Windows
from streams.wire.decode import compile_scanners

STREAMS_MAX = 200_000
"""How many streams a partition takes unless told otherwise."""


class StreamTable:
    """The streams of one partition: slot by id, and their windows.

    A stream's slot is the order of its first event, so a replay gives the same slots; `streams` holds them.

    >>> table = StreamTable(streams_max=2)
    >>> table.slots(["leaf/1", "leaf/2", "leaf/1", "leaf/3"]).tolist()
    [0, 1, 0, -1]
    """

    def __init__(self, *, time_zone: str = "UTC", rules: RuleTable | None = None, streams_max: int = STREAMS_MAX):
        self.streams = StreamIds(streams_max=streams_max)
        self.windows: Windows = windows.empty(windows.first_capacity(streams_max))
        self._calendar: Transitions = transitions(time_zone)
        self._rules: RuleTable = load_rules() if rules is None else rules
        self._compiled_rules = compiled(self._rules)
        self._streams_max = streams_max

    @property
    def ids(self) -> list[str]:
        """The streams by slot; the empty string where a slot is free."""
        return self.streams.names

    @property
    def is_full(self) -> bool:
        """Whether a new stream may have found no place: where it is not, each has a slot."""
        return len(self.streams) >= self._streams_max

    def slots(self, stream_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the slots of streams, a new one for a new stream, and -1 for one stream too many; shape (n,)."""
        return self._with_room(self.streams.slots(stream_ids))

    def place(self, data: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
        """As `slots`, of the ids in `data[start:end]`; both of shape (n,)."""
        return self._with_room(self.streams.place(data, start, end))

    def _with_room(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        capacity = len(self.windows.rows)
        while capacity < len(self.ids):
            capacity *= 2
        if capacity > len(self.windows.rows):
            self.windows = windows.grown(self.windows, capacity)
        return slots

    def forget_idle(self, now_ms: int, is_needed: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Free the slots of streams that were idle for 25 h at `now_ms`, by the broker's clock, and return them.

        Changes no result: the kernel would empty them at their next event. `is_needed`, by slot, keeps some.
        """
        slots = windows.idle(self.windows, len(self.ids), now_ms)
        slots = slots[~is_needed[slots]]
        windows.forget(self.windows, slots)
        self.streams.remove(slots)
        return slots

    def parts(self) -> tuple[Part, ...]:
        """Return the state as what a snapshot writes."""
        return windows.parts(self.windows)

    def restore(self, ids: list[str], chunks: Chunks) -> None:
        """Take over the state of a snapshot: streams by slot, and the chunks of `parts`."""
        self.windows = windows.empty(max(windows.first_capacity(self._streams_max), len(ids)))
        self.streams = StreamIds(streams_max=self._streams_max, names=ids)
        put(self.parts(), chunks)

    def advance(self, columns: Columns) -> tuple[NDArray[np.int8], Rows]:
        """Take events in log order; return what became of each, shape (n,), and the rows of those that gave one."""
        n = len(columns.ts)
        disposition = np.empty(n, np.int8)
        features = np.empty((n, len(FEATURES)), np.float32)
        label, risk, confidence = np.empty(n, np.int8), np.empty(n), np.empty(n)
        metrics = np.ascontiguousarray(columns.metrics).view(METRIC_ROW).reshape(n)
        advance(
            self.windows, self._calendar, self._compiled_rules, columns.slot, columns.ts, metrics, columns.seen,
            np.empty(1, OPERAND_ROW), disposition, features.view(FEATURE_ROW).reshape(n), label, risk, confidence,
        )  # fmt: skip
        # A small batch costs by the call: mostly each event gives a row.
        event = np.flatnonzero(disposition == ROW) if disposition.any() else np.arange(n)
        m = len(event)
        rows = Rows(
            event, features[:m], label[:m], risk[:m], confidence[:m],
            needs_review=confidence[:m] < self._rules.review_below_confidence,
        )  # fmt: skip
        return disposition, rows


def compile_kernel() -> None:
    """Compile kernel and scanners, or load them from their cache: seconds the first time, so a caller can say so."""
    compile_scanners()
    table = StreamTable()
    nothing = np.zeros(1, np.int64)
    table.advance(Columns(table.slots(["a/1"]), nothing, np.zeros((1, len(METRICS))), nothing))
