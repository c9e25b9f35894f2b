"""What the environment says, checked at the cold start: a Lambda with a wrong setting fails before its first record."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from streams.contract import LinkcastError


class SettingsRefused(LinkcastError):
    """A variable is missing or can't be read."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where insights, alerts and dead letters go, and who may score.

    Parameters
    ----------
    table, bus
        DynamoDB table of insights, and EventBridge bus of alerts.
    dead_topic, bootstrap
        Dead-letter topic, and the cluster it is on: `host:port`, several separated by commas.
    security_protocol, sasl_mechanism
        How to speak to that cluster; AWS_MSK_IAM signs with the function's role.
    endpoint, bedrock_model
        SageMaker endpoint and Bedrock model id; None leaves that one out of the order of scoring.
    alert_risk
        Risk from which an opened or worsened episode is an alert, 0 to 100. Lower means more alerts.
    incident_ports
        So many ports of one node opened within `alerts.WINDOW_MS` are one incident and one alert; 2 to 500.
    """

    table: str
    bus: str
    dead_topic: str
    bootstrap: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    endpoint: str | None = None
    bedrock_model: str | None = None
    alert_risk: float = 80.0
    incident_ports: int = 8

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read `LINKCAST_*`. Raises `SettingsRefused` that names all that is missing at once.

        >>> Settings.from_environment({"LINKCAST_TABLE": "insights", "LINKCAST_BUS": "alerts"})
        Traceback (most recent call last):
        lambda_adapter.settings.SettingsRefused: not set: LINKCAST_DEAD_TOPIC, LINKCAST_BOOTSTRAP. Set them in the \
environment of the function.
        """
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        if absent := [name for name in _NEEDED if name not in given]:
            raise SettingsRefused(f"not set: {', '.join(absent)}. Set them in the environment of the function.")
        return cls(
            table=given["LINKCAST_TABLE"],
            bus=given["LINKCAST_BUS"],
            dead_topic=given["LINKCAST_DEAD_TOPIC"],
            bootstrap=given["LINKCAST_BOOTSTRAP"],
            security_protocol=given.get("LINKCAST_SECURITY_PROTOCOL", "PLAINTEXT"),
            sasl_mechanism=given.get("LINKCAST_SASL_MECHANISM"),
            endpoint=given.get("LINKCAST_ENDPOINT"),
            bedrock_model=given.get("LINKCAST_BEDROCK_MODEL"),
            alert_risk=_number(given, "LINKCAST_ALERT_RISK", 80.0, low=0, high=100),
            incident_ports=int(_number(given, "LINKCAST_INCIDENT_PORTS", 8, low=2, high=500)),
        )


_NEEDED = ("LINKCAST_TABLE", "LINKCAST_BUS", "LINKCAST_DEAD_TOPIC", "LINKCAST_BOOTSTRAP")


def _number(given: Mapping[str, str], name: str, default: float, *, low: float, high: float) -> float:
    try:
        number = float(given.get(name, default))
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        raise SettingsRefused(f"{name}={given[name]!r}: set a number from {low:g} to {high:g}, or leave it out")
    return number
