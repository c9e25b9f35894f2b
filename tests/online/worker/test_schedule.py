"""Turns: the newest are kept, however many there were."""

from online.worker.schedule import TURNS_KEPT, Turns


def test_the_turn_behind_the_last_that_is_kept_takes_effect_and_the_oldest_is_forgotten():
    # m0 scored from offset 0, m1 from 100 … the last is one more than are kept
    turns = Turns()
    records = [turns.take(100 * n, f"m{n}") for n in range(TURNS_KEPT + 1)]
    after_a_crash = Turns()
    after_a_crash.recall(records[-1])

    for its in (turns, after_a_crash):
        assert its.offsets == [100 * n for n in range(1, TURNS_KEPT + 1)]
        assert its.model_at(100 * TURNS_KEPT) == f"m{TURNS_KEPT}"
        assert its.model_at(100 * TURNS_KEPT - 1) == f"m{TURNS_KEPT - 1}"
        assert its.model_at(50) == "m1"  # of m0 nobody knows any more
