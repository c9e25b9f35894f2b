import http.client
import json
import threading
from contextlib import contextmanager
from typing import ClassVar

import pytest

from infra.sagemaker.endpoint import Endpoint, Model
from infra.sagemaker.trust import TRUSTED_PEM, as_pem
from tests.online.conftest import signing_key, trained, write  # noqa: F401


@pytest.fixture
def environment(signing_key):  # noqa: F811
    return {TRUSTED_PEM: as_pem([signing_key.public_key()])}


@pytest.fixture
def folder(write, tmp_path):  # noqa: F811
    return write(tmp_path / "bundles")


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
        self.connection = http.client.HTTPConnection("127.0.0.1", endpoint.server_port, timeout=20)
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
