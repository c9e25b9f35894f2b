import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offline.dataset.targets import HARD_DOWN, Incidents, targets

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
