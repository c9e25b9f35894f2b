"""What wakes somebody: the alarms, each with its section in docs/deploy.md; the dashboard; the budget."""

from dataclasses import dataclass, field

import aws_cdk as cdk
from aws_cdk import aws_budgets as budgets
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions

from infra.cdk.adapter import ENDPOINT, FUNCTION, TIMEOUT_S, TOPIC, Adapter
from infra.cdk.costs import PRICES
from infra.cdk.data import CLUSTER
from infra.cdk.deployment import DEAD_TOPIC, Deployment
from infra.cdk.worker import Worker
from infra.sagemaker.deployment import VARIANT

OURS = "linkcast"
"""CloudWatch namespace of what the adapter counts itself."""
SERVICE = {"service": "linkcast"}
SECONDS_A_DAY = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One alarm: it goes off when `statistic` of `metric` was over `above` in `breaching` of `periods` periods."""

    name: str
    says: str
    namespace: str
    metric: str
    dimensions: dict[str, str] = field(default_factory=dict)
    statistic: str = "Sum"
    above: float = 0
    period_s: int = 300
    periods: int = 1
    breaching: int | None = None
    absent_is_bad: bool = False


def watched(deployment: Deployment, worker: Worker, adapter: Adapter) -> list[Watched]:
    """Return all alarms but the endpoint's own guardrails."""
    return [*_of_kafka(deployment, worker, adapter), *_of_lambda(adapter), *_of_outcomes(), *_of_others(adapter)]


def _of_kafka(deployment: Deployment, worker: Worker, adapter: Adapter) -> list[Watched]:
    def lag(group: str, topic: str) -> dict[str, str]:
        return {"Cluster Name": CLUSTER, "Consumer Group": group, "Topic": f"{deployment.prefix}{topic}"}

    return [
        Watched(
            name="WorkerLag",
            says="the workers are more than 60 s behind the producers",
            namespace="AWS/Kafka",
            metric="EstimatedMaxTimeLag",
            dimensions=lag(worker.group, "metrics"),
            statistic="Maximum",
            above=60,
            period_s=60,
            periods=5,
            breaching=4,
            absent_is_bad=True,  # a group without members reports no lag
        ),
        Watched(
            name="OffsetLag",
            says="changes wait for the adapter",
            namespace="AWS/Lambda",
            metric="MaxOffsetLag",
            dimensions={"EventSourceMappingUUID": adapter.mapping.attr_id},
            statistic="Maximum",
            above=10_000,
            period_s=60,
            periods=10,
            breaching=8,
        ),
    ]


def _of_lambda(adapter: Adapter) -> list[Watched]:
    function = {"FunctionName": FUNCTION}
    mapping = {"EventSourceMappingUUID": adapter.mapping.attr_id}
    return [
        Watched(
            name="AdapterErrors",
            says="whole batches fail: a wrong setting, a time-out, a bug",
            namespace="AWS/Lambda",
            metric="Errors",
            dimensions=function,
        ),
        Watched(
            name="AdapterThrottles",
            says="more invocations at once than the pollers can ask for: somebody else calls the function",
            namespace="AWS/Lambda",
            metric="Throttles",
            dimensions=function,
            periods=3,
        ),
        Watched(
            name="AdapterSlow",
            says="a batch takes more than half of its time-out",
            namespace="AWS/Lambda",
            metric="Duration",
            dimensions=function,
            statistic="p95",
            above=TIMEOUT_S * 1_000 / 2,
        ),
        Watched(
            name="OnFailure",
            says="batches were given up and put into the bucket of failures",
            namespace="AWS/Lambda",
            metric="OnFailureDestinationDeliveredEventCount",
            dimensions=mapping,
        ),
        Watched(
            name="Dropped",
            says="records were given up and the bucket did not take them: they are only in the topic",
            namespace="AWS/Lambda",
            metric="DroppedEventCount",
            dimensions=mapping,
        ),
        Watched(
            name="Polling",
            says="Lambda can't read the topic",
            namespace="AWS/Lambda",
            metric="PollingErrorCount",
            dimensions=mapping,
            periods=3,
        ),
    ]


def _of_outcomes() -> list[Watched]:
    return [
        _ours("DeadLetters", "DeadLetters", f"records that no retry mends went to {DEAD_TOPIC}"),
        _ours("HeldUp", "PartitionsHeldUp", "records have come again for 15 min: table, bus or broker fail", periods=3),
        _ours("BreakerOpen", "BreakerOpened", "Bedrock or the endpoint fails, and is not asked for a while"),
        _ours(
            "Fallback",
            "Fallback",
            "more than 5 % of scores come from rules or Bedrock and not from the model",
            statistic="Average",
            above=0.05,
            periods=3,
        ),
    ]


def _ours(name: str, metric: str, says: str, *, statistic: str = "Sum", above: float = 0, periods: int = 1) -> Watched:
    return Watched(
        name=name,
        says=says,
        namespace=OURS,
        metric=metric,
        dimensions=SERVICE,
        statistic=statistic,
        above=above,
        periods=periods,
    )


def _of_others(adapter: Adapter) -> list[Watched]:
    rule = {"EventBusName": adapter.bus.event_bus_name, "RuleName": adapter.rule.rule_name}
    return [
        # Of all buses of the account: AWS publishes it without a dimension.
        Watched(
            name="FailedEntries",
            says="EventBridge refused alerts; their records come again",
            namespace="AWS/Events",
            metric="PutEventsFailedEntriesCount",
        ),
        Watched(
            name="AlertsUndelivered",
            says="alerts reached the bus and nobody",
            namespace="AWS/SQS",
            metric="ApproximateNumberOfMessagesVisible",
            dimensions={"QueueName": adapter.undelivered.queue_name},
            statistic="Maximum",
        ),
        Watched(
            name="RuleFailed",
            says="the rule could not deliver an alert at the first try",
            namespace="AWS/Events",
            metric="FailedInvocations",
            dimensions=rule,
            periods=3,
        ),
    ]


def watch(stack: cdk.Stack, deployment: Deployment, worker: Worker, adapter: Adapter) -> None:
    """Make alarms, dashboard and budget; all of them speak on the alerts' topic."""
    alarms = {w.name: _alarm(stack, w) for w in watched(deployment, worker, adapter)}
    if deployment.bedrock_model:
        alarms["BedrockSpend"] = _spend(stack, deployment)
    tell = actions.SnsAction(adapter.people)
    for alarm in alarms.values():
        alarm.add_alarm_action(tell)
        alarm.add_ok_action(tell)
    _dashboard(stack, list(alarms.values()), deployment, worker, adapter)
    _budget(stack, deployment, adapter)


def _alarm(stack: cdk.Stack, w: Watched) -> cloudwatch.Alarm:
    return cloudwatch.Alarm(
        stack,
        w.name,
        alarm_name=f"linkcast-{w.name}",
        alarm_description=f"{w.says}. What to do: docs/deploy.md#{w.name.lower()}",
        metric=_metric(w),
        threshold=w.above,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=w.periods,
        datapoints_to_alarm=w.breaching,
        treat_missing_data=(
            cloudwatch.TreatMissingData.BREACHING if w.absent_is_bad else cloudwatch.TreatMissingData.NOT_BREACHING
        ),
    )


def _spend(stack: cdk.Stack, deployment: Deployment) -> cloudwatch.Alarm:
    """Watch what the language model costs a day, from the tokens that Bedrock itself counts."""
    tokens = {
        name: cloudwatch.Metric(
            namespace="AWS/Bedrock",
            metric_name=metric,
            dimensions_map={"ModelId": deployment.bedrock_model},
            statistic="Sum",
            period=cdk.Duration.seconds(SECONDS_A_DAY),
        )
        for name, metric in (("said", "InputTokenCount"), ("heard", "OutputTokenCount"))
    }
    per_token = {"said": PRICES["bedrock_in"].usd / 1e6, "heard": PRICES["bedrock_out"].usd / 1e6}
    return cloudwatch.Alarm(
        stack,
        "BedrockSpend",
        alarm_name="linkcast-BedrockSpend",
        alarm_description="the language model costs more a day than meant. What to do: docs/deploy.md#bedrockspend",
        metric=cloudwatch.MathExpression(
            expression=" + ".join(f"{name} * {per_token[name]:.7f}" for name in tokens),
            using_metrics=tokens,
            label="USD a day",
            period=cdk.Duration.seconds(SECONDS_A_DAY),
        ),
        threshold=deployment.bedrock_usd_day,
        comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
        evaluation_periods=1,
        treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
    )


def _metric(w: Watched) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=w.namespace,
        metric_name=w.metric,
        dimensions_map=w.dimensions,
        statistic=w.statistic,
        period=cdk.Duration.seconds(w.period_s),
    )


def _dashboard(
    stack: cdk.Stack,
    alarms: list[cloudwatch.Alarm],
    deployment: Deployment,
    worker: Worker,
    adapter: Adapter,
) -> None:
    board = cloudwatch.Dashboard(
        stack, "Board", dashboard_name="linkcast", period_override=cloudwatch.PeriodOverride.AUTO
    )
    board.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=alarms, width=24))
    for row in _rows(deployment, worker, adapter):
        board.add_widgets(*row)


def _rows(deployment: Deployment, worker: Worker, adapter: Adapter) -> list[list[cloudwatch.GraphWidget]]:
    by_name = {w.name: w for w in watched(deployment, worker, adapter)}

    def graph(title: str, *metrics: Watched) -> cloudwatch.GraphWidget:
        return cloudwatch.GraphWidget(title=title, left=[_metric(m) for m in metrics], width=8)

    def counted(metric: str) -> Watched:
        return _ours(metric, metric, "")

    def of_topic(topic: str) -> Watched:
        names = {"Cluster Name": CLUSTER, "Topic": f"{deployment.prefix}{topic}"}
        return Watched(name=topic, says="", namespace="AWS/Kafka", metric="MessagesInPerSec", dimensions=names)

    def of_endpoint(metric: str, statistic: str) -> Watched:
        names = {"EndpointName": ENDPOINT, "VariantName": VARIANT}
        return Watched(
            name=metric, says="", namespace="AWS/SageMaker", metric=metric, dimensions=names, statistic=statistic
        )

    return [
        [
            graph("Records a second", of_topic("metrics"), of_topic(TOPIC)),
            graph("Behind", by_name["WorkerLag"], by_name["OffsetLag"]),
            graph("Adapter: p95, errors", by_name["AdapterSlow"], by_name["AdapterErrors"]),
        ],
        [
            graph("Outcomes", counted("Insights"), counted("Alerts"), by_name["DeadLetters"], by_name["OnFailure"]),
            graph("Fallbacks", by_name["Fallback"], by_name["HeldUp"], by_name["BreakerOpen"]),
            graph("Endpoint", of_endpoint("ModelLatency", "p95"), of_endpoint("Invocation5XXErrors", "Sum")),
        ],
    ]


def _budget(stack: cdk.Stack, deployment: Deployment, adapter: Adapter) -> None:
    kind = budgets.CfnBudget
    tell = [kind.SubscriberProperty(address=adapter.people.topic_arn, subscription_type="SNS")]

    def notify(of: str, percent: float) -> budgets.CfnBudget.NotificationWithSubscribersProperty:
        return kind.NotificationWithSubscribersProperty(
            notification=kind.NotificationProperty(
                comparison_operator="GREATER_THAN", notification_type=of, threshold=percent, threshold_type="PERCENTAGE"
            ),
            subscribers=tell,
        )

    kind(
        stack,
        "Budget",
        budget=kind.BudgetDataProperty(
            budget_name="linkcast",
            budget_type="COST",
            time_unit="MONTHLY",
            budget_limit=kind.SpendProperty(amount=deployment.budget_usd_month, unit="USD"),
            cost_filters={"TagKeyValue": ["user:project$linkcast"]},
        ),
        notifications_with_subscribers=[notify("ACTUAL", 50), notify("ACTUAL", 80), notify("FORECASTED", 100)],
    )
