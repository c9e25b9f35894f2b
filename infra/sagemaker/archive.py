"""A bundle's folder as model.tar.gz, the same bytes each time, and its place in S3."""

import base64
import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from streams.contract import LinkcastError

FILES = ("classifier.ubj", "manifest.json", "manifest.sig", "risk.ubj")


class ArchiveRefused(LinkcastError):
    """Something else lies where a bundle's archive should."""


def archive(bundle: Path) -> bytes:
    """Return the four files of a bundle as a gzipped tar: no owner, no time, so one bundle gives the same bytes."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in FILES:
            content = (bundle / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o444
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def upload(s3: Any, packed: bytes, *, prefix: str, version: str, kms_key: str | None) -> str:
    """Put an archive to `PREFIX/VERSION/model.tar.gz` unless it is there, and return that URL.

    S3 computes the SHA-256 itself and refuses bytes that differ from ours. What lies there already is never written
    over: it has to have the same SHA-256, else `ArchiveRefused` is raised.
    """
    bucket, _, folder = prefix.removeprefix("s3://").partition("/")
    key = "/".join(part for part in (folder.strip("/"), version, "model.tar.gz") if part)
    sha256 = base64.b64encode(hashlib.sha256(packed).digest()).decode()
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    try:
        s3.put_object(
            Bucket=bucket, Key=key, Body=packed, ChecksumSHA256=sha256, IfNoneMatch="*",
            ContentType="application/gzip", **encryption,
        )  # fmt: skip
    except ClientError as error:
        if error.response["Error"].get("Code") != "PreconditionFailed":
            raise
        there = s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED").get("ChecksumSHA256")
        if there != sha256:
            raise ArchiveRefused(
                f"s3://{bucket}/{key}: has SHA-256 {there} and not {sha256}. Somebody else wrote it, or another zlib "
                f"packed it: look at it, and delete it or give another place"
            ) from error
    return f"s3://{bucket}/{key}"
