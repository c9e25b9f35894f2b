"""Schedules: the newest switches are kept, however many there were, and records of older workers are read."""

from online.worker.schedule import SWITCHES_KEPT, Schedule
from streams.group.state_topic import SCHEDULE


def test_the_switch_behind_the_last_that_is_kept_takes_effect_and_the_oldest_is_forgotten():
    # m0 scored from offset 0, m1 from 100 … the last is one more than are kept
    schedule = Schedule()
    records = [schedule.switch(100 * n, f"m{n}") for n in range(SWITCHES_KEPT + 1)]
    after_a_crash = Schedule()
    after_a_crash.restore(records[-1])

    for its in (schedule, after_a_crash):
        assert its.offsets == [100 * n for n in range(1, SWITCHES_KEPT + 1)]
        assert its.model_at(100 * SWITCHES_KEPT) == f"m{SWITCHES_KEPT}"
        assert its.model_at(100 * SWITCHES_KEPT - 1) == f"m{SWITCHES_KEPT - 1}"
        assert its.model_at(50) == "m1"  # of m0 nobody knows any more


def test_the_record_has_the_key_and_the_bytes_that_it_had_when_it_was_called_turns():
    # msgpack of [(100, "a"), (70_000, "b")]
    golden = bytes.fromhex("92 9264a161 92ce00011170a162")
    schedule = Schedule()
    schedule.restore(golden)

    assert SCHEDULE == b"turns"
    assert (schedule.offsets, schedule.model_at(69_999), schedule.model_at(70_000)) == ([100, 70_000], "a", "b")
    written = Schedule()
    assert [written.switch(100, "a"), written.switch(70_000, "b")][-1] == golden
