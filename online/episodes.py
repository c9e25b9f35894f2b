"""Hysteresis on risk: an incident is opened once, worsens, eases and is closed once, instead of an alert per event.

An episode opens at risk ≥ 60 with the announced band ⌊risk / 10⌋, 9 at most. It worsens whenever the band rises. It
eases when risk stayed below 10 · (band − 1) for 2 min: a whole band lower than announced, so that a risk that hovers on
an edge stays silent. It is closed when risk stayed below 40 for 2 min, and that wins over easing. Time is event time;
one event after another, so the edges of a batch never show.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.compiled import inlined, kernel
from streams.features.snapshot import Chunks, Part, put

CHANGES = ("", "opened", "worsened", "eased", "closed")
"""What an event changed, by the code that `advance` returns for it; the words of `contract.Change`."""
_SILENT, _OPENED, _WORSENED, _EASED, _CLOSED = range(5)

OPENED_FROM_RISK = 60.0
CLOSED_BELOW_RISK = 40.0
_STAYED_MS = 120_000
_TOP_BAND = 9
_NONE = -1


class _State(NamedTuple):
    """One row a stream; -1 where there is no such time."""

    opened_at: NDArray[np.int64]  # ms, event time at which the episode under way was opened
    eased_since: NDArray[np.int64]  # ms, since when risk is a whole band below the announced one
    calm_since: NDArray[np.int64]  # ms, since when risk is below `CLOSED_BELOW_RISK`
    band: NDArray[np.int64]  # announced


class Episodes:
    """The episodes of a partition's streams, by slot.

    >>> episodes = Episodes()
    >>> minutes = np.array([0, 1, 2, 3, 4])
    >>> risk = np.array([59.9, 60.0, 85.0, 20.0, 10.0])
    >>> change, opened_at = episodes.advance(np.zeros(5, np.int64), minutes * 120_000, risk)
    >>> [CHANGES[code] for code in change]
    ['', 'opened', 'worsened', '', 'closed']
    >>> opened_at.tolist()
    [-1, 120000, 120000, 120000, 120000]
    """

    def __init__(self) -> None:
        self._state = _empty(1024)
        self._dirty = np.zeros(1, np.uint8)

    def advance(
        self, slots: NDArray[np.integer], ts: NDArray[np.int64], risk: NDArray[np.float64]
    ) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Take events in log order; return what each changed, an index into `CHANGES`, and its episode's start in ms.

        All arrays have shape (n,); event times of a stream rise. The start is -1 outside an episode; the event that
        closes one is still part of it. An episode is named by `episode_id`.
        """
        of = np.ascontiguousarray(slots, np.int64)
        self._make_room(int(of.max(initial=-1)) + 1)
        change, opened_at = np.empty(of.size, np.int8), np.empty(of.size, np.int64)
        _advance(self._state, of, ts, risk, change, opened_at)
        self._dirty[0] |= of.size > 0
        return change, opened_at

    def under_way(self, n_streams: int) -> NDArray[np.bool_]:
        """Return which of the first streams are in an episode, shape (n_streams,)."""
        self._make_room(n_streams)
        under_way: NDArray[np.bool_] = self._state.opened_at[:n_streams] != _NONE
        return under_way

    def parts(self) -> tuple[Part, ...]:
        """Return the state as what a snapshot writes."""
        return (Part("episodes", tuple(self._state), self._dirty),)

    def restore(self, n_streams: int, chunks: Chunks) -> None:
        """Take over the state of a snapshot of so many streams."""
        self._make_room(n_streams)
        put(self.parts(), chunks)

    def _make_room(self, n_streams: int) -> None:
        capacity = self._state.band.size
        if n_streams <= capacity:
            return
        grown = _empty(max(n_streams, 2 * capacity))
        for new, old in zip(grown, self._state, strict=True):
            new[:capacity] = old
        self._state = grown


def _empty(capacity: int) -> _State:
    return _State(*(np.full(capacity, _NONE, np.int64) for _ in _State._fields))


def episode_id(stream_id: str, opened_at: int) -> str:
    """Return the id that all predictions of one incident share.

    >>> episode_id("leaf-012/17", 1_767_225_600_000)
    'leaf-012/17@1767225600000'
    """
    return f"{stream_id}@{opened_at}"


@kernel
def _advance(
    state: _State,
    slots: NDArray[np.int64],
    ts: NDArray[np.int64],
    risk: NDArray[np.float64],
    change: NDArray[np.int8],
    opened_at: NDArray[np.int64],
) -> None:
    for i in range(slots.size):
        s = slots[i]
        if state.opened_at[s] == _NONE:
            change[i] = _open(state, s, ts[i], risk[i])
            opened_at[i] = state.opened_at[s]
        else:
            opened_at[i] = state.opened_at[s]
            change[i] = _go_on(state, s, ts[i], risk[i])


@inlined
def _band(risk: float) -> int:
    return min(_TOP_BAND, int(risk // 10))


@inlined
def _open(state: _State, s: int, ts: int, risk: float) -> int:
    if not risk >= OPENED_FROM_RISK:
        return _SILENT
    state.opened_at[s], state.band[s] = ts, _band(risk)
    state.eased_since[s] = state.calm_since[s] = _NONE
    return _OPENED


@inlined
def _go_on(state: _State, s: int, ts: int, risk: float) -> int:
    band = _band(risk)
    if _stayed(state.calm_since, s, ts, risk < CLOSED_BELOW_RISK):
        state.opened_at[s] = _NONE
        return _CLOSED
    if _stayed(state.eased_since, s, ts, risk < 10 * (state.band[s] - 1)):
        state.band[s], state.eased_since[s] = band, _NONE
        return _EASED
    if band > state.band[s]:
        state.band[s] = band
        return _WORSENED
    return _SILENT


@inlined
def _stayed(since: NDArray[np.int64], s: int, ts: int, holds: bool) -> bool:
    if not holds:
        since[s] = _NONE
        return False
    if since[s] == _NONE:
        since[s] = ts
    return bool(ts - since[s] >= _STAYED_MS)
