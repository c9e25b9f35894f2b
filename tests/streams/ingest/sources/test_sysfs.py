import logging
import math
import os
import shutil

import pytest

from streams.ingest.sources.collect import Oddities
from streams.ingest.sources.sysfs import Sysfs


def read(root):
    return {reading.stream_id: reading for reading in Sysfs(root, host="gpu7", odd=Oddities()).read()}


@pytest.fixture
def mlx4(sysfs_tree):
    return sysfs_tree / "mlx4_0" / "ports" / "1"


def test_every_port_of_the_procfs_tree_is_read(sysfs_tree):
    ports = read(sysfs_tree)

    assert list(ports) == ["gpu7/hfi1_0:1", "gpu7/mlx4_0:1", "gpu7/mlx4_0:2", "gpu7/mlx5_0:1"]
    assert [port.rate_gbps for port in ports.values()] == [100, 40, 40, 25]
    assert ports["gpu7/hfi1_0:1"].counters["port_rcv_data"] == 345_091_702_026  # flits, as they are
    assert [port.data_bytes for port in ports.values()] == [8, 4, 4, 4]
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


def test_flits_are_known_by_the_driver_whatever_the_devices_name(sysfs_tree):
    (sysfs_tree / "hfi1_0").rename(sysfs_tree / "fabric0")
    (sysfs_tree / "fabric0" / "device").mkdir()
    (sysfs_tree / "fabric0" / "device" / "driver").symlink_to("../../../bus/pci/drivers/hfi1")

    assert read(sysfs_tree)["gpu7/fabric0:1"].data_bytes == 8


@pytest.fixture
def efa(tmp_path):
    """An Elastic Fabric Adapter: no counters/, bytes and packets among the hw_counters (node_exporter#3670)."""
    return port_of(
        tmp_path / "infiniband" / "rdmap0", "Unspecified", hw_counters={"tx_bytes": 1000, "rx_bytes": 3, "tx_pkts": 9}
    )


def port_of(device, link_layer, **folders):
    port = device / "ports" / "1"
    for folder, counters in folders.items():
        (port / folder).mkdir(parents=True)
        for name, value in counters.items():
            (port / folder / name).write_text(f"{value}\n")
    (port / "rate").write_text("200 Gb/sec (4X HDR)\n")
    (port / "link_layer").write_text(link_layer + "\n")
    return port


def test_traffic_of_efa_is_counted_in_bytes_among_its_hw_counters(efa):
    (port,) = read(efa.parents[2]).values()

    assert port.counters == {"port_xmit_data": 1000, "port_rcv_data": 3, "port_xmit_packets": 9}
    assert port.data_bytes == 1


def test_counters_that_only_answer_errors_leave_the_word_to_the_hw_counters(efa):
    # bnxt_re has counters/port_rcv_data, and reading it is EINVAL (prometheus/procfs#675).
    (efa / "counters" / "port_rcv_data").mkdir(parents=True)

    assert read(efa.parents[2])["gpu7/rdmap0:1"].counters["port_rcv_data"] == 3


def test_a_port_that_has_counted_words_does_not_change_to_bytes_for_a_sample(efa, caplog):
    (efa / "counters").mkdir()
    (efa / "counters" / "port_xmit_data").write_text("5\n")
    source = Sysfs(efa.parents[2], host="gpu7", odd=Oddities())

    (words,) = source.read()
    (efa / "counters" / "port_xmit_data").unlink()
    (unread,) = source.read()

    assert (words.data_bytes, words.counters) == (4, {"port_xmit_data": 5})
    assert (unread.data_bytes, unread.counters) == (4, {})


def test_a_port_whose_counters_have_other_names_says_one_of_them(tmp_path, caplog):
    port = port_of(
        tmp_path / "odd0", "InfiniBand", counters={"words_sent": 1, "words_got": 2}, hw_counters={"lifespan": 10}
    )

    read(tmp_path)

    assert f"{port}: no counter's name is known: 'words_got'" in caplog.text


@pytest.fixture
def bond(tmp_path):
    """A RoCE bond of two legs as the kernel has it: one RDMA device, interfaces beside `infiniband`."""
    port = port_of(
        tmp_path / "infiniband" / "mlx5_bond_0", "Ethernet", counters={"port_xmit_data": 0, "port_rcv_data": 0}
    )
    (port / "gid_attrs" / "ndevs").mkdir(parents=True)
    (port / "gid_attrs" / "ndevs" / "0").write_text("bond0\n")
    for leg in ("ens1f0", "ens1f1", "bond0"):
        (tmp_path / "net" / leg).mkdir(parents=True)
    bonding = tmp_path / "net" / "bond0" / "bonding"
    bonding.mkdir()
    (bonding / "slaves").write_text("ens1f0 ens1f1\n")
    (bonding / "mode").write_text("802.3ad 4\n")
    (tmp_path / "net" / "ens1f0" / "device" / "infiniband" / "mlx5_bond_0").mkdir(parents=True)
    return bonding.parent


def gbps_of(bond):
    (port,) = read(bond.parents[1] / "infiniband").values()
    assert port.rate_gbps == 200
    return port.bond_gbps


def test_a_bonds_rate_is_that_of_the_legs_that_may_send(bond):
    assert gbps_of(bond) == 400

    (bond / "bonding" / "mode").write_text("active-backup 1\n")
    assert gbps_of(bond) == 200

    (bond / "speed").write_text("100000\n")  # Mb/s: the kernel's sum comes first
    assert gbps_of(bond) == 100

    (bond / "speed").write_text("-1\n")
    assert gbps_of(bond) == 200


@pytest.mark.parametrize("where", ["../net", "infiniband/mlx5_bond_0/device/net"])
def test_a_bond_is_found_by_the_interface_of_its_device_too(bond, where):
    port = bond.parents[1] / "infiniband" / "mlx5_bond_0"
    (port / "ports" / "1" / "gid_attrs" / "ndevs" / "0").unlink()
    (port / "device" / "net" / "ens1f0").mkdir(parents=True)
    leg = bond.parent / "ens1f0" if where == "../net" else port / "device" / "net" / "ens1f0"
    if where == "../net":
        (port / "device" / "net" / "ens1f0").rmdir()
        (port / "device" / "net" / "ens1f0").symlink_to(leg)
    (leg / "master").symlink_to(bond)

    assert gbps_of(bond) == 400


def test_a_renamed_bond_is_one_and_two_devices_under_one_interface_are_none(bond):
    infiniband = bond.parents[1] / "infiniband"
    own = bond.parent / "ens1f0" / "device" / "infiniband"
    (infiniband / "mlx5_bond_0").rename(infiniband / "rocep1s0f0")
    (own / "mlx5_bond_0").rename(own / "rocep1s0f0")
    assert gbps_of(bond) == 400

    (bond.parent / "ens1f1" / "device" / "infiniband" / "rocep1s0f1").mkdir(parents=True)
    assert math.isnan(gbps_of(bond))


@pytest.mark.parametrize("name", ["", "../../etc", "x" * 4000, "nowhere", "."])
def test_an_interface_that_is_none_tells_no_legs(bond, name):
    (bond.parents[1] / "infiniband" / "mlx5_bond_0" / "ports" / "1" / "gid_attrs" / "ndevs" / "0").write_text(name)

    assert math.isnan(gbps_of(bond))
