"""Plans chat requests without blocking the event loop: sizes first, then in a thread whatever takes long."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from antiphon.engine.ipc.messages import ModelInfo
from antiphon.prompting import ChatPrompter, Piece, Plan, PromptError, offered_tools
from antiphon.prompting.grammars.trial_pool import Cancellation
from antiphon.protocol.chat import ChatRequest, Message, Tool
from antiphon.protocol.errors import ApiError, context_length_exceeded

P = ParamSpec("P")
T = TypeVar("T")

Embed = Callable[[Sequence[str]], Awaitable[Sequence[Sequence[float]] | None]]
"""Returns a unit vector per text, or None while there is no model for that."""

MAX_CHARS_ON_LOOP = 100_000
"""Up to here a prompt is planned on the event loop: in some milliseconds, less than a thread costs under load."""
_CHARS_OF_MESSAGE = 100
"""Planning a message takes as long as planning so many characters."""
_THREADS = ThreadPoolExecutor(64, thread_name_prefix="planning")
"""Mostly they wait for a compiler in another process, so there may be many."""


class Planner:
    """Turns requests for one model into plans. ``embed`` gives the vectors by which tools are selected."""

    def __init__(self, prompter: ChatPrompter, info: ModelInfo, embed: Embed | None) -> None:
        self._prompter = prompter
        self._info = info
        self._embed = embed

    async def plan(self, request: ChatRequest) -> Plan:
        """Return how to answer. Raises ``ApiError`` 400 for what does not fit or cannot be enforced."""
        tools = await self._select_tools(request)
        return await self._run(request, self._prompter.plan, request, tools)

    async def prompt(self, request: ChatRequest) -> tuple[Piece, ...]:
        """Return the prompt of ``plan`` alone. Raises as ``plan`` does."""
        tools = await self._select_tools(request)
        return await self._run(request, self._prompter.prompt, request, tools)

    async def prompt_without_selection(self, request: ChatRequest) -> tuple[Piece, ...] | None:
        """Return the prompt of a request whose last message is not known; None if its tools are selected by that message."""
        check_prompt_fits(request, self._info)
        if await self._run(request, self._prompter.question, request) is not None:
            return None
        return await self._run(request, self._prompter.prompt, request, offered_tools(request))

    async def _select_tools(self, request: ChatRequest) -> tuple[Tool, ...]:
        """Check the request and return the tools that its answer may call."""
        check_prompt_fits(request, self._info)
        question = await self._run(request, self._prompter.question, request)
        if question is None:
            return offered_tools(request)
        vectors = await self._embed(question.texts) if self._embed is not None and question.texts else None
        return self._prompter.selector.choose(question, vectors)

    async def _run(self, request: ChatRequest, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of the prompter, in a thread if the request is large or has a grammar."""
        is_large = num_chars(request) + _CHARS_OF_MESSAGE * len(request.messages) > MAX_CHARS_ON_LOOP
        try:
            if is_large or request.tools or request.response_format is not None:
                return await self._run_in_thread(function, *args, **kwargs)
            return function(*args, **kwargs)
        except PromptError as error:
            raise ApiError(400, f"These messages cannot be rendered: {error.message}", param="messages") from error

    async def _run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread; a caller that leaves ends its compilations."""
        cancellation = Cancellation()

        def call() -> T:
            with cancellation.as_current():
                return function(*args, **kwargs)

        running = asyncio.get_running_loop().run_in_executor(_THREADS, contextvars.copy_context().run, call)
        try:
            return await running
        except asyncio.CancelledError:
            cancellation.cancel()
            raise


def check_prompt_fits(request: ChatRequest, info: ModelInfo) -> None:
    """Refuse messages that are longer than the context however they are tokenised, before any work is done on them.

    A message is a token at least, if only for its role, and no token has more characters than the longest one has bytes.
    Raises ``ApiError`` 400, ``context_length_exceeded``.
    """
    least = len(request.messages)
    if info.longest_token is not None:
        least = max(least, -(-num_chars(request) // info.longest_token))
    if least > info.context_length:
        raise context_length_exceeded(info.context_length, least, at_least=True)


def num_chars(request: ChatRequest) -> int:
    """Return the number of characters in a request's messages."""
    return sum(map(_num_chars, request.messages))


def _num_chars(message: Message) -> int:
    calls = sum(len(call.function.arguments) for call in message.tool_calls)
    return len(message.content or "") + len(message.refusal or "") + len(message.name or "") + calls
