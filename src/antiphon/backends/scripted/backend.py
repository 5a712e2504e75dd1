"""Answers by script: replies, errors and faults, for tests of applications that call the API.

The script determines the text. Parameters that constrain a model (temperature, a schema, ``tool_choice``) do not change it;
limits from outside (``n``, ``stop``, ``max_tokens``, ``logprobs``) hold as for any model.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing

import msgspec
import numpy as np

from antiphon.backends.base import BackendModel, Countable, Health, PartStatistics, StreamCut, wrong_kind
from antiphon.backends.scripted.playback import PlayedChoice, ReplyLimits, play_reply
from antiphon.backends.scripted.script import Reply, ReplySelector, Script, tokens
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, context_length_exceeded, model_not_found, overloaded, prompt_too_long
from antiphon.protocol.events import ChoiceFinished, Completed, Event, Started, TextDelta, Usage

Sleep = Callable[[float], Awaitable[None]]
_TOKENS_PER_MESSAGE = 4


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
                return _prompt_tokens(request)
            case CompletionRequest():
                return sum(map(_count, request.prompts))
            case EmbeddingRequest():
                return sum(map(_count, request.inputs))

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self._check(request.model, "chat")
        last = request.messages[-1].content or ""
        prompt_tokens = _prompt_tokens(request)
        self._fits(prompt_tokens)
        limits = ReplyLimits(request.max_tokens, request.stop, request.top_logprobs if request.logprobs else None)
        reply = self._selector.reply(request.model, last)
        text = _text(reply, last)
        choices = [play_reply(reply, text, index, limits) for index in range(request.n)]
        async with aclosing(self._perform(request.model, reply, choices, prompt_tokens)) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        self._check(request.model, "chat")
        prompts = [_as_text(prompt) for prompt in request.prompts]
        counts = [_count(prompt) for prompt in request.prompts]
        self._fits(max(counts))
        limits = ReplyLimits(request.max_tokens, request.stop, request.logprobs)
        reply = self._selector.reply(request.model, prompts[-1])
        choices = [
            play_reply(reply, _text(reply, prompts[index // request.n]), index, limits)
            for index in range(len(prompts) * request.n)
        ]
        if request.echo:
            choices = [_with_prompt(choice, prompts[i // request.n], i) for i, choice in enumerate(choices)]
        num_echoed = len(choices) if request.echo else 0
        async with aclosing(self._perform(request.model, reply, choices, sum(counts), num_echoed)) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        self._check(request.model, "embedding")
        size = self._script.embedding_size
        if request.dimensions is not None and not 1 <= request.dimensions <= size:
            raise ApiError(
                400, f"Invalid value for 'dimensions': this model has vectors of {size} numbers.", param="dimensions"
            )
        counts = tuple(map(_count, request.inputs))
        limit = self._script.context_length
        if limit is not None and max(counts) > limit:
            raise prompt_too_long(limit, max(counts), 0)
        reply = self._selector.reply(request.model, _as_text(request.inputs[0]))
        async for _ in self._perform(request.model, reply, (), 0):
            pass
        return EmbeddingResult(
            model=request.model,
            vectors=tuple(_vector(_as_text(text), size, request.dimensions or size) for text in request.inputs),
            prompt_tokens=reply.usage.prompt_tokens if reply.usage else sum(counts),
            input_tokens=None if reply.usage else counts,
        )

    def _check(self, model: str, kind: str) -> None:
        found = next((known for known in self._models if known.id == model), None)
        if found is None:
            raise model_not_found(model)
        if found.kind != kind:
            raise wrong_kind(found)

    def _fits(self, prompt_tokens: int) -> None:
        limit = self._script.context_length
        if limit is not None and prompt_tokens > limit:
            raise context_length_exceeded(limit, prompt_tokens)

    async def _perform(
        self, model: str, reply: Reply, choices: Sequence[PlayedChoice], prompt_tokens: int, num_echoed: int = 0
    ) -> AsyncGenerator[Event]:
        """Yield the choices one after another, with the reply's pauses and its fault, and keep count."""
        self._count(running=1)
        outcome = "abandoned"
        try:
            async with aclosing(self._events(model, reply, choices, prompt_tokens, num_echoed)) as events:
                async for event in events:
                    yield event
            outcome = "finished"
        except ApiError:
            outcome = "failed"
            raise
        finally:
            self._count(running=-1, **{outcome: 1})

    async def _events(
        self, model: str, reply: Reply, choices: Sequence[PlayedChoice], prompt_tokens: int, num_echoed: int
    ) -> AsyncGenerator[Event]:
        await self._pause(reply.first_token_s)
        if reply.after == 0:
            await self._fail(reply)
        usage = reply.usage or _usage(choices, prompt_tokens, num_echoed)
        yield Started(model, usage.prompt_tokens, usage.cached_tokens)
        num_sent = 0
        for index, choice in enumerate(choices):
            for event in choice.events:
                if num_sent:
                    await self._pause(reply.token_s)
                yield event
                num_sent += 1
                if num_sent == reply.after:
                    await self._fail(reply)
            yield ChoiceFinished(index, choice.reason)
        # A reply shorter than ``after`` still fails: a test must not seem to pass because the fault never came.
        if reply.after > num_sent:
            await self._fail(reply)
        yield Completed(usage)

    async def _pause(self, seconds: float) -> None:
        """Wait on the script's clock; closing the backend ends the pause with a 503."""
        if seconds > 0 and not self._closed.is_set():
            waiters = {asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._closed.wait())}
            try:
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for waiter in waiters:
                    waiter.cancel()
        if self._closed.is_set():
            raise overloaded(1)

    async def _fail(self, reply: Reply) -> None:
        if reply.error is not None:
            raise reply.error.exception()
        if reply.fault == "cut":
            raise StreamCut
        if reply.fault == "hang":
            await self._closed.wait()
            raise overloaded(1)

    def _count(self, **changes: int) -> None:
        now = self._statistics
        changed = {name: getattr(now, name) + change for name, change in changes.items()}
        self._statistics = msgspec.structs.replace(now, **changed)


def _text(reply: Reply, last: str) -> str:
    if reply.text is not None:
        return reply.text
    return "" if reply.tool_calls or reply.refusal else last


def _as_text(prompt: str | tuple[int, ...]) -> str:
    """Token ids have no vocabulary here; they are written as numbers."""
    return prompt if isinstance(prompt, str) else " ".join(map(str, prompt))


def _count(prompt: str | tuple[int, ...]) -> int:
    return len(tokens(prompt)) if isinstance(prompt, str) else len(prompt)


def _prompt_tokens(request: ChatRequest) -> int:
    texts: Iterable[str] = (
        *(message.content or "" for message in request.messages),
        *(call.function.arguments for message in request.messages for call in message.tool_calls),
        *(msgspec.json.encode(tool).decode() for tool in request.tools),
    )
    return sum(len(tokens(text)) for text in texts) + _TOKENS_PER_MESSAGE * len(request.messages)


def _usage(choices: Sequence[PlayedChoice], prompt_tokens: int, num_echoed: int) -> Usage:
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=sum(len(choice.events) for choice in choices) - num_echoed,
        reasoning_tokens=sum(choice.reasoning_tokens for choice in choices),
    )


def _with_prompt(choice: PlayedChoice, prompt: str, index: int) -> PlayedChoice:
    return msgspec.structs.replace(choice, events=(TextDelta(index, prompt), *choice.events))


def _vector(text: str, size: int, dimensions: int) -> bytes:
    """Return a unit vector that is the same for the same text and near for texts that share words."""
    total = np.zeros(size)
    for word in tokens(text.lower()) or [""]:
        seed = int.from_bytes(word.strip().encode()[:16].ljust(16, b"\0"), "little")
        total += np.random.default_rng(seed).standard_normal(size)
    kept = total[:dimensions]
    return (kept / np.linalg.norm(kept)).astype("<f4").tobytes()
