"""Bytes by slot are found again however slots come, go and are used anew, in memory that follows what is alive."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.wire.spans import Arena, Spans

PIECES = st.lists(st.none() | st.binary(max_size=20), max_size=20)
CHANGES = st.lists(st.lists(st.binary(max_size=300), max_size=40) | st.tuples(st.integers(0), st.binary(max_size=300)))


@given(pieces=PIECES)
def test_pieces_come_back_empty_ones_and_none_told_apart(pieces) -> None:
    assert list(Spans.of(pieces).pieces()) == pieces


@settings(deadline=None)
@given(changes=CHANGES)
def test_an_arena_is_a_list_of_bytes_and_what_it_gave_out_stays(changes) -> None:
    arena, expected, given_out = Arena(), [], []
    for change in changes:
        given_out.append((arena.at(np.arange(len(expected))), list(expected)))
        if isinstance(change, list):
            arena.extend(change)
            expected += change
        elif expected:
            slot = change[0] % len(expected)
            arena.replace(slot, change[1])
            expected[slot] = change[1]

    assert len(arena) == len(expected)
    assert list(arena.at(np.arange(len(expected))).pieces()) == expected
    assert arena.size_max >= max(map(len, expected), default=0)
    for spans, then in given_out:
        assert list(spans.pieces()) == then


def test_slots_that_come_and_go_do_not_fill_the_memory() -> None:
    arena = Arena()
    arena.extend([b"x" * 100] * 50)
    for i in range(10_000):
        arena.replace(i % 50, b"%100d" % i)

    assert arena.all().buffer.size <= 1 << 16
    assert list(arena.at(np.array([0, 49])).pieces()) == [b"%100d" % 9_950, b"%100d" % 9_999]
