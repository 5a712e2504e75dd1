"""A conversation with a model: ``Chat``, and ``AsyncChat`` for asynchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from openai import OpenAI

from antiphon.toolkit._sync import portal
from antiphon.toolkit.chat.attachments import content_parts
from antiphon.toolkit.chat.chat_state import ChatOptions, ChatState, saved_options
from antiphon.toolkit.chat.history import Content, read_chat
from antiphon.toolkit.chat.partial import read_partials
from antiphon.toolkit.chat.pending import Decisions
from antiphon.toolkit.chat.reply import Event, Reply, warned
from antiphon.toolkit.chat.result_stream import AsyncReplyStream, AsyncResultStream, ReplyStream, ResultStream
from antiphon.toolkit.chat.turn_loop import TurnLoop
from antiphon.toolkit.clients import Client, Connection, connect, portal_client
from antiphon.toolkit.errors import ToolsPendingError
from antiphon.toolkit.schemas.output_schema import OutputSchema, describe_output
from antiphon.toolkit.tokens.count import TokenCount, count_through
from antiphon.toolkit.tools.tool import Tool

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


async def _read(content: Content) -> str | list[Any]:
    """Return what a message holds, in the API's form; files are read in a thread. Raises HistoryError for anything else."""
    return content if isinstance(content, str) else await asyncio.to_thread(content_parts, content)


class _ChatCalls(ChatState):
    """The asynchronous code that both faces run."""

    async def _send(self, content: Content, request: dict[str, Any], *, pin: bool) -> Reply[None]:
        turn: TurnLoop[None] = self._turn_loop(await _read(content), request, None)
        await self._run(turn, request, pin=pin)
        return self._commit(turn, pin=pin)

    async def _parse(self, output: TypeForm[T], content: Content, request: dict[str, Any], *, pin: bool) -> Reply[T]:
        turn = self._turn_loop(await _read(content), request, describe_output(output))
        await self._run(turn, request, pin=pin)
        return self._commit(turn, pin=pin)

    async def _resume(self, decisions: Decisions, output: TypeForm[T] | None) -> Reply[T]:
        turn, request, pin = self._resumption(decisions, None if output is None else describe_output(output))
        await self._run(turn, request, pin=pin)
        return self._commit(turn, pin=pin)

    async def _resumed_events(self, decisions: Decisions) -> AsyncGenerator[Event | Reply[None]]:
        resumption: tuple[TurnLoop[None], Mapping[str, Any], bool] = self._resumption(decisions, None)
        turn, request, pin = resumption
        async with aclosing(self._play(turn, request, pin=pin, stream=True)) as events:
            async for event in events:
                yield event
        yield self._commit(turn, pin=pin)

    async def _continue(self, request: dict[str, Any]) -> Reply[None]:
        turn = self._continuation(request)
        await self._run(turn, request, pin=False)
        return self._commit_continuation(turn)

    async def _events(
        self,
        content: Content,
        request: dict[str, Any],
        output: OutputSchema[T] | None,
        *,
        pin: bool = False,
        stream: bool = True,
    ) -> AsyncGenerator[Event | Reply[T]]:
        # Made when the stream is first read: until then the conversation may go on.
        turn = self._turn_loop(await _read(content), request, output)
        async with aclosing(self._play(turn, request, pin=pin, stream=stream)) as events:
            async for event in events:
                yield event
        yield self._commit(turn, pin=pin)

    def events(
        self, content: Content, schema: OutputSchema[T] | None = None, *, stream: bool = True, **request: Any
    ) -> AsyncGenerator[Event | Reply[T]]:
        """Send a message and yield what happens until its answer is complete, then the reply; asynchronous in ``Chat`` too.

        ``schema`` describes the type of the answer, which comes in pieces with ``stream``. Nothing is warned of.
        """
        return self._events(content, request, schema, stream=stream)

    def _partials(
        self, schema: OutputSchema[T], content: Content, request: dict[str, Any]
    ) -> AsyncGenerator[Any | Reply[T]]:
        return read_partials(self._events(content, request, schema), schema)

    async def _count(self) -> TokenCount:
        return await count_through(self._connection, self.messages, self.model, self._options.toolbox.definitions)

    async def _run(self, turn: TurnLoop[T], request: Mapping[str, Any], *, pin: bool) -> None:
        async for _ in self._play(turn, request, pin=pin, stream=False):
            pass

    async def _play(
        self, turn: TurnLoop[T], request: Mapping[str, Any], *, pin: bool, stream: bool
    ) -> AsyncGenerator[Event]:
        """Run a turn and yield its events. One that ends early waits for ``resume``, if anything is there to go on with."""
        self._is_busy = True
        resumed = self._pending
        try:
            async with aclosing(self._observed(turn, stream=stream)) as events:
                async for event in events:
                    yield event
        except BaseException as error:
            # Behind tools that ran, resuming again runs none of them twice.
            have_run = resumed is not None and len(turn.messages) > len(resumed.messages)
            if have_run or isinstance(error, ToolsPendingError):
                self._keep_waiting(turn, request, pin=pin)
            raise
        finally:
            self._is_busy = False


class AsyncChat(_ChatCalls):
    """A conversation held from asynchronous code; see ``Chat``, whose methods it has as coroutines.

    Without ``client`` it makes an ``AsyncOpenAI()``, which ``async with`` (or ``aclose``) closes.
    """

    def __init__(
        self, system: str | None = None, *, client: Client | None = None, **options: Unpack[ChatOptions]
    ) -> None:
        super().__init__(system, connect(client), options)

    @classmethod
    def load(cls, path: str | Path, *, client: Client | None = None, **options: Unpack[ChatOptions]) -> Self:
        """Go on with what ``save`` wrote."""
        return cls.from_json(read_chat(path), client=client, **options)

    @classmethod
    def from_json(
        cls, saved: Mapping[str, Any], *, client: Client | None = None, **options: Unpack[ChatOptions]
    ) -> Self:
        """Go on with what ``to_json`` returned."""
        chat = cls(client=client, **saved_options(saved, options))
        chat._restore(saved)
        return chat

    async def send(self, content: Content, *, pin: bool = False, **request: Any) -> Reply[None]:
        """Send a message and return the answer; tools that the model calls are run on the way."""
        return warned(await self._send(content, request, pin=pin))

    async def parse(self, output: TypeForm[T], content: Content, *, pin: bool = False, **request: Any) -> Reply[T]:
        """Send a message and return an answer of type ``output`` in ``reply.parsed``."""
        return await self._parse(output, content, request, pin=pin)

    def stream(self, content: Content, *, pin: bool = False, **request: Any) -> AsyncReplyStream[None]:
        """Send a message and return its answer as it comes. Nothing is sent before the first iteration."""
        parts: AsyncGenerator[Event | Reply[None]] = self._events(content, request, None, pin=pin)
        return AsyncReplyStream(parts)

    def stream_parse(self, output: TypeForm[T], content: Content, **request: Any) -> AsyncResultStream[Any, T]:
        """Send a message and iterate what its answer says so far, as plain data; ``reply.parsed`` is the valid whole."""
        return AsyncResultStream(self._partials(describe_output(output), content, request))

    async def continue_(self, **request: Any) -> Reply[None]:
        """Have an answer continued that was cut at the token limit; ``reply.text`` is then the whole of it."""
        return warned(await self._continue(request))

    @overload
    async def resume(self, decisions: Decisions, *, output: None = None) -> Reply[None]: ...
    @overload
    async def resume(self, decisions: Decisions, *, output: TypeForm[T]) -> Reply[T]: ...
    async def resume(self, decisions: Decisions, *, output: TypeForm[T] | None = None) -> Reply[Any]:
        """Go on with the turn that ToolsPendingError stopped, and return its answer."""
        return warned(await self._resume(decisions, output))

    def stream_resume(self, decisions: Decisions) -> AsyncReplyStream[None]:
        """Do what ``resume`` does, and return the answer as it comes."""
        return AsyncReplyStream(self._resumed_events(decisions))

    def as_tool(
        self, name: str, description: str, *, timeout_s: float | None = None, needs_approval: bool = False
    ) -> Tool:
        """Return a tool that asks this chat: each call gets a fork of the conversation as it is, and what it costs is ours."""
        self._require_somebody_to_ask()

        async def ask(message: str) -> str:
            reply = await self.fork().send(message)
            self._records += reply.records
            return reply.text

        return _chat_tool(name, description, ask, timeout_s=timeout_s, needs_approval=needs_approval)

    async def count_tokens(self) -> TokenCount:
        """Count what the next request begins with, tools included."""
        return await self._count()

    async def aclose(self) -> None:
        """Close the client if this chat made it."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Chat(_ChatCalls):
    """A conversation with a model, kept within its context.

    ``client`` None is the environment's (``OPENAI_API_KEY``, ``OPENAI_BASE_URL``); options are those of ``ChatOptions``.
    Content is text, or a list of text, ``Image``, ``Sound``, ``File`` and the API's own content parts. Keyword arguments of a call go to the model as they are and
    hold for that call. When a call raises, the conversation is as it was before it.
    """

    def __init__(
        self, system: str | None = None, *, client: OpenAI | None = None, **options: Unpack[ChatOptions]
    ) -> None:
        super().__init__(system, Connection(portal_client(client)), options)

    @classmethod
    def load(cls, path: str | Path, *, client: OpenAI | None = None, **options: Unpack[ChatOptions]) -> Self:
        """Go on with what ``save`` wrote."""
        return cls.from_json(read_chat(path), client=client, **options)

    @classmethod
    def from_json(
        cls, saved: Mapping[str, Any], *, client: OpenAI | None = None, **options: Unpack[ChatOptions]
    ) -> Self:
        """Go on with what ``to_json`` returned."""
        chat = cls(client=client, **saved_options(saved, options))
        chat._restore(saved)
        return chat

    def send(self, content: Content, *, pin: bool = False, **request: Any) -> Reply[None]:
        """Send a message and return the answer; tools that the model calls are run on the way.

        Warns with TruncatedAnswerWarning if the answer was cut at the token limit. ``pin`` keeps this turn when older
        ones are left out. Raises the client's errors, HistoryError, ToolLoopError, and those of the options in use.
        """
        return warned(portal.call(self._send(content, request, pin=pin)))

    def parse(self, output: TypeForm[T], content: Content, *, pin: bool = False, **request: Any) -> Reply[T]:
        """Send a message and return an answer of type ``output`` in ``reply.parsed``.

        An answer that fails the type's own validators is asked for again, with what was wrong, up to ``attempts`` times;
        the conversation keeps the accepted one alone. Raises ExtractionError, TruncatedError, RefusalError.
        """
        return portal.call(self._parse(output, content, request, pin=pin))

    def stream(self, content: Content, *, pin: bool = False, **request: Any) -> ReplyStream[None]:
        """Send a message and return its answer as it comes. Nothing is sent before the first iteration."""
        parts: AsyncGenerator[Event | Reply[None]] = self._events(content, request, None, pin=pin)
        return ReplyStream(parts)

    def stream_parse(self, output: TypeForm[T], content: Content, **request: Any) -> ResultStream[Any, T]:
        """Send a message and iterate what its answer says so far, as plain data; ``reply.parsed`` is the valid whole.

        Raises what ``parse`` raises. After an answer that was not valid the data begins anew.
        """
        return ResultStream(AsyncResultStream(self._partials(describe_output(output), content, request)))

    def continue_(self, **request: Any) -> Reply[None]:
        """Have an answer continued that was cut at the token limit; ``reply.text`` is then the whole of it.

        Raises HistoryError if the last answer was not cut.
        """
        return warned(portal.call(self._continue(request)))

    @overload
    def resume(self, decisions: Decisions, *, output: None = None) -> Reply[None]: ...
    @overload
    def resume(self, decisions: Decisions, *, output: TypeForm[T]) -> Reply[T]: ...
    def resume(self, decisions: Decisions, *, output: TypeForm[T] | None = None) -> Reply[Any]:
        """Go on with the turn that ToolsPendingError stopped, and return its answer.

        ``decisions``: True, False or a reason for the id of each of ``pending_calls``; a single bool is for all. All calls of
        the answer run now. If the model's next request fails, ``resume`` may be called again, and runs no tool twice.
        ``output`` is the type that ``parse`` was called with. Raises what ``send`` raises, and HistoryError.
        """
        return warned(portal.call(self._resume(decisions, output)))

    def stream_resume(self, decisions: Decisions) -> ReplyStream[None]:
        """Do what ``resume`` does, and return the answer as it comes.

        Nothing runs before the first iteration. Of a stream that is left early the turn waits again: with its tools, if they
        have not run, else for the model alone.
        """
        return ReplyStream(self._resumed_events(decisions))

    def as_tool(
        self, name: str, description: str, *, timeout_s: float | None = None, needs_approval: bool = False
    ) -> Tool:
        """Return a tool that asks this chat: each call gets a fork of the conversation as it is, and what it costs is ours.

        The chat's budget, limits and tools bound the call. ``timeout_s`` None is the limit of the chat that calls. Raises
        ToolkitError if a tool of this chat needs approval and nobody is asked.
        """
        self._require_somebody_to_ask()

        def ask(message: str) -> str:
            reply = self.fork().send(message)
            self._records += reply.records
            return reply.text

        return _chat_tool(name, description, ask, timeout_s=timeout_s, needs_approval=needs_approval)

    def count_tokens(self) -> TokenCount:
        """Count what the next request begins with, tools included."""
        return portal.call(self._count())


def _chat_tool(
    name: str, description: str, ask: Callable[[str], Any], *, timeout_s: float | None, needs_approval: bool
) -> Tool:
    """Return a tool with one argument, the message for another chat."""
    schema = {
        "type": "object",
        "properties": {"message": {"type": "string", "description": "What to ask; all that is needed to answer."}},
        "required": ["message"],
        "additionalProperties": False,
    }
    return Tool.of_schema(
        name, description, schema, call=ask, strict=True, timeout_s=timeout_s, needs_approval=needs_approval
    )
