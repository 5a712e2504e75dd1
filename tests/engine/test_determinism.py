"""Cold or cached, the same answer: on the real model, in both runtimes, with logits and not only with texts."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.engine import Engine, EngineSettings
from antiphon.engine.ipc.messages import Delta, Generate, Prefilled, Prompt, SamplingParams, Text

pytestmark = [pytest.mark.anyio, pytest.mark.model]

STORY = "The history of computing is long and winding, and nobody knows all of it. "


@pytest.fixture
async def engine(on_runtime: dict[str, Any], chat_model: Path) -> AsyncGenerator[Engine]:
    """A running engine of each runtime."""
    engine = Engine(EngineSettings(model_path=chat_model, context_size=2048, **on_runtime))
    await engine.start()
    assert engine.info.settings["runtime"] == on_runtime["runtime"]
    yield engine
    await engine.aclose()


def changed(engine: Engine, **given: Any) -> Engine:
    """An engine with some other settings."""
    return Engine(msgspec.structs.replace(engine.settings, **given))


def prompt_of(text: str) -> Prompt:
    return (Text("<|im_start|>system\nYou tell stories.<|im_end|>\n<|im_start|>user\n", special=True), Text(text))


async def run(engine: Engine, request: Generate) -> tuple[int, str, list[float | None]]:
    """Cached prompt tokens, the text, and the exact log-probability of every token."""
    cached, text, logprobs = -1, "", []
    async for answer in engine.generate(request):
        if isinstance(answer, Prefilled):
            cached = answer.cached_tokens
        elif isinstance(answer, Delta):
            text += answer.text
            logprobs += [token.logprob for token in answer.tokens]
    return cached, text, logprobs


@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0), SamplingParams(temperature=1.2, seed=42)])
async def test_cold_or_cached_the_same_answer(engine: Engine, sampling: SamplingParams) -> None:
    """A repeated request gives the same text and bit-equal log-probabilities, whatever ran and was cached in between."""
    for repeat in (5, 9, 13):
        request = Generate(id=0, prompt=prompt_of(STORY * repeat), max_tokens=24, logprobs=0, sampling=sampling)
        cold = await run(engine, request)
        await run(
            engine, Generate(id=0, prompt=prompt_of("Something else. " * 9 * repeat), max_tokens=7, sampling=sampling)
        )
        warm = await run(engine, request)
        assert warm[1:] == cold[1:]
        assert warm[0] > cold[0]


async def test_several_choices_are_the_same_again(engine: Engine) -> None:
    """Choices that run side by side, and whose drafts are accepted or rejected, are bit-equal whenever the request is repeated."""
    sampling = SamplingParams(temperature=1, seed=5)
    request = Generate(id=0, prompt=prompt_of(STORY), n=3, max_tokens=40, logprobs=0, sampling=sampling)
    answers: list[dict[int, list[float | None]]] = []
    for _ in range(3):
        logprobs: dict[int, list[float | None]] = {}
        async for answer in engine.generate(request):
            if isinstance(answer, Delta):
                logprobs.setdefault(answer.index, []).extend(token.logprob for token in answer.tokens)
        answers.append(logprobs)
    assert answers[0] == answers[1] == answers[2]


async def test_longer_prompts_that_share_are_as_if_alone(engine: Engine) -> None:
    """A prompt that continues a cached one gets the answer that an empty engine gives."""
    longer = Generate(
        id=0,
        prompt=prompt_of(STORY * 7 + "And then?"),
        max_tokens=24,
        logprobs=0,
        sampling=SamplingParams(temperature=0),
    )
    await run(engine, Generate(id=0, prompt=prompt_of(STORY * 5), max_tokens=9, sampling=SamplingParams(temperature=0)))
    shared = await run(engine, longer)
    assert shared[0] > 0
    alone = changed(engine, prefix_cache=False)
    await alone.start()
    try:
        assert (await run(alone, longer))[1:] == shared[1:]
    finally:
        await alone.aclose()


async def test_a_turn_after_a_prefilled_answer_is_as_if_alone(engine: Engine) -> None:
    """An answer that was computed again as a prompt is cached, and the turn after it is that of an empty engine, bit by bit."""
    sampling = SamplingParams(temperature=0)
    first = Generate(id=0, prompt=prompt_of(STORY * 5), max_tokens=100, logprobs=0, sampling=sampling)
    before = await run(engine, first)
    conversation = (*first.prompt, Text(before[1]), Text("<|im_end|>\n<|im_start|>user\n", special=True))
    num_tokens = (await engine.count((conversation,)))[0]
    assert await engine.prefill(conversation) == (num_tokens - 2) // 64 * 64
    second = Generate(
        id=0, prompt=(*conversation, Text("And then?")), max_tokens=24, logprobs=0, sampling=SamplingParams(seed=3)
    )
    shared = await run(engine, second)
    assert shared[0] == (num_tokens - 2) // 64 * 64
    assert (await run(engine, first))[1:] == before[1:], "a repeat of the turn before is not affected"
    alone = changed(engine, prefix_cache=False)
    await alone.start()
    try:
        assert await alone.prefill(conversation) == 0, "nothing is computed for a cache that is off"
        assert (await run(alone, second))[1:] == shared[1:]
    finally:
        await alone.aclose()


async def test_speculation_changes_nothing_but_the_time(engine: Engine) -> None:
    """With up to twelve draft tokens a step or with one, tokens and log-probabilities are the same, bit by bit."""
    carefully = changed(engine, draft_tokens=1)
    await carefully.start()
    try:
        for sampling in (SamplingParams(temperature=0), SamplingParams(temperature=0.8, seed=7)):
            request = Generate(id=0, prompt=prompt_of(STORY * 6), max_tokens=60, logprobs=0, sampling=sampling)
            assert (await run(carefully, request))[1:] == (await run(engine, request))[1:]
    finally:
        await carefully.aclose()


@pytest.mark.parametrize("on_runtime", ["openvino"], indirect=True)
async def test_with_openvino_other_requests_change_nothing(engine: Engine) -> None:
    """A request alone, and the same beside eight others that come and go, share its prefix or do not, are bit-equal."""
    sampling = SamplingParams(temperature=0.8, seed=3)
    request = Generate(id=0, prompt=prompt_of(STORY * 6), max_tokens=40, logprobs=0, sampling=sampling)
    alone = await run(engine, request)
    others = [
        Generate(
            id=0, prompt=prompt_of(STORY * (number % 3 * 3) + str(number)), max_tokens=8 * number, sampling=sampling
        )
        for number in range(1, 9)
    ]
    beside = await asyncio.gather(*(run(engine, one) for one in [*others[:4], request, *others[4:]]))
    assert beside[4][1:] == alone[1:]
