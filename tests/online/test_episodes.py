from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from online.episodes import CHANGES, Episodes, episode_id

SECOND_MS = 1_000


def changes(*risk_at: tuple[int, float]) -> list[str]:
    """What each (second, risk) of one stream changed."""
    seconds, risk = zip(*risk_at, strict=True)
    change, _ = Episodes().advance(
        np.zeros(len(risk), np.int64), np.array(seconds) * SECOND_MS, np.array(risk, np.float64)
    )
    return [CHANGES[code] for code in change]


class Plain:
    """The same rules for one stream, written slowly."""

    def __init__(self):
        self.opened_at, self.band, self.low_since, self.calm_since = None, 0, None, None

    def take(self, ts, risk):
        band = min(9, int(risk // 10))
        if self.opened_at is None:
            if risk < 60:
                return "", -1
            self.opened_at, self.band, self.low_since, self.calm_since = ts, band, None, None
            return "opened", ts
        opened_at = self.opened_at
        self.calm_since = (ts if self.calm_since is None else self.calm_since) if risk < 40 else None
        low = risk < 10 * (self.band - 1)
        self.low_since = (ts if self.low_since is None else self.low_since) if low else None
        if self.calm_since is not None and ts - self.calm_since >= 120_000:
            self.opened_at = None
            return "closed", opened_at
        if self.low_since is not None and ts - self.low_since >= 120_000:
            self.band, self.low_since = band, None
            return "eased", opened_at
        if band > self.band:
            self.band = band
            return "worsened", opened_at
        return "", opened_at


RISKS = st.one_of(st.sampled_from([0, 39.9, 40, 50, 59.9, 60, 69.9, 70, 80, 90, 100]), st.floats(0, 100))


@given(
    events=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 90), RISKS), max_size=80),
    cuts=st.sets(st.integers(0, 80)),
)
def test_every_stream_follows_the_plain_rules_however_the_log_is_cut(events, cuts):
    slots = np.array([e[0] for e in events], np.int32)
    ts = np.cumsum([e[1] for e in events]).astype(np.int64) * SECOND_MS
    risk = np.array([e[2] for e in events], np.float64)
    plain = {slot: Plain() for slot in range(4)}
    expected = [plain[s].take(int(t), r) for s, t, r in zip(slots, ts, risk, strict=True)]

    episodes = Episodes()
    edges = [0, *sorted(c for c in cuts if c < len(events)), len(events)]
    got = []
    for a, b in pairwise(edges):
        change, opened_at = episodes.advance(slots[a:b], ts[a:b], risk[a:b])
        got += zip([CHANGES[c] for c in change], opened_at.tolist(), strict=True)

    assert got == expected


def test_a_risk_that_hovers_on_an_edge_is_announced_once():
    assert changes((0, 69), (30, 71), (60, 69), (90, 71), (400, 65)) == ["opened", "worsened", "", "", ""]


def test_risk_must_stay_low_for_two_minutes_to_close():
    # 0        60       120      180      299      300 s
    # opened   low      edge     low      low      closed: low from 180 on; a band lower from 60 on
    events = ((0, 60), (60, 10), (120, 40), (180, 10), (299, 10), (300, 10))

    assert changes(*events) == ["opened", "", "", "eased", "", "closed"]


def test_closing_wins_over_easing():
    assert changes((0, 95), (10, 30), (130, 30)) == ["opened", "", "closed"]


def test_easing_takes_a_whole_band_less_for_two_minutes():
    assert changes((0, 95), (10, 79), (130, 79), (140, 80), (400, 62)) == ["opened", "", "eased", "worsened", ""]


def test_a_risk_one_band_lower_stays_silent_however_long():
    assert changes((0, 95), (10, 80), (130, 80), (9_999, 80)) == ["opened", "", "", ""]


def test_an_incident_of_a_hundred_percent_has_no_band_above_the_top():
    assert changes((0, 91), (1, 100), (2, 100)) == ["opened", "", ""]


def test_the_next_incident_of_a_stream_is_another_episode():
    change, opened_at = Episodes().advance(
        np.zeros(4, np.int64), np.array([0, 1, 200, 300]) * SECOND_MS, np.array([70.0, 0.0, 0.0, 60.0])
    )

    assert [CHANGES[c] for c in change] == ["opened", "", "closed", "opened"]
    assert opened_at.tolist() == [0, 0, 0, 300_000]
    assert episode_id("leaf/1", 300_000) == "leaf/1@300000"


def test_streams_beyond_the_first_room_keep_the_episodes_of_those_before():
    episodes = Episodes()
    episodes.advance(np.array([1_023]), np.array([5]), np.array([99.0]))
    change, opened_at = episodes.advance(np.array([70_000, 1_023]), np.array([6, 6]), np.array([60.0, 99.0]))

    assert [CHANGES[c] for c in change] == ["opened", ""]
    assert opened_at.tolist() == [6, 5]
