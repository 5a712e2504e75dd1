"""One connection to an engine's socket, shared by many requests."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from antiphon.engine.errors import EngineCrashed, EngineError, EngineStopped, InvalidPrompt, error_of
from antiphon.engine.ipc.messages import (
    Answer,
    Cancel,
    Delta,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    ModelInfo,
    Prefill,
    Prefilled,
    PrefillEnded,
    Priority,
    Prompt,
    Rank,
    Ranked,
    Ready,
    Request,
    Score,
    Scored,
    Tokenize,
    Tokenized,
)
from antiphon.engine.ipc.wire import MAX_FRAME_BYTES, FrameError, decode_answers, frame, read_frame

T = TypeVar("T", bound=Answer)
GenerationAnswer = Prefilled | Delta | Finished
_RESTART_ESTIMATE_S = 2.0


class EngineClient:
    """Sends requests and passes each its answers. Made by ``connect``; belongs to one event loop.

    ``info`` describes the model. When the connection breaks, every open request raises
    ``EngineCrashed``, or ``EngineStopped`` after ``aclose``.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: ModelInfo) -> None:
        self.info = info
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Queue[Answer | EngineError]] = {}
        self._end: Callable[[], EngineError] | None = None
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    async def connect(cls, path: Path) -> "EngineClient":
        """Connect to a listening engine.

        Raises:
            EngineStopped: nothing listens there, or it is not an engine.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                info = await _greeting(reader)
            except BaseException:
                writer.close()
                raise
        except (OSError, FrameError, msgspec.DecodeError) as error:
            raise EngineStopped(f"no engine answers at {str(path)!r}: {error}") from error
        if info is None:
            writer.close()
            raise EngineStopped(f"what listens at {str(path)!r} is not an engine")
        return cls(reader, writer, info)

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._end is None

    async def generate(self, request: Generate) -> AsyncGenerator[GenerationAnswer]:
        """Yield ``Prefilled``, then the choices' ``Delta`` and ``Finished`` as they come; closing it cancels."""
        request = msgspec.structs.replace(request, id=next(self._ids))
        num_left = max(1, request.n)  # the refusal of a smaller n is an answer too
        async with self._opened(request) as answers:
            while num_left:
                match await self._next(answers):
                    case Finished() as answer:
                        num_left -= 1
                        yield answer
                    case Prefilled() | Delta() as answer:
                        yield answer
                    case other:
                        raise TypeError(f"unexpected answer to a generation: {other!r}")

    async def prefill(self, prompt: Prompt) -> int:
        """Compute the whole blocks of a prompt while nothing else runs; return how many of its tokens are cached then."""
        return (await self._one(Prefill(next(self._ids), prompt), PrefillEnded)).num_tokens

    async def embed(self, prompts: tuple[Prompt, ...], priority: Priority = "interactive") -> Embedded:
        """Return a unit vector for each prompt."""
        return await self._one(Embed(next(self._ids), prompts, priority), Embedded)

    async def rank(self, prompts: tuple[Prompt, ...], priority: Priority = "interactive") -> Ranked:
        """Return the relevance of the document in each prompt."""
        return await self._one(Rank(next(self._ids), prompts, priority), Ranked)

    async def tokenize(self, prompts: tuple[Prompt, ...]) -> Tokenized:
        """Return the token ids of each prompt."""
        return await self._one(Tokenize(next(self._ids), prompts), Tokenized)

    async def count(self, prompts: tuple[Prompt, ...]) -> tuple[int, ...]:
        """Return how many tokens each prompt has."""
        return (await self._one(Tokenize(next(self._ids), prompts, only_lengths=True), Tokenized)).lengths

    async def score(self, prompt: Prompt, continuations: tuple[Prompt, ...]) -> Scored:
        """Return the log-probability of each continuation after ``prompt``."""
        return await self._one(Score(next(self._ids), prompt, continuations), Scored)

    async def aclose(self) -> None:
        """Close the connection; the engine drops what it still computes for it. Idempotent."""
        self._finish(lambda: EngineStopped("the engine was closed"))
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver

    async def _one(self, request: Request, kind: type[T]) -> T:
        async with self._opened(request) as answers:
            answer = await self._next(answers)
        if not isinstance(answer, kind):
            raise TypeError(f"unexpected answer {answer!r}")
        return answer

    @contextlib.asynccontextmanager
    async def _opened(self, request: Request) -> AsyncGenerator[asyncio.Queue[Answer | EngineError]]:
        if self._end is not None:
            raise self._end()
        data = frame(request)
        if len(data) > MAX_FRAME_BYTES:  # the engine would end the connection, and every request on it
            raise InvalidPrompt(
                f"the request has {len(data)} bytes, more than the {MAX_FRAME_BYTES} that an engine takes"
            )
        answers: asyncio.Queue[Answer | EngineError] = asyncio.Queue()
        self._open[request.id] = answers
        self._writer.write(data)
        is_answered = False
        try:
            await self._writer.drain()
            yield answers
            is_answered = True
        except ConnectionError as error:
            raise EngineCrashed("the connection to the engine broke", retry_after_s=_RESTART_ESTIMATE_S) from error
        except EngineError:
            is_answered = True
            raise
        finally:
            # A caller that left before the last answer does not want the rest.
            del self._open[request.id]
            if not is_answered and self._end is None:
                self._writer.write(frame(Cancel(request.id)))

    async def _next(self, answers: asyncio.Queue[Answer | EngineError]) -> Answer:
        answer = await answers.get()
        if isinstance(answer, EngineError):
            raise answer
        if isinstance(answer, Failed):
            raise error_of(answer)
        return answer

    async def _receive(self) -> None:
        try:
            while (body := await read_frame(self._reader)) is not None:
                for answer in decode_answers(body):
                    if not isinstance(answer, Ready) and (answers := self._open.get(answer.id)) is not None:
                        answers.put_nowait(answer)
                    del answer
                del body  # it may be large, and the next one may not come for hours
        except (OSError, FrameError, msgspec.DecodeError):
            pass
        message = "the engine's process ended while it worked on the request"
        self._finish(lambda: EngineCrashed(message, retry_after_s=_RESTART_ESTIMATE_S))

    def _finish(self, make_error: Callable[[], EngineError]) -> None:
        if self._end is not None:
            return
        self._end = make_error
        for answers in self._open.values():
            answers.put_nowait(make_error())
        self._writer.close()


async def _greeting(reader: asyncio.StreamReader) -> ModelInfo | None:
    """Return an engine's greeting, None if the peer is something else."""
    body = await read_frame(reader)
    first = [] if body is None else decode_answers(body)
    return first[0].info if first and isinstance(first[0], Ready) else None
