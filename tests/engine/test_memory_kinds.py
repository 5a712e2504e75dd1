"""Recurrent, hybrid and sliding-window models on the real llama.cpp: nothing is shared, and nothing gets in the way.

A row alone and a row among others are computed by different kernels, and such models have nothing to fill a step up with:
the same request alone is the same bit by bit, and next to others within rounding. A lost or foreign state changes these
log-probabilities by whole units.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.tiny_models import KINDS, WINDOW, hybrid, sliding_window
from tests.installed import needs_llama
from tests.waiting import until

from antiphon.engine import Engine, EngineSettings, EngineStartFailed
from antiphon.engine.ipc.messages import Delta, Generate, Ids, Prefilled, SamplingParams, Text, Token
from antiphon.engine.model.llama import Context, Model
from antiphon.engine.model.sizing import ContextSettings

pytestmark = [pytest.mark.anyio, needs_llama]

ROUNDING = 0.05
OUT = 24
_SETTINGS = {"context_size": 1024, "num_sequences": 8, "threads": 1, "batch_threads": 1}
PROMPTS = tuple("once upon a time, " * number + str(number) for number in (1, 3, 9, 14, 20, 31))
"""Each begins as the next one does: a state that was kept for a prefix would show."""


class Answer(msgspec.Struct, frozen=True):
    """What one request got: tokens from the cache, and each choice's tokens with their log-probabilities."""

    cached: int
    choices: tuple[tuple[Token, ...], ...]

    def is_near(self, other: "Answer") -> bool:
        """Whether both are the same within rounding: at two tokens that are equally likely, texts may part."""
        return list(map(len, self.choices)) == list(map(len, other.choices)) and all(
            map(_are_near, self.choices, other.choices)
        )


def _are_near(ours: tuple[Token, ...], theirs: tuple[Token, ...]) -> bool:
    for one, two in zip(ours, theirs, strict=True):
        if abs((one.logprob or 0.0) - (two.logprob or 0.0)) > ROUNDING:
            return False
        if one.id != two.id:
            return {one.id, two.id} == {top.id for top in one.top} == {top.id for top in two.top}
    return True


@pytest.fixture(scope="session", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of each kind."""
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    KINDS[request.param](path)
    return path


@asynccontextmanager
async def serving(model: Path, **settings: int) -> AsyncGenerator[Engine]:
    """An engine on ``model``."""
    engine = Engine(EngineSettings(model_path=model, **_SETTINGS | settings))  # type: ignore[arg-type]
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


def request_of(prompt: str, **changes: object) -> Generate:
    request = Generate(id=0, prompt=(Text(prompt),), max_tokens=OUT, logprobs=2, sampling=SamplingParams(temperature=0))
    return msgspec.structs.replace(request, **changes)


async def ask(engine: Engine, request: Generate) -> Answer:
    cached, choices = -1, tuple[list[Token], ...]([] for _ in range(request.n))
    async for answer in engine.generate(request):
        if isinstance(answer, Prefilled):
            cached = answer.cached_tokens
        elif isinstance(answer, Delta):
            choices[answer.index].extend(answer.tokens)
    return Answer(cached, tuple(map(tuple, choices)))


async def leave_after(engine: Engine, request: Generate, deltas: int) -> None:
    """Ask, and be gone after so many pieces of text."""
    async with aclosing(engine.generate(request)) as answers:
        async for answer in answers:
            deltas -= isinstance(answer, Delta)
            if deltas <= 0:
                return


async def test_many_at_once_answer_as_each_alone(model: Path) -> None:
    """Repeated alone, an answer is bit-equal; next to others, with n > 1 and after cancellations it is equal within rounding.

    Nothing comes from a cache, nothing is speculated, and in the end no cells are held.
    """
    async with serving(model) as engine:
        alone = [await ask(engine, request_of(prompt)) for prompt in PROMPTS]
        assert [await ask(engine, request_of(prompt)) for prompt in reversed(PROMPTS)] == alone[::-1]
        assert len(set(alone)) == len(PROMPTS)
        assert len({token.id for answer in alone for token in answer.choices[0]}) > OUT

        together = await asyncio.gather(*(ask(engine, request_of(prompt)) for prompt in PROMPTS))
        assert all(map(Answer.is_near, together, alone))
        several = await ask(engine, request_of(PROMPTS[3], n=3))
        assert several.is_near(Answer(0, alone[3].choices * 3))

        leaving = [leave_after(engine, request_of(prompt, max_tokens=400), at) for at, prompt in enumerate(PROMPTS)]
        staying = [ask(engine, request_of(prompt)) for prompt in PROMPTS]
        _, stayed = await asyncio.gather(asyncio.gather(*leaving), asyncio.gather(*staying))
        assert all(map(Answer.is_near, stayed, alone))
        assert await ask(engine, request_of(PROMPTS[0])) == alone[0]

        assert {answer.cached for answer in (*alone, *together, several, *stayed)} == {0}
        asked = 5 * len(PROMPTS) + 2
        await until(lambda: engine.statistics().requests == asked and not engine.statistics().running)
        said = engine.statistics()
        assert (said.drafted_tokens, said.prompt_tokens_shared, said.cells_used, said.restarts) == (0, 0, 0, 0)
        assert said.kv_bytes > 0


async def test_a_text_far_longer_than_a_window_is_as_likely_in_one_piece(model: Path) -> None:
    """What was generated token by token has the log-probability that it has as a prompt, computed in large batches."""
    async with serving(model) as engine:
        answer = await ask(engine, request_of(PROMPTS[4], max_tokens=4 * WINDOW))
        (tokens,) = answer.choices
        (whole,) = (await engine.score((Text(PROMPTS[4]),), ((Ids(tuple(token.id for token in tokens)),),))).logprobs
        assert whole == pytest.approx(sum(token.logprob or 0.0 for token in tokens), abs=ROUNDING * len(tokens) / 4)


async def test_sequences_that_give_way_are_computed_again(model: Path) -> None:
    """Where cells and slots are scarce, requests wait or are preempted, and their answers are still their own."""
    endless = SamplingParams(temperature=0, logit_bias={0: -100})
    requests = [request_of(f"{number}, " * 20, max_tokens=300, sampling=endless) for number in range(5)]
    async with serving(model, num_sequences=4, cache_size=1024) as engine:  # of 1,440 that four would take
        alone = [await ask(engine, request) for request in requests]
        together = await asyncio.gather(*(ask(engine, request) for request in requests))
        assert all(map(Answer.is_near, together, alone))
        await until(lambda: engine.statistics().requests == 2 * len(requests) and not engine.statistics().running)
        assert engine.statistics().preempted > 0


def test_what_a_model_of_different_layers_keeps_is_measured(model: Path) -> None:
    """Sizes are chosen from what a token and a sequence take in llama.cpp's own memory, whichever layers keep it."""
    loaded = Model(model)
    per_token = 2 * (loaded.facts.kv_values_k + loaded.facts.kv_values_v)
    layers = {"mamba": 0, "lfm2": 2, "gemma3": 6}[loaded.architecture]
    # llama.cpp's log has hundredths of a MiB.
    assert per_token == pytest.approx(layers * 2 * 2 * 2 * 16, abs=2**20 / 100 / 1024)
    assert (loaded.facts.state_bytes > 0) is (loaded.architecture == "mamba")


@pytest.mark.parametrize(("micro_batch_size", "is_whole"), [(256, True), (16, False)])
def test_a_step_of_a_window_can_be_undone_if_it_was_one_pass(
    tmp_path: Path, micro_batch_size: int, *, is_whole: bool
) -> None:
    """After several micro-batches, cells that the sequence's end would still see are gone, and llama.cpp does not say so."""
    sliding_window(tmp_path / "m.gguf")
    model = Model(tmp_path / "m.gguf")
    context = Context(
        model,
        ContextSettings(
            cells=1024,
            batch_size=256,
            micro_batch_size=micro_batch_size,
            num_sequences=1,
            threads=1,
            batch_threads=1,
            flash_attention=True,
        ),
    )

    def compute(start: int, end: int) -> NDArray[np.float32]:
        context.batch.clear()
        context.batch.add(0, start, [3 + 7 * at % 251 for at in range(start, end)], 1)
        context.decode()
        return context.logits()[-1].copy()

    compute(0, 256)
    first = compute(256, 512)
    assert context.remove(0, 256)
    assert bool(np.abs(compute(256, 512) - first).max() < ROUNDING) is is_whole


@pytest.mark.parametrize(
    ("pooling", "problem"),
    [
        (gguf.PoolingType.NONE, "does not pool its outputs into one vector"),
        (gguf.PoolingType.RANK, "has no classification head"),
    ],
)
async def test_what_embeds_without_one_vector_for_a_text_is_not_served(
    tmp_path: Path, pooling: gguf.PoolingType, problem: str
) -> None:
    """Where llama.cpp has no vector for a text, none is read; nor a score where it has no head to make one."""
    hybrid(tmp_path / "m.gguf", pooling)
    with pytest.raises(EngineStartFailed, match=problem):
        await Engine(EngineSettings(model_path=tmp_path / "m.gguf")).start()
