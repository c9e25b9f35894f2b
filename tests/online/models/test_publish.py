"""What topic `models` says of a bundle leads back to that bundle and no other."""

import os

import msgspec
import pytest

from online.models import topic
from online.models.bundle import BundleRefused
from online.models.publish import folder_of, manifest_of
from streams.contract import ModelManifest


@pytest.fixture
def folder(write, tmp_path):
    return write(tmp_path / "bundles")


def test_a_published_folder_is_found_by_url_and_by_path(write, tmp_path):
    folder = write(tmp_path / "a folder, with ä")
    manifest = manifest_of(folder, published_at=0)

    assert folder_of(manifest) == folder
    assert folder_of(msgspec.structs.replace(manifest, location=str(folder))) == folder


def test_a_folder_that_is_gone_or_holds_another_bundle_is_told(folder):
    manifest = manifest_of(folder, published_at=0)
    (folder / "manifest.json").write_bytes(b"{}")
    with pytest.raises(BundleRefused, match="its manifest is not the one that was published"):
        folder_of(manifest)

    (folder / "manifest.json").unlink()
    with pytest.raises(BundleRefused, match=f"No such file.*topic models says that {folder.name} is there"):
        folder_of(manifest)


def test_a_bundle_in_s3_is_told_to_be_out_of_reach():
    manifest = ModelManifest(version="v7", location="s3://b/v7", manifest_sha256="0" * 64, published_at=0)

    with pytest.raises(BundleRefused, match="run this where the workers run"):
        folder_of(manifest)


@pytest.mark.parametrize(
    "location", ["http://[", "/dev/nul\0", "file:///tmp/%00", "v" * 100_000, "/a\nb", "file:///dev/zero"]
)
def test_a_location_that_is_none_is_refused_in_one_short_line(location):
    manifest = ModelManifest(version="v7", location=location, manifest_sha256="0" * 64, published_at=0)

    with pytest.raises(BundleRefused) as refused:
        folder_of(manifest)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 900


def test_a_fifo_in_the_place_of_a_manifest_is_refused_at_once(folder):
    manifest = manifest_of(folder, published_at=0)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")

    with pytest.raises(BundleRefused, match="not a regular file"):
        folder_of(manifest)


@pytest.mark.parametrize(
    "value", [b'{"x":' + b"[" * 500_000, b'{"version":"\xff"', b'{"' + b"k\\n" * 50_000 + b'":1}', b"", None]
)
def test_a_record_that_is_no_manifest_is_one_line_of_the_log(value, caplog):
    assert topic._manifest(value) is None

    (said,) = caplog.messages
    assert said.isprintable()
    assert len(said) < 900
