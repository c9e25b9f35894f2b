import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.contract import METRICS
from streams.ingest.sources.counters import BITS, COUNTERS, INDEX, Samples, deltas
from streams.ingest.sources.metrics import LinkState, metrics
from streams.wire.events import METRIC_MAX

IDLE = dict.fromkeys(
    [
        "port_xmit_data",
        "port_rcv_data",
        "port_xmit_packets",
        "port_rcv_packets",
        "port_rcv_errors",
        "port_xmit_discards",
    ],
    0,
)


def figures(counted, *, rate_gbps=100.0, is_roce=False, elapsed_s=10.0, unread_at_first=(), bits=BITS):
    """What metrics a port has that counted `counted` in `elapsed_s`."""
    values = np.zeros((1, len(COUNTERS)), np.uint64)
    is_read = np.zeros(values.shape, bool)
    for name, value in counted.items():
        values[0, INDEX[name]], is_read[0, INDEX[name]] = value, True
    was_read = is_read.copy()
    was_read[0, [INDEX[name] for name in unread_at_first]] = False
    zero, boot = np.zeros_like(values), np.zeros(1, np.int64)
    counted = deltas(
        Samples(zero, was_read, np.zeros(1), boot),
        Samples(values, is_read, np.full(1, elapsed_s), boot),
        period_s=10,
        bits=bits,
    )
    got = metrics(counted, LinkState(np.array([rate_gbps]), np.array([is_roce])))
    return {name: float(value[0]) for name, value in got.items()}


def test_bandwidth_is_the_larger_direction_in_words_of_32_bits():
    got = figures(IDLE | {"port_xmit_data": 2_250_000_000, "port_rcv_data": 1_000_000_000})

    assert got["bandwidth_gbps"] == pytest.approx(7.2)
    assert got["rx_gbps"] == pytest.approx(3.2)
    assert got["utilization"] == pytest.approx(7.2)


def test_an_idle_port_is_a_real_zero_and_what_nobody_counts_is_missing():
    got = figures(IDLE)

    assert [got[name] for name in ("bandwidth_gbps", "utilization", "error_rate")] == [0, 0, 0]
    assert math.isnan(got["qp_errors"])
    assert math.isnan(got["mr_failures"])
    assert "latency_p99" not in got


def test_what_exceeds_the_line_rate_is_quarantined_and_a_little_above_is_full():
    words_per_gbps = 10 * 1e9 / 32

    full = figures(IDLE | {"port_xmit_data": int(104 * words_per_gbps)})
    impossible = figures(IDLE | {"port_xmit_data": int(106 * words_per_gbps)})

    assert full["utilization"] == 100
    assert full["quarantined"] == 0
    assert math.isnan(impossible["bandwidth_gbps"])
    assert impossible["quarantined"] == 1


def test_a_link_of_unknown_rate_has_a_bandwidth_and_no_utilization():
    got = figures(IDLE | {"port_xmit_data": 10**9}, rate_gbps=math.nan)

    assert got["bandwidth_gbps"] == pytest.approx(3.2)
    assert math.isnan(got["utilization"])


def test_one_bad_packet_of_three_is_not_a_third_lost():
    few = figures(IDLE | {"port_rcv_errors": 1, "port_rcv_packets": 3})
    many = figures(IDLE | {"port_rcv_errors": 1, "port_rcv_packets": 1_000, "port_xmit_packets": 1_000})

    assert few["error_rate"] == pytest.approx(1e-3)
    assert many["error_rate"] == pytest.approx(5e-4)


def test_gaps_in_the_sequence_are_errors_on_roce_only():
    counted = IDLE | {"port_rcv_packets": 10_000, "out_of_sequence": 5, "rx_icrc_encapsulated": 5}

    assert figures(counted, is_roce=True)["error_rate"] == pytest.approx(1e-3)
    assert figures(counted, is_roce=False)["error_rate"] == 0


def test_an_unknown_operand_makes_an_unknown_metric():
    assert math.isnan(figures(IDLE, unread_at_first=["port_rcv_errors"])["error_rate"])
    assert math.isnan(figures(IDLE, unread_at_first=["port_rcv_data"])["bandwidth_gbps"])


def test_qp_errors_add_up_what_the_device_counts_per_minute():
    got = figures({"packet_seq_err": 3, "rnr_nak_retry_err": 2}, elapsed_s=10.0)

    assert got["qp_errors"] == 30


def test_qp_errors_are_unknown_while_one_that_exists_is():
    got = figures({"packet_seq_err": 3, "rnr_nak_retry_err": 2}, unread_at_first=["rnr_nak_retry_err"])

    assert math.isnan(got["qp_errors"])


def test_a_jobs_end_flushes_queues_and_is_no_error():
    got = figures({"req_cqe_error": 300, "req_cqe_flush_error": 299, "resp_cqe_error": 80, "resp_cqe_flush_error": 80})

    assert got["qp_errors"] == 6


def test_remote_access_errors_are_memory_registration_failures():
    got = figures({"req_remote_access_errors": 1, "resp_remote_access_errors": 1}, elapsed_s=60.0)

    assert got["mr_failures"] == 2


def test_a_port_without_credit_all_the_time_is_stalled():
    ticks = int(100e9 / 8 / 64 * 10)  # each is 64 bytes of a 100 Gb/s line not sent

    assert figures(IDLE | {"port_xmit_wait": ticks})["stall"] == pytest.approx(1.0)


def test_what_a_cable_lost_is_counted_per_minute_and_missing_where_a_port_does_not_count_it():
    counted = {
        "symbol_error": 1,
        "link_error_recovery": 2,
        "link_downed": 3,
        "port_rcv_remote_physical_errors": 4,
        "port_xmit_discards": 5,
    }
    names = ("symbol_errors", "recoveries", "link_downed", "remote_errors", "discards")

    assert [figures(counted, elapsed_s=30.0)[name] for name in names] == [2, 4, 6, 8, 10]
    assert [figures(dict.fromkeys(counted, 0))[name] for name in names] == [0] * 5
    assert all(math.isnan(figures({"port_xmit_data": 1})[name]) for name in (*names, "stall"))


def test_stall_needs_the_rate_of_the_link():
    assert math.isnan(figures(IDLE | {"port_xmit_wait": 1}, rate_gbps=math.nan)["stall"])


def test_a_count_that_no_port_reaches_is_quarantined():
    got = figures({"port_xmit_packets": 1, "symbol_error": 2**62}, elapsed_s=10.0, bits=np.full_like(BITS, 64))

    assert (math.isnan(got["symbol_errors"]), got["quarantined"]) == (True, 1)


BOUNDS = dict(zip(METRICS, METRIC_MAX.tolist(), strict=True))


@given(
    st.dictionaries(st.sampled_from(sorted(INDEX)), st.integers(0, 2**64 - 1)),
    st.sampled_from([0.0, 2.5, 400.0, math.nan]),
    st.booleans(),
    st.sampled_from([1e-3, 10.0, 1e5]),
)
def test_no_metric_is_ever_negative_or_out_of_the_contracts_range(counted, rate_gbps, is_roce, elapsed_s):
    got = figures(counted, rate_gbps=rate_gbps, is_roce=is_roce, elapsed_s=elapsed_s)

    for name, value in got.items():
        assert math.isnan(value) or 0 <= value <= BOUNDS.get(name, math.inf), name
