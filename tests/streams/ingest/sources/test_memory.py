import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.contract import METRICS
from streams.ingest.sources import memory
from streams.ingest.sources.collect import Collector, Oddities, Reading
from streams.ingest.sources.counters import BITS, COUNTERS, INDEX
from streams.ingest.sources.memory import FORGOTTEN_S, CounterMemory, Sample

LINK = ("port_xmit_data", "port_rcv_data", "port_xmit_packets", "port_rcv_packets", "port_rcv_errors")
READ = (*LINK, "port_xmit_discards", "symbol_error", "packet_seq_err", "req_cqe_error")


def sample(at_s, *, boot="", is_change=False, **counters):
    values, is_read = np.zeros((1, len(COUNTERS)), np.uint64), np.zeros((1, len(COUNTERS)), bool)
    for name, value in counters.items():
        values[0, INDEX[name]], is_read[0, INDEX[name]] = value, True
    return Sample(
        values=values,
        is_read=is_read,
        at_s=np.array([float(at_s)]),
        bits=BITS[np.newaxis],
        data_bytes=np.array([4]),
        is_roce=np.array([False]),
        is_change=np.array([is_change]),
        boots=[boot],
    )


def deltas_of(samples, stream="gpu7/mlx5_0:1"):
    """Each sample's deltas by counter, those that are known."""
    kept = CounterMemory(period_s=10)
    return [known(kept.advance([stream], one)[0]) for one in samples]


def known(counted):
    return {c.name: v for c, v in zip(COUNTERS, counted.value[0].tolist(), strict=True) if v == v}


def reading(at_s, counters, *, port="mlx5_0:1", **other):
    return Reading("gpu7", port, int(at_s * 1000), at_s, counters, **{"rate_gbps": 400.0, **other})


def events_of(readings, period_s=10):
    return Collector(period_s=period_s, odd=Oddities()).events(readings)


def test_a_counter_that_a_sample_lacks_is_counted_from_its_own_last_reading():
    first, lacking, back = deltas_of(
        [
            sample(0, symbol_error=3, port_rcv_errors=1),
            sample(10, port_rcv_errors=2),
            sample(20, symbol_error=8, port_rcv_errors=4),
        ]
    )

    assert (first, lacking) == ({}, {"port_rcv_errors": 1})
    assert back == {"symbol_error": 5, "port_rcv_errors": 2}


# What is counted and which samples lack what: rows of steps, and of what was read of them.
STEPS = st.lists(st.tuples(*[st.integers(0, 50)] * len(READ)), min_size=3, max_size=12)


@given(STEPS, st.data())
def test_whatever_samples_lack_no_count_is_lost_or_told_twice(steps, data):
    totals = dict(zip(READ, np.cumsum(steps, axis=0).T.tolist(), strict=True))
    last = len(steps) - 1
    lacking = [data.draw(st.sets(st.sampled_from(READ))) if 0 < at < last else set() for at in range(len(steps))]

    told = deltas_of(
        sample(10 * at, **{name: total[at] for name, total in totals.items() if name not in lacking[at]})
        for at in range(len(steps))
    )

    for name, total in totals.items():
        assert sum(row.get(name, 0) for row in told) == total[-1] - total[0], name


JOINED = ("port_rcv_packets", "port_xmit_packets", "port_rcv_errors", "port_xmit_discards", "packet_seq_err")


@given(st.lists(st.tuples(st.integers(1, 50), st.sets(st.sampled_from(JOINED))), min_size=1, max_size=12))
def test_a_joint_metric_tells_every_count_once_and_over_one_interval(steps):
    packets = [0, *np.cumsum([1_000 * step for step, _ in steps]).tolist(), 10**6]
    lacking = [set(), *(lacks for _, lacks in steps), set()]
    errors = [n // 100 for n in packets]
    totals = dict(zip(JOINED, (packets, packets, errors, [0] * len(packets), packets), strict=True))
    totals |= {"rnr_nak_retry_err": packets}

    events = events_of(
        (
            reading(10 * at, {name: total[at] for name, total in totals.items() if name not in lacks})
            for at, lacks in enumerate(lacking)
        ),
        period_s=1_000,
    )

    # Errors are 1 % of the packets received at all times, so they are in whatever interval is told.
    assert all(event.error_rate in (None, pytest.approx(0.005)) for event in events)
    assert events[-1].error_rate is not None
    told_at = [0, *(at for at, event in enumerate(events) if event.qp_errors is not None)]
    minutes = np.diff(told_at) / 6
    assert sum(events[at].qp_errors * span for at, span in zip(told_at[1:], minutes, strict=True)) == pytest.approx(
        2 * packets[-1]
    )


@given(st.permutations(READ), st.integers(1, len(READ) - 1))
def test_two_readings_of_one_moment_are_one_sample(names, cut):
    whole = [dict.fromkeys(READ, 100 * at) for at in range(3)]
    parts = [
        reading(10 * at, {name: counters[name] for name in part})
        for at, counters in enumerate(whole)
        for part in (names[:cut], names[cut:])
    ]

    assert events_of(parts) == events_of([reading(10 * at, counters) for at, counters in enumerate(whole)])


def test_of_one_moment_the_wider_counter_wins_in_either_order():
    classic = [
        reading(at, {"port_xmit_data": 2**32 - 1, "port_rcv_data": 7}, bits={"port_xmit_data": 32}) for at in (0, 10)
    ]
    wide = [reading(at, {"port_xmit_data": 10**12 + at * 10**9}) for at in (0, 10)]

    for readings in ([*classic, *wide], [*wide, *classic]):
        assert events_of(readings)[-1].bandwidth_gbps == pytest.approx(32)


def test_of_a_stream_of_changes_the_rest_is_unchanged_and_not_unknown():
    # ufm_sdk_3.0#39: at 30 s nothing but traffic changed, at 60 s errors came too.
    counted = dict.fromkeys(READ, 0)
    traffic = {"port_xmit_packets": 3_000_000, "port_rcv_packets": 3_000_000}
    more = {name: 2 * n for name, n in traffic.items()} | {"port_rcv_errors": 600, "symbol_error": 6_000}

    whole, quiet, bad = events_of(
        [reading(0, counted), reading(30, traffic, is_change=True), reading(60, more, is_change=True)], period_s=30
    )

    assert whole.error_rate is None
    assert (quiet.error_rate, quiet.symbol_errors) == (0, 0)
    assert (bad.error_rate, bad.symbol_errors) == (pytest.approx(1e-4), 12_000)


@pytest.mark.parametrize("is_change", [False, True])
def test_two_sources_may_tell_a_ports_counters_apart_each_at_its_time(is_change):
    # ufm_sdk_3.0#57: traffic at 0, 30, 60 s, errors just before.
    traffic = [dict.fromkeys(LINK[:4], n * 10**9) for n in range(3)]
    errors = [{"port_rcv_errors": n * 10**7, "port_xmit_discards": 0} for n in range(3)]
    readings = [
        reading(30 * n + late_s, counters, is_change=is_change and n > 0)
        for n in range(3)
        for late_s, counters in ((-0.1, errors[n]), (0, traffic[n]))
    ]

    events = events_of(readings, period_s=30)

    assert [e.error_rate for e in events] == [None] * 3 + [pytest.approx(0.005), None, pytest.approx(0.005)]
    assert [e.bandwidth_gbps for e in events] == [None] * 3 + [pytest.approx(32 / 30), None, pytest.approx(32 / 30)]
    assert not any("quarantined" in (e.extra or {}) for e in events)


def test_a_reset_makes_its_own_counter_unknown_and_no_other():
    _, reset, after = deltas_of(
        [
            sample(0, symbol_error=9, link_downed=1),
            sample(10, symbol_error=2, link_downed=2),
            sample(20, symbol_error=5, link_downed=2),
        ]
    )

    assert reset == {"link_downed": 1}
    assert after == {"symbol_error": 3, "link_downed": 0}


def test_a_reboot_is_seen_by_a_counter_that_was_missing_then():
    *_, back = deltas_of(
        [
            sample(0, boot="a", symbol_error=1, link_downed=1),
            sample(10, boot="b", link_downed=1),
            sample(20, boot="b", link_downed=2, symbol_error=40),
        ]
    )

    assert back == {"link_downed": 1}


@pytest.mark.parametrize(
    ("boots", "seen"),
    [
        (["1767000000", "1.767000001e+09", "1767000000"], 2),  # a corrected clock, and back
        (["1767000000", "", "1767000003"], 2),  # not said once
        (["1767000000", "1767003600", "1767003600"], 1),  # a reboot
        (["", "1767000000", "1767000000"], 2),
        (["a", "b", "a"], 0),
    ],
)
def test_a_corrected_clock_is_no_reboot(boots, seen):
    told = deltas_of(sample(10 * at, boot=boot, link_downed=at) for at, boot in enumerate(boots))

    assert sum("link_downed" in row for row in told) == seen


def test_a_file_that_is_read_again_says_nothing_new_and_loses_nothing():
    traffic = [dict.fromkeys(LINK, n * 10**9) | {"port_xmit_discards": 0} for n in range(2)]

    *_, again, later = events_of([reading(0, traffic[0]), reading(10, traffic[1])][at] for at in (0, 0, 1))
    told = deltas_of(sample(at_s, symbol_error=n) for at_s, n in ((0, 0), (10, 4), (10, 6), (20, 9)))

    assert (again.error_rate, later.error_rate) == (None, pytest.approx(0.5))
    assert told == [{}, {"symbol_error": 4}, {}, {"symbol_error": 5}]


def test_a_port_that_does_not_say_once_that_it_is_roce_loses_no_gap_in_the_sequence():
    packets = [dict.fromkeys(LINK[2:4], n * 10**5) for n in range(3)]
    still = {"port_rcv_errors": 0, "port_xmit_discards": 0}

    events = events_of(
        reading(10 * n, packets[n] | still | {"out_of_sequence": gaps}, is_roce=is_roce)
        for n, (gaps, is_roce) in enumerate([(0, True), (400, False), (400, True)])
    )

    assert [event.error_rate for event in events] == [None, 0, pytest.approx(400 / 400_000)]


def test_a_counter_comes_back_for_25_hours_and_then_begins_anew():
    for away_s, told in ((FORGOTTEN_S, {"link_downed": 4}), (FORGOTTEN_S + 1, {})):
        assert deltas_of([sample(0, link_downed=1), sample(away_s, link_downed=5)])[-1] == told


def test_ports_that_went_away_leave_memory_and_their_slots_clean():
    kept = CounterMemory(period_s=FORGOTTEN_S)
    for day in range(30):
        kept.next_sample()
        for port in range(50):
            one, at_s = f"gpu{day}/{port}", day * 2 * FORGOTTEN_S
            first, _ = kept.advance([one], sample(at_s, boot=str(day), port_rcv_errors=port))
            second, _ = kept.advance([one], sample(at_s + 10, boot=str(day), port_rcv_errors=port + 1))
            assert (known(first), known(second)) == ({}, {"port_rcv_errors": 1})

    assert len(kept._slots) <= 256


def test_a_port_whose_clock_is_years_behind_makes_none_forgotten():
    kept = CounterMemory(period_s=10)
    for at_s in (0, 10):
        kept.next_sample()
        for port in range(20):
            counted, _ = kept.advance([f"gpu7/{port}"], sample(at_s + port * 10**8, link_downed=at_s))

            assert known(counted) == ({} if at_s == 0 else {"link_downed": 10})


def test_memory_grows_with_its_ports_and_mixes_up_none():
    kept = CounterMemory(period_s=10)
    for at_s in (0, 10):
        for port in range(100):
            counted, _ = kept.advance([f"gpu7/{port}"], sample(at_s, port_xmit_data=at_s * port))

            assert known(counted) == ({} if at_s == 0 else {"port_xmit_data": 10 * port})


def test_a_classic_traffic_counter_that_goes_back_was_reset_for_it_never_wraps():
    near_top = {"port_xmit_data": 2**32 - 5, "port_rcv_data": 0}
    bits = {"port_xmit_data": 32}

    _, back = events_of([reading(0, near_top, bits=bits), reading(10, dict.fromkeys(near_top, 3), bits=bits)])

    assert back.bandwidth_gbps is None
    assert back.extra["reset"] == 1


def test_another_width_is_another_counter():
    _, wide = events_of([reading(0, {"link_downed": 1}), reading(10, {"link_downed": 300}, bits={"link_downed": 64})])

    assert wide.link_downed is None


def test_every_joint_metric_is_a_metric():
    assert memory.JOINT.keys() <= set(METRICS)
