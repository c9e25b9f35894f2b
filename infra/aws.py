"""AWS clients with bounded calls, and their errors in words."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from streams.contract import LinkcastError

_BOUNDED = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})


class AwsRefused(LinkcastError):
    """AWS didn't do what it was asked to."""


def client(service: str) -> Any:
    """Return a client of the ambient account and region; its calls are bounded in time and attempts."""
    with in_words():
        return boto3.client(service, config=_BOUNDED)


def check_login() -> None:
    """Raise `AwsRefused` where no call could be made, for want of a region or of credentials."""
    with in_words():
        session = boto3.session.Session()
        if session.region_name is None:
            raise NoRegionError
        if session.get_credentials() is None:
            raise NoCredentialsError


@contextmanager
def in_words() -> Iterator[None]:
    """Raise `AwsRefused` for whatever AWS or the way to it answers with."""
    try:
        yield
    except NoCredentialsError as error:
        raise AwsRefused("no AWS credentials here: run 'aws sso login', or set AWS_PROFILE") from error
    except NoRegionError as error:
        raise AwsRefused("no AWS region: set AWS_DEFAULT_REGION, for example eu-central-1") from error
    except ClientError as error:
        said = error.response["Error"]
        raise AwsRefused(f"{error.operation_name}: {said.get('Code')}: {said.get('Message')}") from error
    except BotoCoreError as error:
        raise AwsRefused(str(error)) from error


def is_missing(error: ClientError) -> bool:
    """Tell whether an error of SageMaker's `describe_…` says that there is no such thing."""
    said = error.response["Error"]
    return said.get("Code") in ("ValidationException", "ResourceNotFound") and "Could not find" in said["Message"]
