import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.targets import (
    HARD_DOWN,
    HORIZON_MS,
    LONGEST_WINDOW_MS,
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    Incidents,
    SplitRefused,
    split,
    targets,
)

HOUR_MS = 3_600_000
LASTS = np.iinfo(np.int64).max


def incidents(*of: tuple[int, int, int, int]) -> Incidents:
    stream, start, end, code = zip(*of, strict=True) if of else ([], [], [], [])
    return Incidents(
        np.array(stream, np.int64), np.array(start, np.int64), np.array(end, np.int64), np.array(code, np.int8)
    )


def by_hand(s: int, t: int, known: Incidents, horizon: int) -> tuple[int, int, int]:
    mine = sorted((start, i) for i, start in enumerate(known.start) if known.stream[i] == s)
    under_way = [(start, i) for start, i in mine if start <= t < known.end[i]]
    ahead = [(start, i) for start, i in mine if t < start <= t + horizon and known.end[i] > t]
    for start, i in (*under_way, *ahead):
        return int(known.code[i]), i, int(start - t)
    return 0, -1, 0


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40),
    happened=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(1, 30), st.integers(1, HARD_DOWN)),
        max_size=8,
        unique_by=lambda incident: incident[:2],
    ),
    horizon=st.integers(0, 20),
)
def test_every_row_gets_the_incident_under_way_else_the_next_within_the_horizon(rows, happened, horizon):
    known = incidents(*((s, start, start + lasts, code) for s, start, lasts, code in happened))
    stream, ts = (np.array(column, np.int64) for column in (zip(*rows, strict=True) if rows else ((), ())))

    found = targets(stream, ts, known, horizon)

    got = list(zip(found.code.tolist(), found.incident.tolist(), found.lead_ms.tolist(), strict=True))
    assert got == [by_hand(s, t, known, horizon) for s, t in rows]


def test_an_incident_that_lasts_is_under_way_for_ever():
    known = incidents((0, HOUR_MS, LASTS, HARD_DOWN))

    found = targets(np.zeros(3, np.int64), np.array([0, HOUR_MS, 10_000 * HOUR_MS]), known)

    assert found.code.tolist() == [HARD_DOWN] * 3
    assert found.lead_ms.tolist() == [HOUR_MS, 0, -9_999 * HOUR_MS]


def rows(n_links: int, hours: int) -> tuple[np.ndarray, np.ndarray]:
    ts = np.arange(0, hours * HOUR_MS, 60_000)
    return np.tile(ts, n_links), np.repeat(np.arange(n_links) * 7, ts.size)


@given(n_links=st.integers(3, 40), hours=st.integers(12, 60), seed=st.integers(0, 9))
def test_parts_share_no_link_and_no_event_and_later_parts_are_later(n_links, hours, seed):
    ts, link = rows(n_links, hours)
    part = split(ts, link, known_until=hours * HOUR_MS, seed=seed)

    links = [set(link[part == code]) for code in (TRAIN, VALIDATION, TEST)]
    times = [ts[part == code] for code in (TRAIN, VALIDATION, TEST)]
    assert sum(map(len, links)) == len(set.union(*links))
    for earlier, later in ((times[0], times[1]), (times[1], times[2])):
        assert later.min() - earlier.max() > LONGEST_WINDOW_MS + HORIZON_MS


def test_used_rows_are_seventy_to_fifteen_to_fifteen():
    ts, link = rows(200, 100)
    part = split(ts, link, known_until=101 * HOUR_MS, seed=0)

    shares = np.bincount(part[part != UNUSED]) / (part != UNUSED).sum()
    np.testing.assert_allclose(shares, [0.70, 0.15, 0.15], atol=0.01)


def test_rows_whose_horizon_has_not_passed_are_not_used():
    ts, link = rows(10, 24)
    part = split(ts, link, known_until=20 * HOUR_MS, seed=0)

    assert ts[part != UNUSED].max() <= 20 * HOUR_MS - HORIZON_MS


@pytest.mark.parametrize(("n_links", "hours"), [(2, 48), (10, 4), (0, 0)])
def test_too_few_links_or_hours_are_refused_in_words(n_links, hours):
    ts, link = rows(n_links, hours)

    with pytest.raises(SplitRefused, match="at least 3 links, and more than 5 h"):
        split(ts, link, known_until=hours * HOUR_MS, seed=0)
