"""The table of stream ids is a dict with slots: under any order of adding, finding and removing."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.features import stream_ids
from streams.features.stream_ids import StreamIds

NAMES = st.integers(0, 40).map("leaf-{}/ü".format) | st.text(max_size=3)
STEPS = st.lists(st.lists(NAMES, max_size=8) | st.sets(st.integers(0, 30), max_size=4), max_size=12)


class Simple:
    """Slots by the plainest means."""

    def __init__(self, streams_max):
        self.slot, self.free, self.next, self.max = {}, [], 0, streams_max

    def slots(self, names):
        return [self.slot_of(name) for name in names]

    def slot_of(self, name):
        if name not in self.slot and len(self.slot) < self.max:
            if self.free:
                self.slot[name] = min(self.free)
                self.free.remove(self.slot[name])
            else:
                self.slot[name] = self.next
                self.next += 1
        return self.slot.get(name, -1)

    def remove(self, slots):
        self.slot = {name: slot for name, slot in self.slot.items() if slot not in slots}
        self.free += slots


def hold_together(steps, streams_max):
    ids, simple = StreamIds(streams_max=streams_max), Simple(streams_max)
    for step in steps:
        if isinstance(step, set):
            there = sorted(step & set(simple.slot.values()))
            ids.remove(np.array(there, np.int64))
            simple.remove(there)
        else:
            assert ids.slots(step).tolist() == simple.slots(step)
        assert len(ids) == len(simple.slot)
        by_slot = {slot: name for name, slot in simple.slot.items()}
        assert ids.names == [by_slot.get(slot, "") for slot in range(simple.next)]
    return ids


@settings(deadline=None)
@given(STEPS, st.integers(1, 30))
def test_slots_are_those_of_a_dict_that_gives_the_lowest_free_one(steps, streams_max):
    hold_together(steps, streams_max)


@settings(deadline=None, max_examples=30)
@given(STEPS)
def test_ids_that_all_collide_still_find_their_slots(steps):
    with pytest.MonkeyPatch.context() as patch:
        # Uncompiled, every id has one home and a full probe of the table is the only way.
        for name in ("_place", "_put_in", "_take_out", "_find", "_tag", "_home"):
            patch.setattr(stream_ids, name, getattr(stream_ids, name).py_func)
        patch.setattr(stream_ids, "_hash", lambda data, start, end, seed: np.uint64(2_047))
        hold_together(steps, streams_max=30)


def key(python_hash_seed):
    """The key that CPython derives from PYTHONHASHSEED (Python/bootstrap_hash.c, `lcg_urandom`)."""
    x, key = python_hash_seed, bytearray()
    for _ in range(16):
        x = (x * 214_013 + 2_531_011) % (1 << 32)
        key.append(x >> 16 & 0xFF)
    return np.frombuffer(key, np.uint64)


@pytest.mark.skipif(sys.hash_info.algorithm != "siphash13", reason="this Python hashes bytes another way")
def test_the_hash_is_the_siphash_of_pythons_own_bytes():
    told = "import json; print(json.dumps([hash(bytes(range(n))) for n in range(1, 201)]))"
    python = {"args": [sys.executable, "-c", told], "env": os.environ | {"PYTHONHASHSEED": "42"}}
    theirs = json.loads(subprocess.run(**python, capture_output=True, check=True, timeout=60).stdout)
    data = np.arange(200, dtype=np.uint8)

    ours = [stream_ids._hash(data, 0, n, key(42)) for n in range(1, 201)]

    assert ours == [theirs_of_n % (1 << 64) for theirs_of_n in theirs]


def longest_walk(ids):
    """How many buckets the last id to be found is away from its home."""
    at = np.flatnonzero(ids._buckets[:, 0] >= 0)
    home = ids._hashes[ids._buckets[at, 0]] % np.uint64(len(ids._buckets))
    return int(((at - home.astype(np.int64)) % len(ids._buckets)).max())


def test_ids_picked_to_collide_under_one_seed_are_spread_by_another_and_their_slots_the_same(monkeypatch):
    names = [f"leaf/{i}" for i in range(200_000)]
    data = np.frombuffer("".join(names).encode(), np.uint8)
    ends = np.cumsum([len(name) for name in names]).tolist()
    starts = [0, *ends[:-1]]
    homes = [stream_ids._hash(data, a, b, key(1)) % 2_048 for a, b in zip(starts, ends, strict=True)]
    picked = [name for name, home in zip(names, homes, strict=True) if home == 7]
    walks = []
    for seed in (1, 2):
        monkeypatch.setattr(stream_ids, "_SEED", key(seed))
        ids = StreamIds(streams_max=1_000)
        assert ids.slots(picked).tolist() == list(range(len(picked)))
        walks.append(longest_walk(ids))

    assert walks[0] == len(picked) - 1 > 80
    assert walks[1] < 5


def test_each_process_has_a_seed_of_its_own():
    assert runpy.run_path(stream_ids.__file__)["_SEED"].tolist() != stream_ids._SEED.tolist()


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 4), (3, 2)])
def test_an_id_outside_its_bytes_is_the_callers_bug(start, end):
    with pytest.raises(ValueError, match="outside the bytes"):
        StreamIds(streams_max=9).place(np.zeros(3, np.uint8), np.array([start]), np.array([end]))


def test_the_table_grows_and_freed_bytes_are_used_again():
    ids = StreamIds(streams_max=5_000)
    for generation in range(30):
        names = [f"switch-{generation}-{i}/1" for i in range(5_000)]
        assert ids.slots(names).tolist() == list(range(5_000))
        assert ids.names == names
        ids.remove(np.arange(5_000))

    assert len(ids) == 0
    assert ids._bytes.size < 4 * 5_000 * len(names[-1])


def test_a_table_taken_over_goes_on_with_the_same_slots():
    ids = StreamIds(streams_max=9, names=["a/1", "", "b/1", ""])

    assert ids.slots(["c/1", "b/1", "d/1", "e/1", "a/1"]).tolist() == [1, 2, 3, 4, 0]


def test_text_of_slots_is_laid_out_as_arrow_has_it():
    ids = StreamIds(streams_max=9, names=["a/1", "ü/2", "c"])

    offsets, data = ids.utf8(np.array([2, 1, 1, 0]))

    assert offsets.tolist() == [0, 1, 5, 9, 12]
    assert data.tobytes().decode() == "cü/2ü/2a/1"
    assert [part.size for part in ids.utf8(np.empty(0, np.int64))] == [1, 0]


def test_to_free_a_slot_that_holds_no_stream_is_the_callers_bug():
    ids = StreamIds(streams_max=9, names=["a/1", ""])

    for slot in (1, 2, -1):
        with pytest.raises(ValueError, match=f"slot {slot} holds no stream"):
            ids.remove(np.array([slot]))


def test_ids_that_are_here_stay_under_a_lower_limit_and_free_slots_count_for_nothing() -> None:
    ids = StreamIds(streams_max=1, names=["a/1", "", "", "b/1"])

    assert ids.slots(["b/1", "a/1", "c/1"]).tolist() == [3, 0, -1]
    assert len(ids) == 2
