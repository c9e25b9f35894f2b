import logging
import math
import os
import shutil

import pytest

from streams.sources.collect import Oddities
from streams.sources.sysfs import Sysfs


def read(root):
    return {reading.stream_id: reading for reading in Sysfs(root, host="gpu7", odd=Oddities()).read()}


@pytest.fixture
def mlx4(sysfs_tree):
    return sysfs_tree / "mlx4_0" / "ports" / "1"


def test_every_port_of_the_procfs_tree_is_read(sysfs_tree):
    ports = read(sysfs_tree)

    assert list(ports) == ["gpu7/hfi1_0:1", "gpu7/mlx4_0:1", "gpu7/mlx4_0:2", "gpu7/mlx5_0:1"]
    assert [port.rate_gbps for port in ports.values()] == [100, 40, 40, 25]
    assert ports["gpu7/hfi1_0:1"].counters["port_rcv_data"] == 345_091_702_026  # words, as they are
    assert ports["gpu7/mlx5_0:1"].counters["req_cqe_error"] == 3_481
    assert ports["gpu7/mlx5_0:1"].extra == {"state": 4, "phys_state": 4}
    assert not any(port.is_roce for port in ports.values())


@pytest.mark.parametrize("content", ["N/A (no PMA)", "", "-5", "18446744073709551616", "0x10", "1e3", "\u0663"])
def test_a_counter_that_is_no_number_is_left_out_alone(mlx4, sysfs_tree, content):
    (mlx4 / "counters" / "symbol_error").write_text(content + "\n", "utf-8")

    counters = read(sysfs_tree)["gpu7/mlx4_0:1"].counters

    assert "symbol_error" not in counters
    assert "port_rcv_errors" in counters


def test_bytes_that_are_no_text_are_left_out_alone(mlx4, sysfs_tree):
    (mlx4 / "counters" / "symbol_error").write_bytes(b"\xff\xfe\x00\x9f")
    (mlx4 / "rate").write_bytes(b"\xff\n")

    port = read(sysfs_tree)["gpu7/mlx4_0:1"]

    assert "symbol_error" not in port.counters
    assert math.isnan(port.rate_gbps)
    assert "port_xmit_data" in port.counters


def test_a_file_that_can_not_be_read_is_left_out_alone(mlx4, sysfs_tree):
    counters = mlx4 / "counters"
    for name in ("symbol_error", "link_downed", "port_rcv_errors"):
        (counters / name).unlink()
    (counters / "symbol_error").symlink_to("symbol_error")  # ELOOP, as any other error of the world
    (counters / "link_downed").mkdir()
    os.mkfifo(counters / "port_rcv_errors")  # must not hold up the sample

    got = read(sysfs_tree)["gpu7/mlx4_0:1"].counters

    assert not {"symbol_error", "link_downed", "port_rcv_errors"} & got.keys()
    assert "port_xmit_data" in got


def test_a_device_without_counters_still_says_what_its_hw_counters_know(sysfs_tree):
    # bnxt_re has no counters/ (prometheus/procfs#687).
    shutil.rmtree(sysfs_tree / "mlx5_0" / "ports" / "1" / "counters")

    counters = read(sysfs_tree)["gpu7/mlx5_0:1"].counters

    assert "packet_seq_err" in counters
    assert "port_xmit_data" not in counters


def test_hw_counters_of_a_device_are_its_ports(sysfs_tree):
    shutil.move(sysfs_tree / "mlx5_0" / "ports" / "1" / "hw_counters", sysfs_tree / "mlx5_0" / "hw_counters")

    assert read(sysfs_tree)["gpu7/mlx5_0:1"].counters["req_cqe_error"] == 3_481


def test_old_kernels_have_their_64_bit_traffic_in_counters_ext(mlx4, sysfs_tree):
    (mlx4 / "counters_ext").mkdir()
    (mlx4 / "counters_ext" / "port_xmit_data_64").write_text("99999999999\n")

    assert read(sysfs_tree)["gpu7/mlx4_0:1"].counters["port_xmit_data"] == 99_999_999_999


def test_odd_devices_and_ports_blind_no_other(sysfs_tree):
    (sysfs_tree / "stray").write_text("not a device")
    (sysfs_tree / "mlx5_9").mkdir()
    (sysfs_tree / "mlx5_8" / "ports" / "1").mkdir(parents=True)
    (sysfs_tree / "mlx4_0" / "ports" / "one").mkdir()
    (sysfs_tree / "mlx4_0" / "ports" / "17").symlink_to("17")
    (sysfs_tree / "gone_0").symlink_to("nowhere")
    (sysfs_tree / os.fsdecode(b"\xff\xfe")).mkdir()

    assert list(read(sysfs_tree)) == ["gpu7/hfi1_0:1", "gpu7/mlx4_0:1", "gpu7/mlx4_0:2", "gpu7/mlx5_0:1"]


def test_a_symlinked_device_of_a_name_without_utf8_gets_a_printable_stream(sysfs_tree):
    name = os.fsdecode(b"\xffib\n0")
    (sysfs_tree / "hfi1_0").rename(sysfs_tree.parent / name)
    (sysfs_tree / name).symlink_to(sysfs_tree.parent / name)

    assert "gpu7/_ib_0:1" in read(sysfs_tree)


def test_a_tree_that_is_not_there_has_no_ports(tmp_path):
    assert read(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("rate", "gbps"), [("2.5 Gb/sec (1X SDR)", 2.5), ("400 Gb/sec (4X NDR)", 400), ("4X NDR", math.nan)]
)
def test_rates_may_have_halves(mlx4, sysfs_tree, rate, gbps):
    (mlx4 / "rate").write_text(rate + "\n")

    assert read(sysfs_tree)["gpu7/mlx4_0:1"].rate_gbps == pytest.approx(gbps, nan_ok=True)


def test_a_port_that_is_down_or_of_a_roce_bond_says_so(mlx4, sysfs_tree):
    (mlx4 / "state").write_text("1: DOWN\n")
    (mlx4 / "link_layer").write_text("Ethernet\n")

    port = read(sysfs_tree)["gpu7/mlx4_0:1"]

    assert port.extra["state"] == 1
    assert port.is_roce


def test_an_oddity_is_said_once_with_its_path_and_reason(mlx4, sysfs_tree, caplog):
    (mlx4 / "counters" / "symbol_error").write_text("N/A (no PMA)\n")
    source = Sysfs(sysfs_tree, host="gpu7", odd=Oddities())

    with caplog.at_level(logging.WARNING):
        source.read()
        (mlx4 / "counters" / "symbol_error").write_text("N/A (still)\n")
        source.read()

    assert [r.getMessage() for r in caplog.records if "symbol_error" in r.getMessage()] == [
        f"{mlx4}/counters/symbol_error: is no counter value: 'N/A (no PMA)'"
    ]
