"""The Lambda's entry point: `lambda_adapter.handler.lambda_handler`.

Records are taken one after the other, in the order of their partition. A record that no retry mends goes to the
dead-letter topic and counts as done; whatever a retry may mend (throttling, 5xx, time-outs, expired credentials, an
absent table or bus) is reported, and its partition resumes there.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.circuit_breaker import CircuitState, CircuitTransition
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lambda_adapter.alerts import Alert, Alerts
from lambda_adapter.batch import Failure, OrderedKafkaProcessor, records_of
from lambda_adapter.bedrock import bedrock_client
from lambda_adapter.dead_letters import DeadLetter, DeadLetters, DeadLetterUndelivered
from lambda_adapter.enrichment import Enrichment
from lambda_adapter.explanations import explain
from lambda_adapter.insights import Insights
from lambda_adapter.language_scorer import LanguageScorer
from lambda_adapter.llm_limits import Budget, Cache, breaker_of
from lambda_adapter.outbox import Outbox
from lambda_adapter.records import KafkaRecord, RecordRefused, Unscored, bytes_of, read
from lambda_adapter.scoring import Endpoint, Scored, Scorer, breaker_store, sagemaker_endpoint
from lambda_adapter.settings import Settings
from streams.contract import LinkcastError

RESERVE_MS = 15_000
"""No record is begun in an invocation's last seconds: alerts and dead letters have to go out in them."""

logger = Logger(service="linkcast")
metrics = Metrics(namespace="linkcast", service="linkcast")
tracer = Tracer(service="linkcast", patch_modules=["botocore"])


class Adapter:
    """What one execution environment keeps from one invocation to the next."""

    def __init__(
        self,
        *,
        insights: Insights,
        alerts: Alerts,
        dead_letters: DeadLetters,
        scorer: Scorer,
        enrichment: Enrichment | None,
        clock: Callable[[], int],
    ) -> None:
        self.insights, self.alerts, self.dead_letters = insights, alerts, dead_letters
        self.scorer, self.enrichment, self.clock = scorer, enrichment, clock

    def handle(self, event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        """Return the partial batch response. Raises `EventRefused` for what is no batch of Kafka records."""
        return _Invocation(self, context).run(records_of(event))


class _Invocation:
    """One batch: what its records left to be sent, and its counts."""

    def __init__(self, adapter: Adapter, context: Any) -> None:
        self._of, self._context = adapter, context
        self._alerts: list[tuple[Mapping[str, Any], Alert]] = []
        self._letters: list[tuple[Mapping[str, Any], DeadLetter]] = []

    def run(self, records: list[dict[str, Any]]) -> Mapping[str, Any]:
        processor = OrderedKafkaProcessor(is_out_of_time=self._is_out_of_time, finish=self._finish)
        with processor(records, self._take):
            processor.process()
        _count("Records", len(records))
        for message, (_kind, error, _traceback) in zip(processor.fail_messages, processor.exceptions, strict=True):
            _log_failure(message, error)
        if self._of.enrichment:
            _count_enrichment(self._of.enrichment)
        response: Mapping[str, Any] = processor.response()
        _count("PartitionsHeldUp", len(response["batchItemFailures"]))
        return response

    def _left_ms(self) -> int | None:
        """Return what the batch's records may still take, None where nobody says."""
        return None if self._context is None else self._context.get_remaining_time_in_millis() - RESERVE_MS

    def _is_out_of_time(self) -> bool:
        left_ms = self._left_ms()
        return left_ms is not None and left_ms < 0

    def _take(self, record: Any) -> None:
        """Carry one record as far as it goes by itself. Raises what a retry may mend."""
        raw: Mapping[str, Any] = record.raw_event
        value: bytes | None = None
        try:
            value = bytes_of(raw.get("value"))
            said = read(value)
        except RecordRefused as refused:
            self._letters.append((raw, DeadLetter(_kafka_record(raw, value), refused)))
            return
        if isinstance(said, Unscored):
            self._take_unscored(raw, said)
        elif said.change:
            self._take_change(raw, Scored(said, "record"))
        elif said.episode and self._of.insights.see(said, self._of.clock()):
            _count("Heartbeats", 1)

    def _take_unscored(self, raw: Mapping[str, Any], record: Unscored) -> None:
        scored = self._of.scorer.score(record, self._left_ms())
        if scored.change.change and not self._of.insights.announces(scored.change, self._of.clock()):
            scored = Scored(scored.change.model_copy(update={"change": None}), scored.by)
        self._take_change(raw, scored)

    def _take_change(self, raw: Mapping[str, Any], scored: Scored) -> None:
        change = scored.change
        # Its average is the share of scores that were neither the worker's nor the endpoint's.
        metrics.add_metric(name="Fallback", unit=MetricUnit.Count, value=int(scored.is_fallback))
        if not change.change:
            return
        explanation = explain(change)
        if self._of.enrichment:
            explanation = self._of.enrichment.enrich(change, explanation, self._left_ms())
        is_new = self._of.insights.put(change, explanation, self._of.clock())
        _count("Insights" if is_new else "InsightsRepeated", 1)
        # Also where the insight was there already: whoever wrote it may have died before its alert.
        self._alerts.append((raw, Alert(change, explanation)))

    def _finish(self) -> Iterable[Failure]:
        """Send alerts, then the dead letters of what won't come again anyway; return the records that have to."""
        errors = self._of.alerts.publish([alert for _raw, alert in self._alerts])
        failures: list[Failure] = []
        for (raw, _alert), error in zip(self._alerts, errors, strict=True):
            if isinstance(error, RecordRefused):
                self._letters.append((raw, DeadLetter(_kafka_record(raw, bytes_of(raw["value"])), error)))
            elif error:
                failures.append((raw, error))
        done = [alert for (_raw, alert), error in zip(self._alerts, errors, strict=True) if not error]
        _count("Alerts", sum(self._of.alerts.merits(alert.change) for alert in done))
        return failures + self._send_letters(failures)

    def _send_letters(self, failures: list[Failure]) -> list[Failure]:
        first: dict[tuple[str, int], int] = {}
        for raw, _error in failures:
            at = (raw["topic"], raw["partition"])
            first[at] = min(raw["offset"], first.get(at, raw["offset"]))
        due = [
            (raw, letter)
            for raw, letter in self._letters
            if raw["offset"] < first.get((raw["topic"], raw["partition"]), raw["offset"] + 1)
        ]
        try:
            self._of.dead_letters.send([letter for _raw, letter in due])
        except DeadLetterUndelivered as error:
            return [(raw, error) for raw, _letter in due]
        for _raw, letter in due:
            _log_dead_letter(letter)
        _count("DeadLetters", len(due))
        return []


def _kafka_record(raw: Mapping[str, Any], value: bytes | None) -> KafkaRecord:
    """Return a refused record with its own bytes; what is no base64 stays as it came."""
    try:
        key = bytes_of(raw.get("key"))
    except RecordRefused:
        key = str(raw["key"]).encode()
    if value is None and raw.get("value") is not None:
        value = str(raw["value"]).encode()
    return KafkaRecord(raw["topic"], raw["partition"], raw["offset"], key, value)


def _count(name: str, value: int) -> None:
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def _count_enrichment(enrichment: Enrichment) -> None:
    for outcome, n in enrichment.outcomes.items():
        _count(f"Enrichment_{outcome}", n)
    for direction, n in enrichment.tokens.items():
        _count(f"Tokens_{direction}", n)
    enrichment.outcomes.clear()
    enrichment.tokens.clear()


# What is logged names a record by its place in the log. Its text is telemetry, which anybody with a port can write.
def _log_failure(message: Any, error: BaseException | None) -> None:
    # The words of an error that nobody foresaw may quote its input: the place that raised it says enough.
    is_ours = isinstance(error, LinkcastError | BotoCoreError | ClientError)
    frames = traceback.extract_tb(error.__traceback__)[-3:] if error else []
    logger.warning(
        "record comes again",
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        error=type(error).__name__,
        detail=str(error) if is_ours else [f"{frame.filename}:{frame.lineno}" for frame in frames],
    )


def _log_dead_letter(letter: DeadLetter) -> None:
    record, why = letter
    logger.warning(
        "dead letter", topic=record.topic, partition=record.partition, offset=record.offset, reason=why.reason
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def client_config(attempts: int) -> Config:
    """Return how long a call may take: none of these services needs 2 s, and the default of 60 s is a Lambda's life."""
    return Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": attempts})


def build(settings: Settings, session: boto3.session.Session) -> Adapter:
    """Wire an adapter to AWS."""
    dynamodb = session.resource("dynamodb", config=client_config(3))
    table = dynamodb.Table(settings.table)
    has_circuits = settings.endpoint or settings.bedrock_model
    # Powertools' circuits take a plain client: a resource's own would serialise their items once more.
    circuits = session.client("dynamodb", config=client_config(3)) if has_circuits else None
    enrichment = _enrichment(settings, circuits, table)
    return Adapter(
        insights=Insights(table),
        alerts=Alerts(
            table,
            Outbox(table, session.client("events", config=client_config(2)), clock=_now_ms),
            bus=settings.bus,
            risk=settings.alert_risk,
            incident_ports=settings.incident_ports,
            clock=_now_ms,
        ),
        dead_letters=DeadLetters(
            settings.dead_topic,
            settings.bootstrap,
            security_protocol=settings.security_protocol,
            sasl_mechanism=settings.sasl_mechanism,
        ),
        scorer=Scorer(
            endpoint=_endpoint(settings, session, circuits),
            language_model=LanguageScorer(enrichment.bedrock) if enrichment else None,
        ),
        enrichment=enrichment,
        clock=_now_ms,
    )


def _endpoint(settings: Settings, session: boto3.session.Session, circuits: Any) -> Endpoint | None:
    if not settings.endpoint:
        return None
    # One attempt: the breaker counts, and the rules answer sooner than a second one would.
    sagemaker = session.client("sagemaker-runtime", config=client_config(1))
    return sagemaker_endpoint(sagemaker, settings.endpoint, breaker_store(circuits, settings.table), _on_transition)


def _enrichment(settings: Settings, circuits: Any, table: Any) -> Enrichment | None:
    if not settings.bedrock_model:
        return None
    breaker = breaker_of(circuits, settings.table, settings.bedrock_model, on_transition=_on_transition)
    return Enrichment(bedrock_client(), settings.bedrock_model, breaker, Budget(table), Cache(table))


def _on_transition(transition: CircuitTransition) -> None:
    if transition.to_state == CircuitState.OPEN:
        _count("BreakerOpened", 1)
        logger.error("circuit opened: asked again after its pause", circuit=transition.circuit_name)


@cache
def adapter() -> Adapter:
    """Return this environment's adapter. Raises `SettingsRefused` for a wrong environment."""
    return build(Settings.from_environment(os.environ), boto3.session.Session())


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    adapter()  # while the environment starts, on the full CPU that a start gets; a wrong setting ends it there


@metrics.log_metrics(capture_cold_start_metric=True)
@logger.inject_lambda_context
@tracer.capture_lambda_handler(capture_response=False, capture_error=False)
def lambda_handler(event: dict[str, Any], context: Any) -> Mapping[str, Any]:
    """Take one batch of a Kafka event source mapping with ReportBatchItemFailures."""
    return adapter().handle(event, context)
