"""What a chat is, apart from talking: its options, its history, and what its answers took."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from uuid import uuid4

from antiphon.toolkit.calls.caller import ModelCaller
from antiphon.toolkit.calls.forms import Api
from antiphon.toolkit.calls.options import CallOptions, require_options
from antiphon.toolkit.chat.history import History, Message, Turn, write_chat
from antiphon.toolkit.chat.pending import Decisions, PendingTurn
from antiphon.toolkit.chat.reply import ChatEvent, Event, Replied, Reply
from antiphon.toolkit.chat.trim import HistoryPolicy
from antiphon.toolkit.chat.turn_loop import TurnLoop, TurnOptions
from antiphon.toolkit.clients import DEFAULT_MODEL, Connection
from antiphon.toolkit.errors import HistoryError, ToolkitError
from antiphon.toolkit.messages import ITEMS, REASONING, plain_messages
from antiphon.toolkit.observing import PROVIDER, observed
from antiphon.toolkit.record import CallRecord, ToolCall, total_cost, total_usage
from antiphon.toolkit.schemas.output_schema import OutputSchema
from antiphon.toolkit.tools.tool import Tool
from antiphon.toolkit.tools.tool_loop import Approval, Approve, ToolLimits
from antiphon.toolkit.tools.toolbox import Toolbox
from antiphon.toolkit.usage import Usage

T = TypeVar("T")
CONTINUE = "Your last answer was cut off. Continue it exactly where it stopped, without repeating anything."


class ChatOptions(CallOptions, total=False):
    """Options of a chat, all optional, in addition to those of every call (``CallOptions``).

    ``temperature`` to ``prompt_cache_key`` and whatever ``request`` holds go to the model as they are; what ``prefer`` holds is
    left out for a model that does not take it. ``reasoning`` is an effort ("low") or the API's object. ``api`` is
    "chat" or "responses"; "auto" takes responses for models that reason or need it, where the endpoint has it.
    ``history`` says how the conversation is kept within ``context_tokens`` (asked of the server if not given).
    ``limits`` bound the tool loop; ``approve`` is asked before each call of a tool (without it, calls of tools that need
    approval raise ToolsPendingError, and wait for ``resume``). ``reinforce`` adds the system prompt (True), or the given
    key instructions, to each message of the user, for models that forget them; ``frame`` puts key instructions (True: the
    first paragraph) at the beginning and at the end of the system prompt. ``attempts`` is how often ``parse`` asks for an
    answer that validates. ``on_event`` is called with each ``ChatEvent`` as it happens, between two steps of the exchange,
    so it should return soon; what it raises ends the call.
    """

    model: str
    tools: Sequence[Tool | Callable[..., Any]]
    api: Api
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    n: int
    stop: str | Sequence[str]
    max_tokens: int
    max_completion_tokens: int
    reasoning: str | Mapping[str, Any]
    service_tier: str
    prompt_cache_key: str
    request: Mapping[str, Any]
    prefer: Mapping[str, Any]
    history: HistoryPolicy
    context_tokens: int
    limits: ToolLimits
    approve: Approve
    reinforce: bool | str
    frame: bool | str
    attempts: int
    on_event: Callable[[ChatEvent], object]


class SamplingWarning(UserWarning):
    """``temperature`` and ``top_p`` are both set."""


_SENT = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "n", "stop"),
    *("max_tokens", "max_completion_tokens", "service_tier", "prompt_cache_key"),
)


class ChatState:
    """A conversation and how it is held; shared by ``Chat`` and ``AsyncChat``, which add the talking."""

    def __init__(self, system: str | None, connection: Connection, options: ChatOptions) -> None:
        require_options(options, ChatOptions, "A chat")
        self._connection = connection
        self._options = _turn_options(options)
        self._on_event = options.get("on_event")
        self._caller = ModelCaller(connection, options, api=options.get("api", "auto"), on_event=self._on_event)
        self._history = History(
            system=system,
            reminder=_reminder(system, options.get("reinforce", False)),
            frame=_frame(system, options.get("frame", False)),
        )
        self._records: tuple[CallRecord, ...] = ()
        self._last: Reply[Any] | None = None
        self._is_busy = False
        self._pending: PendingTurn | None = None
        self._conversation_id = uuid4().hex

    @property
    def model(self) -> str:
        return self._options.model

    @property
    def messages(self) -> list[Message]:
        """What the next request begins with, in the API's form: system prompt, summary, and the turns still sent."""
        return plain_messages(self._history.messages(), with_reasoning=True)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The whole conversation, also what is no longer sent."""
        return self._history.turns

    @property
    def last_reply(self) -> Reply[Any] | None:
        return self._last

    @property
    def usage(self) -> Usage | None:
        """Tokens of all answers of this chat, or None if a server did not tell."""
        return total_usage(self._records) if self._records else Usage(num_calls=0)

    @property
    def cost(self) -> Decimal | None:
        """Dollars of all answers of this chat, or None if a price is unknown."""
        return total_cost(self._records)

    @property
    def pending_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that wait for approval; ``resume`` decides on them."""
        return (
            ()
            if self._pending is None
            else tuple(call for call in self._pending.calls if call.id in self._pending.asking)
        )

    def undo(self) -> None:
        """Forget the last turn, or the one that waits for approval. What it cost stays counted."""
        if self._pending is not None:
            self._pending = None
            return
        self._history = self._history.undo()
        self._last = None

    def pin(self, index: int = -1) -> None:
        """Always send the turn at ``index`` (as in a list), however long the conversation gets."""
        self._history = self._history.pin(index)

    def remember(self, user: str, assistant: str, *, pin: bool = True) -> None:
        """Add a turn that was not asked of a model: an example, facts, or an answer that was stopped."""
        messages = ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})
        self._history = self._history.append(Turn(messages, is_pinned=pin))

    def fork(self) -> Self:
        """Return a chat that shares the conversation so far and goes its own way from here."""
        forked = copy(self)
        forked._is_busy = False  # noqa: SLF001 - its own class
        return forked

    def to_markdown(self) -> str:
        """Return the whole conversation as Markdown."""
        return self._history.markdown()

    def save(self, path: str | Path) -> None:
        """Write ``to_json()``; tools, client and options are given anew to ``load``.

        A turn that waits for approval is written too. Raises HistoryError if its request holds what JSON cannot say.
        """
        write_chat(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the conversation and the model's name, for a store of your own; ``from_json`` goes on with it."""
        pending = {} if self._pending is None else {"pending": self._pending.to_json()}
        return {**self._history.to_json(), "model": self.model, **pending}

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self._history = History.from_json(saved)
        self._pending = PendingTurn.from_json(saved["pending"]) if "pending" in saved else None

    def _turn_loop(
        self, content: str | list[Any], request: Mapping[str, Any], output: OutputSchema[T] | None
    ) -> TurnLoop[T]:
        message: Message = {"role": "user", "content": content}
        return self._begin(self._history, [message], request, output)

    def _continuation(self, request: Mapping[str, Any]) -> TurnLoop[None]:
        """Return the loop that continues an answer; one that was cut before its first word is asked for again."""
        if self._last is None or not self._last.is_truncated:
            raise HistoryError("The last answer was not cut; there is nothing to continue")
        if self._last.text:
            return self._turn_loop(CONTINUE, request, None)
        cut = self._history.turns[-1]
        return self._begin(self._history.undo(), list(cut.messages[:-1]), request, None)

    def _begin(
        self,
        history: History,
        pending: list[Message],
        request: Mapping[str, Any],
        output: OutputSchema[T] | None,
    ) -> TurnLoop[T]:
        if self._pending is not None:
            raise HistoryError(
                f"A turn of this chat waits for approval of {[call.name for call in self.pending_calls]!r}",
                hint="go on with resume({id: True or False, ...}), or leave it with undo()",
            )
        self._require_idle()
        return self._loop(history, pending, request, output)

    def _resumption(
        self, decisions: Decisions, output: OutputSchema[T] | None
    ) -> tuple[TurnLoop[T], Mapping[str, Any], bool]:
        """Return the loop that goes on with the turn that waits, the arguments it began with, and whether it is pinned."""
        if self._pending is None:
            raise HistoryError("No turn of this chat waits for approval")
        self._require_idle()
        waiting = self._pending
        decided = waiting.decide(decisions)
        turn = self._loop(
            self._history, list(waiting.messages), waiting.request, output, resumed=waiting, decisions=decided
        )
        return turn, waiting.request, waiting.is_pinned

    def _require_somebody_to_ask(self) -> None:
        tools = self._options.toolbox.tools.values()
        unguarded = [made.name for made in tools if made.options.needs_approval]
        if unguarded and self._options.approve is None:
            raise ToolkitError(f"The tools {unguarded!r} need approval, and nobody is asked", hint="pass approve=...")

    def _require_idle(self) -> None:
        if self._is_busy:
            raise HistoryError(
                "This chat is still answering, and a conversation has one answer at a time",
                hint="await the first answer, or take a fork() for each branch",
            )

    def _loop(
        self,
        history: History,
        pending: list[Message],
        request: Mapping[str, Any],
        output: OutputSchema[T] | None,
        *,
        resumed: PendingTurn | None = None,
        decisions: Mapping[str, Approval] | None = None,
    ) -> TurnLoop[T]:
        optional = self._options.optional - request.keys()
        options = replace(
            self._options, request=_checked({**self._options.request, **request}, output), optional=optional
        )
        return TurnLoop(
            self._connection,
            self._caller,
            options,
            history=history,
            pending=pending,
            output=output,
            resumed=resumed,
            decisions=decisions,
        )

    def _observed(self, turn: TurnLoop[T], *, stream: bool) -> AsyncGenerator[Event]:
        """Return the events of a turn, which are made in a span of their own if spans are wanted."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.conversation.id": self._conversation_id,
            "gen_ai.request.model": self.model,
        }
        events = observed("invoke_agent", attributes, turn.run(stream=stream), turn.facts)
        return events if self._on_event is None else _told(events, self._on_event)

    def _tell_reply(self, reply: Reply[Any]) -> None:
        if self._on_event is not None:
            self._on_event(Replied(reply))

    def _keep_waiting(self, turn: TurnLoop[T], request: Mapping[str, Any], *, pin: bool) -> None:
        """Keep a turn that ended before its answer, for ``resume``."""
        earlier = self._pending.records if self._pending is not None else ()
        self._history = turn.history
        self._pending = turn.pending(request, pin=pin)
        self._records += self._pending.records[len(earlier) :]

    def _commit(self, turn: TurnLoop[T], *, pin: bool) -> Reply[T]:
        assert turn.reply is not None
        self._tell_reply(turn.reply)
        earlier = self._pending.records if self._pending is not None else ()
        self._history = turn.history.append(Turn(tuple(turn.messages), is_pinned=pin))
        self._records += turn.reply.records[len(earlier) :]
        self._last = turn.reply
        self._pending = None
        return turn.reply

    def _commit_continuation(self, turn: TurnLoop[T]) -> Reply[T]:
        reply = turn.reply
        assert reply is not None
        cut = self._history.turns[-1]
        begun = cut.messages[-1]["content"] or ""
        if not begun:
            return self._commit(turn, pin=cut.is_pinned)
        whole = f"{begun}{reply.text}"
        joined = replace(reply, text=whole)
        self._tell_reply(joined)
        last = {key: value for key, value in cut.messages[-1].items() if key not in {ITEMS, *REASONING}}
        messages = (*cut.messages[:-1], {**last, "content": whole})
        self._history = turn.history.replace_last(Turn(messages, cut.is_pinned))
        self._records += reply.records
        self._last = joined
        return joined


def saved_options(saved: Mapping[str, Any], options: ChatOptions) -> ChatOptions:
    """Return ``options`` with the model of a saved chat unless they name one; raises HistoryError for anything else."""
    if "model" not in saved:
        raise HistoryError("This is not a saved chat: it names no model")
    given: ChatOptions = {"model": saved["model"], **options}  # pyright: ignore[reportAssignmentType]
    return given


async def _told(events: AsyncGenerator[Event], on_event: Callable[[ChatEvent], object]) -> AsyncGenerator[Event]:
    async with aclosing(events):
        async for event in events:
            on_event(event)
            yield event


def _turn_options(options: ChatOptions) -> TurnOptions:
    toolbox = Toolbox.of(options.get("tools", ()))
    attempts = options.get("attempts", 3)
    if attempts < 1:
        raise ValueError(f"attempts must be >= 1, got {attempts!r}")
    given = cast("Mapping[str, Any]", options)
    sent = {key: given[key] for key in _SENT if key in given}
    if (reasoning := options.get("reasoning")) is not None:
        sent["reasoning"] = {"effort": reasoning} if isinstance(reasoning, str) else dict(reasoning)
    asked = {**sent, **options.get("request", {})}
    prefer = options.get("prefer", {})
    return TurnOptions(
        model=options.get("model", DEFAULT_MODEL),
        request=_checked({**prefer, **asked}),
        optional=frozenset(prefer.keys() - asked.keys()),
        on_event=options.get("on_event"),
        toolbox=toolbox,
        limits=options.get("limits") or ToolLimits(),
        approve=options.get("approve"),
        policy=options.get("history") or HistoryPolicy(),
        context=options.get("context_tokens"),
        attempts=attempts,
    )


def _checked(request: Mapping[str, Any], output: object = None) -> Mapping[str, Any]:
    """Return ``request``; warn of a combination that OpenAI advises against.

    Raises ToolkitError for what the chat itself sets: messages, the form of delivery, with ``output`` that of the answer.
    """
    if own := request.keys() & (
        {"messages", "stream"} if output is None else {"messages", "stream", "response_format"}
    ):
        raise ToolkitError(
            f"The chat itself sets {', '.join(map(repr, sorted(own)))} of a request",
            hint="chat.remember(...) adds messages, chat.stream(...) streams, chat.parse(Type, ...) sets the format",
        )
    if (request.get("temperature") or 0) != 0 and request.get("top_p") not in {None, 1}:
        text = "temperature and top_p are both set; change one of them, since each narrows what the other leaves"
        warnings.warn(text, SamplingWarning, stacklevel=2)
    return request


def _reminder(system: str | None, reinforce: bool | str) -> str | None:
    text = system if reinforce is True else reinforce
    return f"(Keep to this: {text})" if text else None


def _frame(system: str | None, frame: bool | str) -> str | None:
    text = (system or "").split("\n\n", 1)[0] if frame is True else frame
    return text or None
