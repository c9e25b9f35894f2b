import asyncio
import math

import msgspec
import pytest

from streams.contract import EVENT_TIME_MS_MIN, MetricEvent
from streams.ingest.sources.collect import Collector, NotWritable, Oddities, Reading, samples, to_file
from streams.ingest.sources.sysfs import Sysfs


def reading(
    port="mlx5_0:1", at_s=0.0, *, boot="", bits=None, stated=None, rate_gbps=100.0, bond_gbps=math.nan, **counters
):
    return Reading(
        node="gpu7",
        port=port,
        ts=int(at_s * 1000),
        monotonic_s=at_s,
        counters=counters,
        rate_gbps=rate_gbps,
        boot=boot,
        bits=bits or {},
        stated=stated or {},
        bond_gbps=bond_gbps,
    )


@pytest.fixture
def collector():
    return Collector(period_s=10, odd=Oddities())


def test_a_streams_first_event_has_no_metric_and_its_second_has(collector):
    (first,) = collector.events([reading(port_xmit_data=0, port_rcv_data=0)])
    (second,) = collector.events([reading(at_s=10, port_xmit_data=2_250_000_000, port_rcv_data=0)])

    assert first.bandwidth_gbps is None
    assert first.extra == {"rate_gbps": 100}
    assert second.bandwidth_gbps == pytest.approx(7.2)
    assert second.ts == 10_000


def test_ports_come_and_go_and_the_others_stay(collector):
    both = ["mlx5_0:1", "mlx5_1:1"]
    collector.events([reading(port, 0, link_downed=0) for port in both])
    collector.events([reading("mlx5_0:1", 10, link_downed=0)])
    back, new = collector.events([reading("mlx5_1:1", 40, link_downed=2), reading("mlx5_2:1", 40, link_downed=5)])

    assert back.link_downed == 3  # 2 in 40 s
    assert back.extra["gap"] == 1
    assert new.link_downed is None


def test_readings_of_one_stream_are_successive_samples_wherever_they_are_cut(collector):
    rows = [reading(at_s=at_s, port_xmit_data=at_s * 10**8, port_rcv_data=0) for at_s in range(0, 60, 10)]
    other = Collector(period_s=10, odd=Oddities())

    at_once = collector.events(rows)
    one_by_one = [event for row in rows for event in other.events([row])]

    assert at_once == one_by_one
    assert [e.bandwidth_gbps for e in at_once[1:]] == [pytest.approx(3.2)] * 5


def test_a_reboot_makes_one_interval_unknown(collector):
    collector.events([reading(boot="a", link_downed=1)])
    (restarted,) = collector.events([reading(at_s=10, boot="b", link_downed=3)])
    (after,) = collector.events([reading(at_s=20, boot="b", link_downed=4)])

    assert restarted.link_downed is None
    assert restarted.extra["reset"] == 1
    assert after.link_downed == 6


def test_a_classic_32_bit_traffic_counter_that_is_stuck_is_unknown_and_not_idle(collector):
    stuck = {"port_xmit_data": 2**32 - 1, "port_rcv_data": 2**32 - 1}
    collector.events([reading(**stuck)])
    (event,) = collector.events([reading(at_s=10, **stuck)])

    assert event.bandwidth_gbps is None
    assert event.utilization is None


def test_counters_come_before_what_the_source_states(collector):
    (alone,) = collector.events([reading(stated={"utilization": 3.0})])
    (counted,) = collector.events([reading(at_s=10, stated={"utilization": 3.0})])
    assert (alone.utilization, counted.utilization) == (3, 3)

    collector.events([reading(at_s=20, port_xmit_data=0, port_rcv_data=0)])
    (counted,) = collector.events([reading(at_s=30, stated={"utilization": 3.0}, port_xmit_data=0, port_rcv_data=0)])
    assert counted.utilization == 0


def test_what_no_link_can_carry_is_left_out_and_said_once(collector, caplog):
    for at_s in range(0, 40, 10):
        (event,) = collector.events([reading(at_s=at_s, port_xmit_data=at_s * 10**12, port_rcv_data=0)])

    assert event.bandwidth_gbps is None
    assert event.extra["quarantined"] == 1
    assert len(caplog.records) == 1


def bond_event(collector, words, *, port="mlx5_bond_0:1", **known):
    """The event of a port that sent `words` in 2 s at a stated 200 Gb/s."""
    collector.events([reading(port, rate_gbps=200.0, port_xmit_data=0, port_rcv_data=0, **known)])
    (event,) = collector.events([reading(port, 2.0, rate_gbps=200.0, port_xmit_data=words, port_rcv_data=0, **known)])
    return event


@pytest.mark.parametrize(("words", "gbps", "utilization"), [(9_375_000_000, 150, 37.5), (23_250_000_000, 372, 93)])
def test_a_bonds_utilization_is_of_all_its_legs(collector, caplog, words, gbps, utilization):
    event = bond_event(collector, words, bond_gbps=400.0)

    assert (event.bandwidth_gbps, event.utilization) == (pytest.approx(gbps), pytest.approx(utilization))
    assert not caplog.records


def test_the_kernels_own_bond_has_two_legs_where_nothing_tells_and_that_is_said(collector, caplog):
    assert bond_event(collector, 9_375_000_000).utilization == pytest.approx(37.5)
    (said,) = caplog.records
    assert said.getMessage().endswith("nothing tells how many it has: 2 are taken for granted")


def test_a_bond_whose_legs_nothing_tells_has_no_utilization_and_its_bandwidth(collector, caplog):
    event = bond_event(collector, 23_250_000_000, port="rdma_bond0:1")

    assert (event.bandwidth_gbps, event.utilization) == (pytest.approx(372), None)
    assert "quarantined" not in event.extra
    assert "utilization is left out" in caplog.text


def test_a_bond_that_carries_more_than_its_legs_has_other_legs(collector):
    event = bond_event(collector, 43_750_000_000)  # 700 Gb/s of twice 200

    assert (event.bandwidth_gbps, event.utilization) == (pytest.approx(700), None)
    assert "quarantined" not in event.extra


def test_what_omni_path_does_not_count_is_missing(collector):
    none = dict.fromkeys(["symbol_error", "port_xmit_wait", "link_downed", "port_xmit_data", "port_rcv_data"], 0)
    for at_s in (0, 10):
        (event,) = collector.events([reading("hfi1_0:1", at_s, **none)])

    assert (event.symbol_errors, event.stall, event.link_downed) == (None, None, 0)
    assert event.extra.keys() == {"tx_gbps", "rx_gbps", "rate_gbps"}


@pytest.mark.parametrize("name", ["a" * 500, "é" * 300, "a/b", "\udcff", "", "a\u2028b"])
def test_any_name_makes_a_stream_id_of_the_contract(name):
    stream_id = Reading(name, name, 0, 0.0, {}).stream_id

    assert stream_id.isprintable()
    assert len(stream_id.encode()) <= 200
    assert stream_id.count("/") == 1
    msgspec.convert({"v": 1, "stream_id": stream_id, "ts": 946_684_800_000}, MetricEvent)


def test_a_tree_that_does_not_change_is_idle_and_its_stuck_counters_are_unknown(sysfs_tree):
    (sysfs_tree / "mlx4_0/ports/1/counters/port_rcv_errors").write_text("65535\n")
    source = Sysfs(sysfs_tree, host="gpu7", odd=Oddities())
    collector = Collector(period_s=0.01, odd=Oddities())

    collector.events(source.read())
    events = {event.stream_id: event for event in collector.events(source.read())}

    assert len(events) == 4
    assert [e.bandwidth_gbps for e in events.values()] == [0, 0, 0, 0]
    assert [e.error_rate for e in events.values()] == [0, None, 0, 0]
    assert [e.qp_errors for e in events.values()] == [None, None, None, 0]


@pytest.fixture
async def clock(monkeypatch):
    """The loop's time, in s, in its only element; a wait passes at once."""
    now = [0.0]

    async def pass_by(awaitable, timeout):  # noqa: ASYNC109  # `asyncio.wait_for`'s own
        awaitable.close()
        now[0] += timeout
        raise TimeoutError

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
    monkeypatch.setattr(asyncio, "wait_for", pass_by)
    return now


async def test_samples_keep_to_the_schedule_and_skip_what_a_slow_reading_overran(clock):
    taken_s = []
    async for _ in samples(list, every_s=10.0, count=5, stop=asyncio.Event()):
        taken_s.append(clock[0])
        clock[0] += 25.0 if len(taken_s) == 2 else 1.0

    assert taken_s == [0, 10, 40, 50, 60]


async def test_samples_stop_after_the_one_under_way():
    stop, taken = asyncio.Event(), 0
    async for _ in samples(list, every_s=0.01, count=None, stop=stop):
        taken += 1
        if taken == 4:
            stop.set()

    assert taken == 4


async def test_a_file_that_takes_no_more_holds_whole_samples(tmp_path, room_for):
    path = tmp_path / "events.jsonl"
    sample = [MetricEvent(stream_id=f"gpu7/{i}", ts=EVENT_TIME_MS_MIN + i) for i in range(4)]
    async with to_file(str(path)) as put:
        await put(sample)
        whole = path.read_bytes()
        with (
            room_for(len(whole) + 50),
            pytest.raises(NotWritable, match=r"events\.jsonl: File too large.*name another file with --out"),
        ):
            await put(sample)

    assert path.read_bytes() == whole
    assert [msgspec.json.decode(line, type=MetricEvent) for line in whole.splitlines()] == sample


async def test_a_full_device_is_told():
    async with to_file("/dev/full") as put:
        with pytest.raises(NotWritable, match="/dev/full: No space left on device"):
            await put([MetricEvent(stream_id="gpu7/1", ts=1)])
