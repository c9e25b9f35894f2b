import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.ingest.sources.counters import BITS, COUNTERS, INDEX, Samples, deltas

U64 = st.integers(0, 2**64 - 1)


def samples(rows, *, at_s=0.0, boot=0):
    """Ports with the counters that each row names; all others weren't read."""
    values = np.zeros((len(rows), len(COUNTERS)), np.uint64)
    is_read = np.zeros(values.shape, bool)
    for row, named in enumerate(rows):
        for name, value in named.items():
            values[row, INDEX[name]], is_read[row, INDEX[name]] = value, True
    return Samples(values, is_read, np.full(len(rows), at_s), np.full(len(rows), boot, np.int64))


def one(name, before, now, *, boot=0, elapsed_s=10.0, bits=None):
    got = deltas(samples([{name: before}]), samples([{name: now}], at_s=elapsed_s, boot=boot), period_s=10, bits=bits)
    at = INDEX[name]
    return got.value[0, at], bool(got.is_saturated[0, at]), bool(got.is_reset[0, at])


UNKNOWN = pytest.approx(math.nan, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "before", "now", "boot", "expected"),
    [
        ("port_rcv_errors", 65_530, 65_535, 0, (5, True, False)),  # a lower bound
        ("port_rcv_errors", 65_535, 65_535, 0, (UNKNOWN, True, False)),  # stuck says nothing: never 0
        ("port_rcv_errors", 65_535, 12, 0, (UNKNOWN, False, True)),
        ("local_link_integrity_errors", 15, 15, 0, (UNKNOWN, True, False)),
        ("local_link_integrity_errors", 14, 3, 0, (UNKNOWN, False, True)),
        ("packet_seq_err", 4_294_967_290, 5, 0, (11, False, False)),
        ("packet_seq_err", 4_294_967_290, 5, 1, (UNKNOWN, False, True)),  # another boot
        ("packet_seq_err", 3_000_000_000, 5, 0, (UNKNOWN, False, True)),  # too far from the top to have wrapped
        ("port_xmit_data", 1_000, 2_250_001_000, 0, (2_250_000_000, False, False)),
        ("port_xmit_data", 2**64 - 6, 5, 0, (11, False, False)),
        ("port_xmit_wait", 2**32 - 1, 2**32 - 1, 0, (UNKNOWN, True, False)),  # as in node_exporter's own fixture
        ("link_downed", 7, 7, 0, (0, False, False)),
    ],
)
def test_the_golden_vectors_of_the_delta_rule(name, before, now, boot, expected):
    assert one(name, before, now, boot=boot) == expected


def test_what_was_not_read_both_times_is_unknown_and_the_rest_is_known():
    before = samples([{"port_rcv_errors": 3, "symbol_error": 1}])
    now = samples([{"port_rcv_errors": 4, "link_downed": 9}], at_s=10.0)

    got = deltas(before, now, period_s=10)

    known = {c.name for c in COUNTERS if not np.isnan(got.value[0, INDEX[c.name]])}
    present = {c.name for c in COUNTERS if got.is_present[0, INDEX[c.name]]}
    assert known == {"port_rcv_errors"}
    assert present == {"port_rcv_errors", "symbol_error", "link_downed"}
    assert not got.is_reset.any()


def test_a_64_bit_error_counter_passes_the_16_bit_maximum():
    bits = np.full(len(COUNTERS), 64, np.uint8)

    assert one("port_xmit_discards", 65_535, 65_535, bits=bits) == (0, False, False)
    assert one("port_xmit_discards", 65_535, 65_600, bits=bits) == (65, False, False)


def test_widths_may_differ_from_port_to_port():
    bits = np.vstack([BITS, np.full(len(COUNTERS), 64, np.uint8)])
    stuck = [{"symbol_error": 65_535}] * 2

    got = deltas(samples(stuck), samples(stuck, at_s=10.0), period_s=10, bits=bits)

    assert got.is_saturated[:, INDEX["symbol_error"]].tolist() == [True, False]


@pytest.mark.parametrize("elapsed_s", [0.0, -1.0, math.nan])
def test_an_empty_interval_says_nothing(elapsed_s):
    assert one("link_downed", 1, 2, elapsed_s=elapsed_s)[0] == UNKNOWN


def test_a_gap_is_longer_than_three_periods():
    ports = [{"link_downed": 1}]

    assert not deltas(samples(ports), samples(ports, at_s=30.0), period_s=10).is_gap[0]
    assert deltas(samples(ports), samples(ports, at_s=30.1), period_s=10).is_gap[0]


def test_other_ports_than_before_are_a_callers_bug():
    with pytest.raises(ValueError, match="same ports twice"):
        deltas(samples([{}]), samples([{}, {}]), period_s=10)


@given(st.sampled_from([c for c in COUNTERS if c.kind == "wrap"]), st.integers(0, 2**62), st.data())
def test_a_wrap_from_the_top_quarter_to_the_lowest_counts_what_passed(counter, step, data):
    size = 2**counter.bits
    step %= size // 4
    before = data.draw(st.integers(3 * size // 4 + 1, size - 1))

    value, _, is_reset = one(counter.name, before, (before + step) % size)

    assert value == float(step)
    assert not is_reset


@given(U64, U64, st.integers(0, 1), st.sampled_from(COUNTERS))
def test_no_delta_is_ever_negative_and_none_of_another_boot_is_known(before, now, boot, counter):
    top = 2**counter.bits - 1

    value, _, is_reset = one(counter.name, before & top, now & top, boot=boot)

    assert math.isnan(value) or value >= 0
    assert not (boot and not is_reset)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(INDEX)), st.tuples(U64, U64)), min_size=1, max_size=5))
def test_ports_together_are_ports_one_by_one(ports):
    before = [{name: pair[0] for name, pair in port.items()} for port in ports]
    now = [{name: pair[1] for name, pair in port.items()} for port in ports]

    together = deltas(samples(before), samples(now, at_s=10.0), period_s=10)

    for row in range(len(ports)):
        alone = deltas(samples(before[row : row + 1]), samples(now[row : row + 1], at_s=10.0), period_s=10)
        np.testing.assert_array_equal(together.value[row], alone.value[0])
        np.testing.assert_array_equal(together.is_saturated[row], alone.is_saturated[0])
        np.testing.assert_array_equal(together.is_reset[row], alone.is_reset[0])
