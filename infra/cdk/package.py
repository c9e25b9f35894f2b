"""The folder that becomes the Lambda: `python -m infra.cdk.package`, no docker needed.

Wheels for Lambda's own platform (Python 3.13, arm64) are fetched by pip from the hashed lock, whatever this machine
is. Neither NumPy nor a model is in it. boto3 is: the runtime's own may be of another year than the one we tested.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from streams.contract import LinkcastError

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "build" / "lambda"
LOCK = ROOT / "requirements" / "lambda.txt"
HANDLER = "lambda_adapter.handler.lambda_handler"
PYTHON = "3.13"
"""Of Lambda: what the lock was resolved for."""
OURS = (
    "lambda_adapter",
    "streams/__init__.py",
    "streams/contract.py",
    "streams/inside_aiokafka.py",
    "streams/features/rules.toml",
)
SERVICES = ("bedrock-runtime", "dynamodb", "events", "sagemaker-runtime", "sts", "xray")
"""AWS services that the Lambda calls, the last by its tracer. botocore describes some four hundred, in 25 MB."""
BYTES_MAX = 35 * 1024 * 1024
"""Unzipped: it decides how long a cold start takes. Lambda's own limit is 250 MB."""


class PackageRefused(LinkcastError):
    """The folder is not what the Lambda should be."""


def make_package() -> int:
    """Fill `PACKAGE` anew with our code and its libraries; return its size in bytes. Raises `PackageRefused`."""
    shutil.rmtree(PACKAGE, ignore_errors=True)
    PACKAGE.mkdir(parents=True)
    _install(PACKAGE)
    copy_ours(PACKAGE)
    strip(PACKAGE)
    if not compile_for_lambda(PACKAGE):
        print(
            f"no python{PYTHON} here: the package goes without bytecode, and each cold start compiles it",
            file=sys.stderr,
        )
    return check_package(PACKAGE)


def copy_ours(folder: Path) -> None:
    """Copy our own files into `folder`, without what runs only on a developer's machine."""
    for name in OURS:
        source = ROOT / name
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "event_source"))
        else:
            shutil.copy(source, target)


def check_package(folder: Path) -> int:
    """Return the size in bytes of a folder that can be deployed; else raise `PackageRefused`."""
    if not (folder / "lambda_adapter" / "handler.py").exists():
        raise PackageRefused(f"{folder}: no Lambda package there. Make it first: python -m infra.cdk.package")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > BYTES_MAX:
        raise PackageRefused(f"{folder}: {size:,} bytes unzipped, at most {BYTES_MAX:,}: find what was added to {LOCK}")
    return size


def _install(folder: Path) -> None:
    arguments = ["--target", str(folder), "--requirement", str(LOCK), "--require-hashes", "--no-deps", "--no-compile"]
    platform = ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", "--abi", "cp313"]
    for manylinux in ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        platform += ["--platform", f"{manylinux}_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments, *platform]
    subprocess.run(command, check=True)  # noqa: S603  # pip says itself what is wrong


def strip(folder: Path) -> None:
    """Remove what never runs in Lambda: tests, caches, commands, the descriptions of services that it does not call."""
    never_run = [path for pattern in ("**/__pycache__", "**/tests", "bin") for path in folder.glob(pattern)]
    described = [path for library in ("botocore", "boto3") for path in (folder / library / "data").iterdir()]
    never_called = [path for path in described if path.is_dir() and path.name not in SERVICES]
    for path in never_run + never_called:
        shutil.rmtree(path)


def compile_for_lambda(folder: Path) -> bool:
    """Put bytecode of Lambda's Python beside the sources; False where this machine has no such Python.

    /var/task can't be written to: without this every cold start would compile all that it imports.
    """
    python = shutil.which(f"python{PYTHON}")
    # A name on the PATH may be a version manager's, for a Python that is not chosen here.
    if not python or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:  # noqa: S603
        return False
    compile_for(python, folder)
    return True


def compile_for(python: str, folder: Path) -> None:
    """Put bytecode of one Python beside the sources."""
    # Unchecked, as the archive changes the files' times; by Lambda's paths, for tracebacks and the same bytes anywhere.
    how = ["--invalidation-mode", "unchecked-hash", "-s", str(folder), "-p", "/var/task"]
    subprocess.run([python, "-m", "compileall", "-q", *how, str(folder)], check=True)  # noqa: S603


if __name__ == "__main__":
    print(f"{PACKAGE}: {make_package():,} bytes unzipped")
