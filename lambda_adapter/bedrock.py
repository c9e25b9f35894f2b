"""Asking a language model on Bedrock: forced tool output, checked, behind circuits and budget, and given up in time.

Nothing here lets an answer through that breaks its form, and nothing that goes wrong reaches the caller: it gets None,
and `outcomes` has the reason.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import boto3
from aws_lambda_powertools.utilities.circuit_breaker import CircuitBreakerOpenError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from lambda_adapter.llm_limits import Breaker, Budget, Cache, CallFailed, ModelRefused

READ_TIMEOUT_S = 10
CONNECT_TIMEOUT_S = 2
ATTEMPTS_MAX = 2
CALL_MS_MAX = ATTEMPTS_MAX * (READ_TIMEOUT_S + CONNECT_TIMEOUT_S) * 1000 + 2_000
"""The longest that a call may take: every attempt timed out, and the pause between."""
TOKENS_MAX = 500

_REFUSALS = ("ResourceNotFoundException", "ValidationException", "AccessDeniedException")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")

_log = logging.getLogger(__name__)


def bedrock_client() -> Any:
    """Return a Bedrock runtime client of the environment's region that gives up in time."""
    limits = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": ATTEMPTS_MAX, "mode": "standard"},
    )
    return boto3.client("bedrock-runtime", config=limits)


def _plain(text: str) -> str:
    if not text.isprintable() or "://" in text:
        raise ValueError("holds a control character or a link")
    return text


Plain = Annotated[str, AfterValidator(_plain)]


class Answer(BaseModel):
    """What a model is made to answer with: the input of the one tool that it may use."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False, extra="forbid")

    @property
    def prose(self) -> str:
        """What is said in words, whose numbers have to be the question's."""
        return ""


Form = TypeVar("Form", bound=Answer)
Result = TypeVar("Result")


class NotAsked(Exception):
    """A limit says not to ask now; no failure of the model's."""


class Question(Generic[Form]):
    """What is asked, and the form that the answer must have.

    Parameters
    ----------
    system
        The instruction; words of ours alone.
    tool, purpose
        Name and description of the tool that the model is made to use.
    form
        The tool's input.
    data
        JSON of what the telemetry says: the user's message, and nowhere else.
    """

    def __init__(self, *, system: str, tool: str, purpose: str, form: type[Form], data: str) -> None:
        self.system, self.tool, self.form, self.data = system, tool, form, data
        spec = {"name": tool, "description": purpose, "inputSchema": {"json": form.model_json_schema()}}
        self.tool_config = {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": tool}}}


class Bedrock:
    """One model, asked within the limits.

    Parameters
    ----------
    client
        `bedrock_client()`.
    model_id
        Model or inference profile of Bedrock; which one is the deployment's choice, since models retire.
    breaker, budget, cache
        See `llm_limits`.

    `outcomes` counts what became of each attempt, and `tokens` what the calls used.
    """

    def __init__(self, client: Any, model_id: str, breaker: Breaker[Any], budget: Budget, cache: Cache) -> None:
        self._client, self.model_id, self._budget, self.cache = client, model_id, budget, cache
        self._ask_guarded = breaker(self._ask_within_limits)
        self._told = False
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def ask(self, question: Question[Form], *, node: str, subject: str, left_ms: int | None) -> Form:
        """Return the answer. Raises what `attempt` takes.

        Of a node and subject one call is made, whoever asks; `left_ms` is what is left of the invocation, and no call
        is begun that might not end within it.
        """
        if left_ms is not None and left_ms < CALL_MS_MAX:
            raise NotAsked("no_time")
        answer: Form = self._ask_guarded(question, node, subject)
        return answer

    def attempt(self, work: Callable[[], Result]) -> Result | None:
        """Return what `work` returns, which asks; None where the model may not or can't be asked, counted by reason."""
        try:
            return work()
        except NotAsked as reason:
            outcome = str(reason)
        except CircuitBreakerOpenError:
            outcome = "circuit_open"
        except CallFailed as failure:
            outcome = "failed"
            _log.warning("Bedrock gave no answer: %s; going on without", failure)
        except ModelRefused as refusal:
            outcome = "refused"
            self._tell(refusal)
        except (ClientError, BotoCoreError) as error:
            outcome = "no_limits"
            _log.warning("the language model's limits can't be read (%s); going on without", type(error).__name__)
        self.outcomes[outcome] += 1
        return None

    def _ask_within_limits(self, question: Question[Form], node: str, subject: str) -> Form:
        """The call that the circuits guard. Claim and budget come after them: an open circuit costs neither."""
        if self._budget.is_spent:
            raise NotAsked("budget_spent")
        if not self.cache.claim(node, subject):
            raise NotAsked("claimed")
        if not self._budget.take():
            raise NotAsked("budget_spent")
        return self._checked(self._converse(question), question)

    def _converse(self, question: Question[Any]) -> Any:
        try:
            return self._client.converse(
                modelId=self.model_id,
                system=[{"text": question.system}],
                messages=[{"role": "user", "content": [{"text": question.data}]}],
                # No temperature: models differ in which sampling settings they refuse.
                inferenceConfig={"maxTokens": TOKENS_MAX},
                toolConfig=question.tool_config,
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise (ModelRefused if code in _REFUSALS else CallFailed)(code) from None
        except (BotoCoreError, ResponseParserError, AttributeError, TypeError, UnicodeDecodeError) as error:
            # The last three: botocore 1.44 takes a body to have the shape that its model says, and stumbles if not.
            raise CallFailed(type(error).__name__) from None

    def _checked(self, response: Any, question: Question[Form]) -> Form:
        usage = response.get("usage", {})
        self.tokens.update({"in": usage.get("inputTokens", 0), "out": usage.get("outputTokens", 0)})
        content = response.get("output", {}).get("message", {}).get("content", [])
        used = [part["toolUse"] for part in content if "toolUse" in part]
        if response.get("stopReason") != "tool_use" or len(used) != 1 or used[0].get("name") != question.tool:
            raise CallFailed("the answer is no use of the tool")
        try:
            answer = question.form.model_validate(used[0].get("input"))
        except ValidationError as error:
            where = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise CallFailed(f"the tool's input is wrong at {where['loc']}: {where['type']}") from None
        if count := _invented(answer.prose, question.data):
            raise CallFailed(f"{count} of the answer's numbers were not in the question")
        return answer

    def _tell(self, refusal: ModelRefused) -> None:
        if self._told:
            return
        self._told = True
        _log.error(
            "Bedrock refuses model %s (%s), so the templates stand. It may have retired, or this region or role may "
            "not have it: set LINKCAST_BEDROCK_MODEL to one that is active, and allow bedrock:InvokeModel on it.",
            self.model_id,
            refusal,
        )


def _invented(prose: str, data: str) -> int:
    """Count the numbers in prose that the data does not hold; a single digit may be a word (4x, both of 2).

    >>> _invented("43.2 µs on 4 lanes, 17 % lost", '{"p99": "43.2 µs"}')
    1
    """
    known = set(_NUMBER.findall(data))
    return sum(len(text) > 1 and text not in known for text in _NUMBER.findall(prose))
