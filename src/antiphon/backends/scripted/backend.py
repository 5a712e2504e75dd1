"""Answers by script: replies, errors and faults, for tests of applications that call the API.

The script determines the text. Parameters that constrain a model (temperature, a schema, ``tool_choice``) do not change it;
limits from outside (``n``, ``stop``, ``max_tokens``, ``logprobs``) hold as for any model.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import NoReturn

import msgspec

from antiphon.backends.base import BackendModel, Countable, Health, PartStatistics, StreamCut, no_reranker, wrong_kind
from antiphon.backends.scripted.performance import (
    Failure,
    Pause,
    Step,
    as_text,
    chat_steps,
    chat_tokens,
    completion_steps,
    count,
    embedding_result,
    last_message,
    rerank_result,
    waiting_steps,
)
from antiphon.backends.scripted.script import ReplySelector, Script
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, context_length_exceeded, model_not_found, overloaded, prompt_too_long
from antiphon.protocol.events import Event
from antiphon.protocol.rerank import RerankRequest, RerankResult

Sleep = Callable[[float], Awaitable[None]]


class ScriptedStatistics(msgspec.Struct, frozen=True):
    """Requests by state. ``abandoned`` requests were closed before their end, as when a client leaves."""

    running: int = 0
    finished: int = 0
    failed: int = 0
    abandoned: int = 0


class ScriptedBackend:
    """Plays a ``Script``. ``sleep`` is the clock of its pauses: give it one that a test moves."""

    def __init__(self, script: Script | None = None, *, sleep: Sleep = asyncio.sleep) -> None:
        self._script = script or Script()
        self._selector = ReplySelector(self._script)
        self._sleep = sleep
        self._closed = asyncio.Event()
        self._statistics = ScriptedStatistics()
        self._models = (
            *(BackendModel(name, 0, "antiphon", "chat", self._script.context_length) for name in self._script.models),
            *(BackendModel(name, 0, "antiphon", "embedding") for name in self._script.embedding_models),
            *(BackendModel(name, 0, "antiphon", "reranker") for name in self._script.rerankers),
        )

    @property
    def models(self) -> Sequence[BackendModel]:
        return self._models

    @property
    def counts(self) -> ScriptedStatistics:
        """How many requests are in which state."""
        return self._statistics

    def statistics(self) -> Sequence[PartStatistics]:
        return [PartStatistics("scripted", {}, self._statistics)]

    def serves(self, model: str) -> bool:
        return any(known.id == model for known in self._models)

    def health(self) -> Health:
        return Health("down", "closed") if self._closed.is_set() else Health("ready")

    async def aclose(self) -> None:
        self._closed.set()

    async def count_tokens(self, request: Countable) -> int:
        self._check(request.model, "embedding" if isinstance(request, EmbeddingRequest) else "chat")
        match request:
            case ChatRequest():
                return chat_tokens(request)
            case CompletionRequest():
                return sum(map(count, request.prompts))
            case EmbeddingRequest():
                return sum(map(count, request.inputs))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self._check(request.model, "chat")
        self._fits(chat_tokens(request))
        reply = self._selector.reply(request.model, last_message(request))
        async with aclosing(self._perform(chat_steps(request, reply))) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        self._check(request.model, "chat")
        self._fits(max(map(count, request.prompts)))
        reply = self._selector.reply(request.model, as_text(request.prompts[-1]))
        async with aclosing(self._perform(completion_steps(request, reply))) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        self._check(request.model, "embedding")
        size = self._script.embedding_size
        if request.dimensions is not None and not 1 <= request.dimensions <= size:
            raise ApiError(
                400, f"Invalid value for 'dimensions': this model has vectors of {size} numbers.", param="dimensions"
            )
        limit = self._script.context_length
        longest = max(map(count, request.inputs))
        if limit is not None and longest > limit:
            raise prompt_too_long(limit, longest, 0)
        reply = self._selector.reply(request.model, as_text(request.inputs[0]))
        async for _ in self._perform(waiting_steps(reply)):
            pass
        return embedding_result(request, reply, size)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        self._check(request.model, "reranker")
        limit = self._script.context_length
        longest = count(request.query) + max(map(count, request.documents))
        if limit is not None and longest > limit:
            raise prompt_too_long(limit, longest, 0)
        reply = self._selector.reply(request.model, request.query)
        async for _ in self._perform(waiting_steps(reply)):
            pass
        return rerank_result(request, reply)

    def _check(self, model: str, kind: str) -> None:
        found = next((known for known in self._models if known.id == model), None)
        if found is None:
            raise model_not_found(model)
        if found.kind != kind and kind == "reranker":
            raise no_reranker(model, found.kind)
        if found.kind != kind:
            raise wrong_kind(found)

    def _fits(self, prompt_tokens: int) -> None:
        limit = self._script.context_length
        if limit is not None and prompt_tokens > limit:
            raise context_length_exceeded(limit, prompt_tokens)

    async def _perform(self, steps: Iterator[Step]) -> AsyncGenerator[Event]:
        """Yield the events, with the reply's pauses and its error or fault, and keep count."""
        self._count(running=1)
        outcome = "abandoned"
        try:
            for step in steps:
                self._require_open()
                match step:
                    case Pause(seconds):
                        await self._pause(seconds)
                    case Failure():
                        await self._fail(step)
                    case _:
                        yield step
            outcome = "finished"
        except ApiError:
            outcome = "failed"
            raise
        finally:
            self._count(running=-1, **{outcome: 1})

    async def _pause(self, seconds: float) -> None:
        """Wait on the script's clock; closing the backend ends the pause with a 503."""
        waiters = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._closed.wait())}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        self._require_open()

    def _require_open(self) -> None:
        if self._closed.is_set():
            raise overloaded(1)

    async def _fail(self, failure: Failure) -> NoReturn:
        if failure.error is not None:
            raise failure.error
        if failure.fault == "cut":
            raise StreamCut
        await self._closed.wait()
        raise overloaded(1)

    def _count(self, **changes: int) -> None:
        now = self._statistics
        changed = {name: getattr(now, name) + change for name, change in changes.items()}
        self._statistics = msgspec.structs.replace(now, **changed)
