import http.client
import json
import re
import threading
from contextlib import contextmanager
from typing import ClassVar

import boto3
import pytest
from botocore.validate import ParamValidator
from moto import mock_aws

from infra.sagemaker.endpoint import Endpoint, Model
from infra.sagemaker.trust import TRUSTED_PEM, as_pem
from online.models.bundle import load_bundle
from tests.online.conftest import signing_key, trained, write  # noqa: F401


@pytest.fixture
def environment(signing_key):  # noqa: F811
    return {TRUSTED_PEM: as_pem([signing_key.public_key()])}


@pytest.fixture
def folder(write, tmp_path):  # noqa: F811
    return write(tmp_path / "bundles")


@pytest.fixture
def trusted(signing_key):  # noqa: F811
    return [signing_key.public_key()]


@pytest.fixture
def bundle(folder, trusted):
    return load_bundle(folder, trusted)


@pytest.fixture
def model(folder, environment):
    model = Model()
    model.load(folder, environment)
    return model


@contextmanager
def serving(model):
    endpoint = Endpoint(("127.0.0.1", 0), model)
    accepting = threading.Thread(target=endpoint.serve_forever, args=(0.01,))
    accepting.start()
    try:
        yield endpoint
    finally:
        for connection in Asker.opened:
            connection.close()
        Asker.opened.clear()
        endpoint.stop()
        accepting.join()


@pytest.fixture
def endpoint(model):
    with serving(model) as endpoint:
        yield endpoint


class Asker:
    """One connection, and what was answered on it."""

    opened: ClassVar = []

    def __init__(self, endpoint):
        self.connection = http.client.HTTPConnection("127.0.0.1", endpoint.server_port)
        self.opened.append(self.connection)

    def __call__(self, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
def ask(endpoint):
    return Asker(endpoint)


@pytest.fixture
def invoke(ask):
    def _invoke(body, content_type="application/json"):
        return ask("POST", "/invocations", body, Content_Type=content_type)

    return _invoke


@pytest.fixture
def aws(monkeypatch):
    """An account of moto's, empty but for the bucket `models`."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="models")
        yield


def assert_valid(service, operation, request):
    """Hold a request to AWS' own model of the operation: names, types, required ones, enums and patterns."""
    shape = boto3.client(service, region_name="us-east-1").meta.service_model.operation_model(operation).input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    for where, value, of in leaves_of(request, shape, operation):
        if allowed := getattr(of, "enum", None):  # only strings have one
            assert value in allowed, where
        pattern = of.metadata.get("pattern")
        if pattern and not re.search(r"\\[pu]", pattern):  # Java's classes, which Python's re doesn't have
            assert re.fullmatch(pattern, value), f"{where}: {value!r} is not {pattern}"
        size = len(value) if isinstance(value, str) else value
        assert size >= of.metadata.get("min", size), where
        assert size <= of.metadata.get("max", size), where


def leaves_of(value, shape, where):
    if shape.type_name == "structure":
        for name, below in value.items():
            yield from leaves_of(below, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list":
        for i, below in enumerate(value):
            yield from leaves_of(below, shape.member, f"{where}[{i}]")
    elif shape.type_name == "map":
        for name, below in value.items():
            yield from leaves_of(below, shape.value, f"{where}.{name}")
    elif shape.type_name in ("string", "integer", "double", "float"):
        yield where, value, shape
