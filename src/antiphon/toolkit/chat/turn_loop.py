"""One message and all that answers it: trim, call, run tools, call again, validate.

The one place where a chat talks to a model. Streamed or not, with tools or a type of output, it is the same loop.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import ValidationError

from antiphon.toolkit import observing
from antiphon.toolkit.calls.caller import CompletedCall, ModelCaller
from antiphon.toolkit.calls.dialects import written_calls
from antiphon.toolkit.calls.streaming import Piece
from antiphon.toolkit.chat.fit_results import fit_results
from antiphon.toolkit.chat.history import History, Message
from antiphon.toolkit.chat.pending import PendingTurn
from antiphon.toolkit.chat.reply import (
    AnswerRejected,
    ChatEvent,
    Event,
    HistoryTrimmed,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from antiphon.toolkit.chat.trim import Count, HistoryPolicy, TrimReport, most_tokens, trim
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.errors import (
    ExtractionError,
    OutputError,
    RefusalError,
    ToolLoopError,
    ToolsPendingError,
    TruncatedError,
)
from antiphon.toolkit.messages import ITEMS, REASONING, plain_messages
from antiphon.toolkit.record import Attempt, CallRecord, total_cost, total_usage
from antiphon.toolkit.schemas.output_schema import OutputSchema
from antiphon.toolkit.tokens.context import context_tokens
from antiphon.toolkit.tokens.count import TokenCount, count_through
from antiphon.toolkit.tokens.text_estimate import estimate_text
from antiphon.toolkit.tools.tool_loop import (
    Approval,
    Approve,
    ToolCall,
    ToolLimits,
    ToolResult,
    explain_invalid,
    run_tools,
)
from antiphon.toolkit.tools.toolbox import Toolbox

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """What holds for every turn of a chat; ``request`` goes to the client as it is.

    ``optional`` names what of it a model may be asked without.
    """

    model: str
    request: Mapping[str, Any]
    toolbox: Toolbox
    limits: ToolLimits
    approve: Approve | None
    policy: HistoryPolicy
    context: int | None
    attempts: int
    optional: frozenset[str]
    on_event: Callable[[ChatEvent], object] | None = None


class TurnLoop(Generic[T]):
    """One turn under way. ``run`` yields its events; ``reply``, ``history`` and ``messages`` are then final."""

    def __init__(
        self,
        connection: Connection,
        caller: ModelCaller,
        options: TurnOptions,
        *,
        history: History,
        pending: Sequence[Message],
        output: OutputSchema[T] | None = None,
        resumed: PendingTurn | None = None,
        decisions: Mapping[str, Approval] | None = None,
    ) -> None:
        self.history = history
        self.messages = list(pending)
        # The calls that wait for approval or, in a turn that is resumed, that are about to run.
        self.waiting: tuple[ToolCall, ...] = () if resumed is None else resumed.calls
        self.rounds = 0 if resumed is None else resumed.rounds
        self._decisions = decisions or {}
        self.reply: Reply[T] | None = None
        self._connection = connection
        self._caller = caller
        self._options = options
        self._output = output
        self._records: list[CallRecord] = [] if resumed is None else list(resumed.records)
        self._results: list[ToolResult] = [] if resumed is None else list(resumed.results)
        self._attempts: list[Attempt] = []
        self._trim: TrimReport | None = None
        self._answered: CompletedCall | None = None
        # An answer that was not accepted and the words that asked again; sent, but no part of the conversation.
        self._rejected: list[Message] = []

    async def run(self, *, stream: bool) -> AsyncGenerator[Event]:
        """Go on until the model has answered without calling a tool, and the answer is valid.

        Raises what calls raise, and ToolLoopError, TruncatedError, RefusalError, ExtractionError. Nothing is added to
        the conversation then. Raises ToolsPendingError for calls that need approval when nobody is asked; ``pending`` is
        then the turn to go on with.
        """
        if self.waiting:
            async for event in self._run_waiting():
                yield event
        while self.rounds < self._options.limits.rounds:
            self.rounds += 1
            request = await self._request()
            async with aclosing(self._answer(request, stream=stream)) as events:
                async for event in events:
                    yield event
            answer = self._answered
            assert answer is not None
            message = _first_message(answer.completion)
            if message.tool_calls:
                self._keep_calls(message)
                async for event in self._run_waiting():
                    yield event
            elif (rejected := self._finish(message, answer)) is None:
                return
            else:
                yield AnswerRejected(rejected)
        raise ToolLoopError(
            f"No answer after {self._options.limits.rounds} requests to the model; it kept calling tools",
            hint="raise ToolLimits(rounds=...), or tell the model when to stop",
            usage=total_usage(tuple(self._records)),
        )

    async def _answer(self, request: dict[str, Any], *, stream: bool) -> AsyncGenerator[Event]:
        """Make the call and yield its pieces; ``_answered`` is then the answer."""
        async with aclosing(self._ask(request, stream=stream)) as parts:
            async for part in parts:
                if isinstance(part, CompletedCall):
                    self._answered = part
                    self._records.append(part.record)
                    continue
                if part.reasoning:
                    yield ReasoningDelta(part.reasoning)
                if part.text:
                    yield TextDelta(part.text)

    async def _ask(self, request: dict[str, Any], *, stream: bool) -> AsyncGenerator[Piece | CompletedCall]:
        optional = self._options.optional
        if not stream:
            yield await self._caller.complete(request, optional=optional)
            return
        async with aclosing(self._caller.stream(request, optional=optional)) as parts:
            async for part in parts:
                yield part

    async def _request(self) -> dict[str, Any]:
        options = self._options
        pending = [*self.messages, *self._rejected]
        request: dict[str, Any] = {"model": options.model, **options.request}
        if options.toolbox.tools:
            request["tools"] = [*(request.get("tools") or ()), *options.toolbox.definitions]
        if self._results and "tool_choice" in request:
            request["tool_choice"] = _after_a_call(request["tool_choice"])
        if self._output is not None:
            request["response_format"] = self._output.response_format
        await self._fit(pending, request)
        request["messages"] = self.history.messages([*self.messages, *self._rejected])
        return request

    async def _fit(self, pending: Sequence[Message], request: Mapping[str, Any]) -> None:
        policy, model = self._options.policy, self._options.model
        context = self._options.context
        if context is None and policy.max_tokens is None:
            context = await context_tokens(self._connection, model)
        budget = policy.budget(context, request.get("max_completion_tokens") or request.get("max_tokens"))
        if budget is None:
            return
        tools = request.get("tools") or ()
        output = TokenCount(0, "exact", "")
        if "response_format" in request:
            # Nobody counts a schema, yet models read it: OpenAI's in a form of their own, others in the prompt.
            output = TokenCount(estimate_text(json.dumps(request["response_format"])), "estimate", "characters")

        async def count(messages: Sequence[Message]) -> TokenCount:
            counted = await count_through(self._connection, plain_messages(messages, with_reasoning=True), model, tools)
            return counted + output if output.tokens else counted

        room = budget - policy.summary_tokens if policy.summarise else budget
        before = self.history
        most_beside = len(json.dumps(list(tools)).encode()) + output.tokens if tools else output.tokens
        if self._results and most_tokens(self.history.messages(pending)) + most_beside > room:
            await self._fit_results(room, count)
            pending = [*self.messages, *self._rejected]
        self.history, report = await trim(
            before, pending, budget=room, keep=policy.keep, count=count, most_beside=most_beside
        )
        if report is not None:
            if policy.summarise:
                report = replace(report, summary=await self._summarise(before, report))
                self.history = replace(self.history, summary=report.summary)
            self._trim = report
            told = {"antiphon.turns_left_out": len(report.dropped), "antiphon.tokens_after": report.tokens_after}
            observing.event("antiphon.trim", told)
            if self._options.on_event is not None:
                self._options.on_event(HistoryTrimmed(report))

    async def _fit_results(self, room: int, count: Count) -> None:
        async def least(messages: Sequence[Message]) -> int:
            rest = [*messages, *self._rejected]
            return (await count(self.history.messages(rest, start=len(self.history.turns)))).tokens

        self.messages = await fit_results(self.messages, budget=room, count=least)
        shown = {message["tool_call_id"]: message["content"] for message in self.messages if message["role"] == "tool"}
        self._results = [replace(result, content=shown[result.call.id]) for result in self._results]

    async def _summarise(self, history: History, report: TrimReport) -> str:
        old = History(history.summary, report.dropped).markdown()
        instruction = "Summarise the conversation for your own memory: facts, names, decisions and open questions only."
        request = {
            "model": self._options.model,
            "messages": [{"role": "system", "content": instruction}, {"role": "user", "content": old}],
            "max_completion_tokens": self._options.policy.summary_tokens,
        }
        answer = await self._caller.complete(request)
        self._records.append(answer.record)
        return _first_message(answer.completion).content or ""

    def pending(self, request: Mapping[str, Any], *, pin: bool) -> PendingTurn:
        """Return the turn as it is, to be gone on with; ``request`` holds the arguments that it began with."""
        asking = tuple(call.id for call in self._asking())
        return PendingTurn(
            tuple(self.messages),
            self.waiting,
            asking,
            request,
            pin,
            self.rounds,
            tuple(self._records),
            tuple(self._results),
        )

    def facts(self) -> dict[str, Any]:
        """Return what the turn took so far, as attributes of its span."""
        usage, cost = total_usage(tuple(self._records)), total_cost(tuple(self._records))
        last = self._records[-1] if self._records else None
        return {
            "gen_ai.response.model": None if last is None else last.answered_by,
            "gen_ai.response.finish_reasons": None
            if last is None or last.finish_reason is None
            else [last.finish_reason],
            "gen_ai.usage.input_tokens": None if usage is None else usage.prompt_tokens,
            "gen_ai.usage.output_tokens": None if usage is None else usage.completion_tokens,
            "antiphon.cost_usd": None if cost is None else float(cost),
            "antiphon.num_calls": len(self._records),
        }

    def _keep_calls(self, message: ChatCompletionMessage) -> None:
        written = written_calls(message)
        calls = [ToolCall(call.id, call.name, call.text, call.is_custom) for call in written]
        shown = [{**each.more, **call.as_message()} for each, call in zip(written, calls, strict=True)]
        asked = {"role": "assistant", "content": message.content, "tool_calls": shown}
        self.messages.append(asked | _kept_fields(message))
        self.waiting = tuple(calls)

    def _asking(self) -> tuple[ToolCall, ...]:
        tools = self._options.toolbox.tools
        return tuple(call for call in self.waiting if call.name in tools and tools[call.name].options.needs_approval)

    def _decided(self, call: ToolCall) -> Approval:
        return self._decisions[call.id]

    async def _run_waiting(self) -> AsyncGenerator[Event]:
        approve = self._decided if self._decisions else self._options.approve
        if approve is None and (asking := self._asking()):
            raise ToolsPendingError(asking, usage=total_usage(tuple(self._records)))
        for call in self.waiting:
            yield ToolStarted(call)
        results = await run_tools(self._options.toolbox, self.waiting, limits=self._options.limits, approve=approve)
        self.messages.extend(result.as_message() for result in results)
        self._results.extend(results)
        self.waiting, self._decisions = (), {}
        for result in results:
            yield ToolFinished(result)

    def _finish(self, message: ChatCompletionMessage, answered: CompletedCall) -> Attempt | None:
        text, record = message.content or "", answered.record
        parsed = cast("T", None)
        if self._output is not None:
            self._require_whole(message, record)
            try:
                parsed = self._output.read(text)
            except ValidationError as error:
                return self._reject(text, explain_invalid(error), record)
            except ValueError as error:
                raise OutputError(
                    f"The answer is not JSON ({error}): this endpoint does not keep to a response_format",
                    hint="use a server that enforces json_schema, or a model that supports structured output",
                    text=text,
                    usage=total_usage(tuple(self._records)),
                ) from error
            self._attempts.append(Attempt(text, record.usage, None))
        # Null is for messages with calls of tools alone; most APIs refuse it elsewhere.
        answer: Message = {"role": "assistant", "content": text if not message.refusal else message.content}
        if message.refusal:
            answer["refusal"] = message.refusal
        answer |= _kept_fields(message)
        self.messages.append(answer)
        self.reply = Reply(
            text=text,
            parsed=parsed,
            refusal=message.refusal,
            records=tuple(self._records),
            tool_results=tuple(self._results),
            attempts=tuple(self._attempts),
            trim=self._trim,
            completion=answered.completion,
            response=answered.response,
        )
        return None

    def _require_whole(self, message: ChatCompletionMessage, record: CallRecord) -> None:
        usage = total_usage(tuple(self._records))
        text = message.content or ""
        if message.refusal:
            raise RefusalError(f"The model declined: {message.refusal}", text=message.refusal, usage=usage)
        if record.finish_reason == "length":
            hint = "raise max_completion_tokens, or ask for less at once"
            raise TruncatedError("The answer was cut at the token limit", hint=hint, text=text, usage=usage)

    def _reject(self, text: str, why: str, record: CallRecord) -> Attempt:
        attempt = Attempt(text, record.usage, why)
        self._attempts.append(attempt)
        observing.event(
            "antiphon.answer_rejected",
            {"antiphon.attempt": len(self._attempts), **observing.content({"antiphon.reason": why})},
        )
        if len(self._attempts) >= self._options.attempts:
            raise ExtractionError(
                f"The answer did not validate on {len(self._attempts)} attempts, at last: {why}",
                attempts=tuple(self._attempts),
                usage=total_usage(tuple(self._records)),
            )
        again = f"That answer is not valid: {why}. Fix these problems and answer again."
        self._rejected.extend(({"role": "assistant", "content": text}, {"role": "user", "content": again}))
        return attempt


def _first_message(completion: ChatCompletion) -> ChatCompletionMessage:
    return completion.choices[0].message


def _after_a_call(tool_choice: Any) -> Any:
    """Return the choice once a call was made: one that forces a call would never let the model answer."""
    if isinstance(tool_choice, Mapping):
        choice = cast("Mapping[str, Any]", tool_choice)
        allowed = choice.get("allowed_tools")
        return {**choice, "allowed_tools": {**allowed, "mode": "auto"}} if allowed else "auto"
    return "auto" if tool_choice == "required" else tool_choice


def _kept_fields(message: ChatCompletionMessage) -> dict[str, Any]:
    """Return the fields of a message, other than text and calls, that the next requests may need."""
    fields = message.to_dict(mode="json", warnings=False)
    return {name: fields[name] for name in (*REASONING, ITEMS) if fields.get(name)}
