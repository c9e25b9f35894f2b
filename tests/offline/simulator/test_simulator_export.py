"""The files of a run: whole or not there, readable by the rest of linkcast, and the same in either format."""

import json

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner

from infra.commands.simulate import command
from offline.simulator.export import export
from offline.simulator.fabric import Fabric, Setting
from offline.simulator.truth import Incident
from streams.contract import METRICS, MetricEvent, Outcome

SETTING = Setting(ports=40, hours=3.0, seed=2)


def test_events_in_json_are_valid_and_those_of_the_parquet_file(tmp_path):
    export(Fabric(SETTING), tmp_path, events_as="jsonl")
    export(Fabric(SETTING), tmp_path)
    with zstandard.open(tmp_path / "metrics.jsonl.zst") as file:
        lines = file.read().splitlines()
    events = [msgspec.json.decode(line, type=MetricEvent) for line in lines]
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()

    assert [{"stream_id": e.stream_id, "ts": e.ts, **{m: getattr(e, m) for m in METRICS}} for e in events] == rows


def test_the_files_say_what_the_fabric_knows(tmp_path):
    fabric = Fabric(SETTING)
    counts = export(fabric, tmp_path)
    about = json.loads((tmp_path / "fabric.json").read_text())
    truth = msgspec.json.Decoder(Incident).decode_lines((tmp_path / "truth.jsonl").read_bytes())
    outcomes = msgspec.json.Decoder(Outcome).decode_lines((tmp_path / "outcomes.jsonl").read_bytes())

    assert truth == fabric.incidents
    assert outcomes == fabric.outcomes()
    assert about["seed"] == 2
    assert about["parameters"]["idle_share"] == 0.655
    assert np.ravel(about["links"]).tolist() == about["stream_ids"] == fabric.stream_ids
    assert counts["events"] == pq.ParquetFile(tmp_path / "metrics.parquet").metadata.num_rows


def test_a_run_that_broke_off_does_not_look_whole(tmp_path):
    def stop(_n_events: int) -> None:
        raise KeyboardInterrupt

    export(Fabric(SETTING), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export(Fabric(SETTING), tmp_path, progress=stop)

    assert not (tmp_path / "fabric.json").exists()


def test_the_command_writes_a_folder_for_each_of_two_profiles(tmp_path):
    line = f"--ports 8 --hours 1 --profile true,train --seed 3 --period 10 --topology tree --out {tmp_path}"
    result = CliRunner().invoke(command, line.split(), catch_exceptions=False)

    assert result.exit_code == 0
    assert set(json.loads(result.stdout)) == {"true", "train"}
    assert (tmp_path / "true" / "fabric.json").exists()
    assert (tmp_path / "train" / "fabric.json").exists()


@pytest.mark.parametrize("wrong", ["--ports 7", "--profile wild", "--hours 0"])
def test_the_command_refuses_what_makes_no_fabric(wrong, tmp_path):
    assert CliRunner().invoke(command, [*wrong.split(), "--out", str(tmp_path)]).exit_code == 2
