"""Text completions by a model in this machine: several prompts concurrently, echo, infill, the best of several."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from antiphon.backends.local.errors import engine_errors
from antiphon.backends.local.openai_ids import with_own_ids
from antiphon.backends.local.sampling import engine_sampling
from antiphon.backends.local.tokens import plain_prompt, token_logprobs
from antiphon.backends.local.usage import UsageMeter
from antiphon.engine import Engine
from antiphon.engine.ipc.messages import Delta, Finished, Generate, ModelInfo, Prefilled, Prompt, Text
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import ChoiceFinished, Completed, Event, TextDelta, TokenLogprob
from antiphon.protocol.model_limits import check_logit_bias, check_max_tokens, check_token_ids

_FIM = ("prefix", "suffix", "middle")


async def complete(name: str, engine: Engine, request: CompletionRequest) -> AsyncGenerator[Event]:
    """Continue every prompt of ``request``; the prompts run together. See ``Backend.complete``."""
    check_max_tokens(request.raw, engine.info.context_length)
    with engine_errors():
        request = await with_own_ids(request, name, engine)
    check_logit_bias(request.sampling.logit_bias, engine.info.vocabulary_size)
    check_token_ids(request.prompts, engine.info.vocabulary_size, "prompt")
    jobs = [_job(request, engine.info, prompt) for prompt in request.prompts]
    usage = UsageMeter(len(jobs) * request.best_of)
    started = False
    async with aclosing(_side_by_side(engine, jobs)) as answers:
        choices = _Choices(request, jobs)
        async for prompt, answer in answers:
            if isinstance(answer, Prefilled):
                first = usage.started(name, answer, engine.info)
                if not started:
                    started = True
                    yield first
                for event in choices.echo(prompt, answer):
                    yield event
            else:
                usage.count(prompt * request.best_of + answer.index, answer.num_tokens, ())
                for event in choices.feed(prompt, answer):
                    yield event
    yield Completed(usage.meter.usage)


def _job(request: CompletionRequest, info: ModelInfo, prompt: str | tuple[int, ...]) -> Generate:
    wants_logprobs = request.logprobs is not None
    # The best of several is ranked by log-probabilities, whether or not the client asked for them.
    ranks = request.best_of > request.n
    return Generate(
        id=0,
        prompt=_prompt(info, prompt, request.suffix),
        n=request.best_of,
        max_tokens=request.max_tokens,
        sampling=engine_sampling(request.sampling),
        stop=request.stop,
        logprobs=request.logprobs if wants_logprobs else 0 if ranks else None,
        # Only the engine knows the text of an echoed prompt that came as token ids; it returns it with log-probabilities.
        echo_logprobs=request.echo and (wants_logprobs or not isinstance(prompt, str)),
        priority=request.priority,
    )


def _prompt(info: ModelInfo, prompt: str | tuple[int, ...], suffix: str | None) -> Prompt:
    """Return a text as the model expects a document to begin; token ids are unchanged."""
    if suffix is not None:
        return _infill(info, prompt, suffix)
    if not isinstance(prompt, str):
        return plain_prompt(prompt)
    begin = info.bos_token if info.adds_bos else ""
    if not prompt and not begin:
        begin = info.bos_token or info.eos_token
    return ((Text(begin, special=True),) if begin else ()) + ((Text(prompt),) if prompt else ())


def _infill(info: ModelInfo, prompt: str | tuple[int, ...], suffix: str) -> Prompt:
    if not all(info.fim_tokens.get(part) for part in _FIM):
        raise ApiError(
            400,
            "This model was not trained to fill in the middle, so it does not support 'suffix'.",
            param="suffix",
            code="unsupported_parameter",
        )
    before, after, middle = (Text(info.fim_tokens[part], special=True) for part in _FIM)
    return (before, *plain_prompt(prompt), after, Text(suffix), middle)


@dataclass
class _Candidate:
    """One of several continuations, held until the best are known."""

    text: list[str] = field(default_factory=list[str])
    tokens: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    reason: Literal["stop", "length"] | None = None

    def score(self) -> float:
        """Mean log-probability per token, by which OpenAI defines the best."""
        logprobs = [token.logprob or 0.0 for token in self.tokens]
        return sum(logprobs) / len(logprobs) if logprobs else float("-inf")


class _Choices:
    """Numbers the choices of all prompts, and holds candidates back where only the best are wanted."""

    def __init__(self, request: CompletionRequest, jobs: Sequence[Generate]) -> None:
        self._request = request
        self._begins = [isinstance(part := job.prompt[0], Text) and part.special for job in jobs]
        self._ranks = request.best_of > request.n
        self._candidates = [[_Candidate() for _ in range(request.best_of)] for _ in request.prompts]

    def echo(self, prompt: int, answer: Prefilled) -> list[Event]:
        """Return the prompt as the beginning of each of its choices, if that was asked for."""
        if not self._request.echo:
            return []
        given = self._request.prompts[prompt]
        tokens = token_logprobs(answer.prompt_logprobs, is_prompt=True)
        if tokens and self._begins[prompt]:
            # The begin token was put before the text: it is listed, with no character of the text.
            tokens = (msgspec.structs.replace(tokens[0], bytes=()), *tokens[1:])
        text = (
            given
            if isinstance(given, str)
            else b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
        )
        shown = tokens if self._request.logprobs is not None else ()
        return [TextDelta(self._index(prompt, k), text, shown) for k in range(self._request.n)]

    def feed(self, prompt: int, answer: Delta | Finished) -> list[Event]:
        """Return the events of one answer of the engine."""
        if self._ranks:
            return self._hold(prompt, answer)
        index = self._index(prompt, answer.index)
        if isinstance(answer, Finished):
            return [ChoiceFinished(index, answer.reason)]
        return [TextDelta(index, answer.text, token_logprobs(answer.tokens))]

    def _hold(self, prompt: int, answer: Delta | Finished) -> list[Event]:
        candidates = self._candidates[prompt]
        candidate = candidates[answer.index]
        if isinstance(answer, Delta):
            candidate.text.append(answer.text)
            candidate.tokens.extend(token_logprobs(answer.tokens))
            return []
        candidate.reason = answer.reason
        if any(other.reason is None for other in candidates):
            return []
        best = sorted(candidates, key=_Candidate.score, reverse=True)[: self._request.n]
        return [event for k, chosen in enumerate(best) for event in self._release(self._index(prompt, k), chosen)]

    def _release(self, index: int, chosen: _Candidate) -> Sequence[Event]:
        shown = tuple(chosen.tokens) if self._request.logprobs is not None else ()
        return [TextDelta(index, "".join(chosen.text), shown), ChoiceFinished(index, chosen.reason or "stop")]

    def _index(self, prompt: int, choice: int) -> int:
        return prompt * self._request.n + choice


_Answer = tuple[int, Prefilled | Delta | Finished]


async def _side_by_side(engine: Engine, jobs: Sequence[Generate]) -> AsyncGenerator[_Answer]:
    """Run all jobs at once and yield their answers as they come, each with its job's number."""
    queue: asyncio.Queue[_Answer | None] = asyncio.Queue()

    async def pump(number: int, job: Generate) -> None:
        with engine_errors(max_tokens=job.max_tokens, is_chat=False):
            async with aclosing(engine.generate(job)) as answers:
                async for answer in answers:
                    queue.put_nowait((number, answer))

    async def pump_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for number, job in enumerate(jobs):
                    group.create_task(pump(number, job))
        finally:
            queue.put_nowait(None)

    pumping = asyncio.ensure_future(pump_all())
    try:
        while (item := await queue.get()) is not None:
            yield item
        await pumping
    except ExceptionGroup as failures:
        # One error for all prompts: they mostly fail for the same reason.
        raise failures.exceptions[0] from None
    finally:
        pumping.cancel()
        await asyncio.wait({pumping})
