"""Whether an endpoint answers a bundle's golden rows as the bundle itself does: a metric that an alarm watches."""

from typing import Any, NamedTuple

import msgspec
import numpy as np
from botocore.exceptions import ClientError
from numpy.typing import NDArray

from infra.sagemaker.deployment import GOLDEN_ERROR, METRICS_NAMESPACE, golden_dimensions
from infra.sagemaker.endpoint import golden_rows
from infra.sagemaker.rows import CONTENT_TYPE, Answer, scored
from online.models.bundle import Bundle
from streams.contract import FEATURES


class Asked(NamedTuple):
    """What became of the golden rows that an endpoint was asked for."""

    rows: int
    answered: int  # by the bundle itself: during a canary most answers are the old one's
    failed: int
    error: float  # largest difference in risk or in any probability, points of 0 to 100; 0 where none was answered


def ask_golden(runtime: Any, endpoint: str, bundle: Bundle) -> Asked:
    """Ask an endpoint for each golden row, one at a time as the Lambda does, so that each may meet another instance."""
    X = golden_rows(bundle)
    answered = failed = 0
    error = 0.0
    for x, expected in zip(X, scored(bundle, X), strict=True):
        try:
            response = runtime.invoke_endpoint(
                EndpointName=endpoint, ContentType=CONTENT_TYPE, Accept=CONTENT_TYPE, Body=body_of(x)
            )
            answer = msgspec.json.decode(response["Body"].read(), type=Answer)
        except (ClientError, msgspec.DecodeError):
            failed += 1
            continue
        if answer.model == bundle.version:
            answered += 1
            error = max(error, difference(answer, expected))
    return Asked(len(X), answered, failed, error)


def body_of(x: NDArray[np.float32]) -> bytes:
    """Return the invocation for one row, shape (24,)."""
    values = {name: float(value) for name, value in zip(FEATURES, x, strict=True) if not np.isnan(value)}
    return msgspec.json.encode({"features": values})


def difference(answer: Answer, expected: Answer) -> float:
    """Return the largest difference between two answers, in points of risk and of 100 × probability."""
    of_class = (
        100.0 * abs(answer.probabilities.get(name, 0.0) - probability)
        for name, probability in expected.probabilities.items()
    )
    return max(abs(answer.risk - expected.risk), *of_class)


def publish(cloudwatch: Any, endpoint: str, asked: Asked) -> None:
    """Publish the error as a metric; nothing where the bundle answered no row, for that says nothing of it."""
    if asked.answered:
        datum = {"MetricName": GOLDEN_ERROR, "Dimensions": golden_dimensions(endpoint), "Value": asked.error}
        cloudwatch.put_metric_data(Namespace=METRICS_NAMESPACE, MetricData=[datum])
