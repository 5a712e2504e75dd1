"""The real engine on the default model."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.installed import engine_settings

from antiphon.engine import ContextOverflow, Engine, EngineCrashed, EngineStartFailed, InvalidPrompt
from antiphon.engine.ipc.messages import Delta, Finished, Generate, Ids, Prefilled, Prompt, SamplingParams, Text

pytestmark = [pytest.mark.anyio, pytest.mark.model]

GREEDY = SamplingParams(temperature=0)
HELLO: Prompt = (Text("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", special=True),)


async def text_of(engine: Engine, request: Generate) -> str:
    """The text of the first choice."""
    parts = [a.text async for a in engine.generate(request) if isinstance(a, Delta) and a.index == 0]
    return "".join(parts)


async def test_generates_in_order(engine: Engine) -> None:
    """A generation is Prefilled once, then deltas, then Finished for each choice."""
    request = Generate(id=0, prompt=HELLO, n=2, max_tokens=5, sampling=GREEDY)
    answers = [answer async for answer in engine.generate(request)]
    assert isinstance(answers[0], Prefilled)
    assert answers[0].prompt_tokens == 10
    finished = [answer for answer in answers if isinstance(answer, Finished)]
    assert {(answer.index, answer.reason, answer.num_tokens) for answer in finished} == {
        (0, "stop", 2),
        (1, "stop", 2),
    }
    assert isinstance(answers[-1], Finished)


async def test_special_tokens_in_user_text_are_text(engine: Engine) -> None:
    """Control tokens are recognised where the template put them, and are plain text where a user wrote them."""
    forged, real = (await engine.tokenize(((Text("<|im_end|>"),), (Text("<|im_end|>", special=True),)))).ids
    assert real == (2,)
    assert len(forged) > 1


async def test_counting_sends_no_ids(engine: Engine) -> None:
    """The number of a prompt's tokens is that of its ids, which stay in the engine."""
    prompts = ((Text("hello there, world"),), (Text(""),), (Text("<|im_end|>", special=True),))
    assert await engine.count(prompts) == tuple(map(len, (await engine.tokenize(prompts)).ids))


async def test_refuses_what_does_not_fit(engine: Engine) -> None:
    """A prompt beyond the context is refused before any work, with both numbers."""
    with pytest.raises(ContextOverflow) as caught:
        await text_of(engine, Generate(id=0, prompt=(Ids((5,) * 3000),)))
    assert (caught.value.limit, caught.value.requested) == (2048, 3001)


async def test_a_text_that_cannot_fit_is_not_tokenised(engine: Engine) -> None:
    """Megabytes of plain text are refused at once, with a number of tokens that is a lower bound."""
    text = Text("word " * 2_000_000)
    with pytest.raises(ContextOverflow) as caught:
        await text_of(engine, Generate(id=0, prompt=(text,), max_tokens=7))
    assert caught.value.is_lower_bound
    assert caught.value.limit == 2048
    assert 2048 < caught.value.requested - 7 < 2_000_000


async def test_a_short_text_is_tokenised_while_a_long_one_is(engine: Engine) -> None:
    """A request for the tokens of megabytes does not delay another's; leaving it costs nothing."""
    long = asyncio.create_task(engine.tokenize(((Text("word, " * 1_000_000),),)))
    await asyncio.sleep(0)
    assert (await engine.tokenize(((Text("hi"),),))).ids
    assert await text_of(engine, Generate(id=0, prompt=HELLO, max_tokens=3, sampling=GREEDY))
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


@pytest.mark.parametrize("prompt", [(), (Text(""),), (Ids((49152,)),), (Ids((-1,)),)])
async def test_refuses_invalid_prompts(engine: Engine, prompt: Prompt) -> None:
    """Empty prompts and ids outside the vocabulary are invalid, and do no harm."""
    with pytest.raises(InvalidPrompt):
        await text_of(engine, Generate(id=0, prompt=prompt))
    assert engine.state == "ready"


async def test_survives_the_death_of_its_process(engine: Engine) -> None:
    """A killed process fails the requests in it; the next request is answered by a new one."""
    running = engine.generate(Generate(id=0, prompt=HELLO, sampling=SamplingParams(logit_bias={0: -100, 2: -100})))
    await anext(running)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EngineCrashed):
        async for _ in running:
            pass
    assert await text_of(engine, Generate(id=0, prompt=HELLO, max_tokens=3, sampling=GREEDY))
    assert engine.statistics().restarts == 1 or engine.state == "ready"


async def test_concurrent_requests_share_one_process(engine: Engine) -> None:
    """Requests that run side by side are all answered."""
    request = Generate(id=0, prompt=HELLO, max_tokens=8, sampling=GREEDY)
    texts = await asyncio.gather(*(text_of(engine, request) for _ in range(6)))
    assert all(texts)


async def test_says_why_a_file_cannot_be_served(tmp_path: Path) -> None:
    """A file that is missing or not a GGUF fails the start with the file's name and a hint."""
    bad = tmp_path / "model.gguf"
    bad.write_bytes(b"not a model at all")
    for path, reason in ((bad, "could not be loaded"), (tmp_path / "missing.gguf", "there is no file")):
        with pytest.raises(EngineStartFailed, match=reason) as caught:
            await Engine(engine_settings(path)).start()
        assert path.name in caught.value.message
        assert caught.value.hint in (
            "The file is damaged or not a GGUF model; fetch it again.",
            "Check the path of the model.",
        )


async def test_embeds(embedding_model: Path) -> None:
    """An embedding model gives unit vectors that put like near like, whatever else is in the batch."""
    engine = Engine(engine_settings(embedding_model))
    await engine.start()
    try:
        texts = ("machine learning", "deep learning", "cooking recipes")
        embedded = await engine.embed(tuple((Text(text),) for text in texts))
        first, second, third = (np.frombuffer(vector, "<f4") for vector in embedded.vectors)
        assert first @ second > first @ third
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
        assert (await engine.embed(())).vectors == ()
        alone = await engine.embed(((Text("deep learning"),),))
        assert np.frombuffer(alone.vectors[0], "<f4") @ second == pytest.approx(1, abs=1e-4)
        with pytest.raises(ContextOverflow):
            await engine.embed(((Text("word " * 600),),))
        with pytest.raises(InvalidPrompt):
            await text_of(engine, Generate(id=0, prompt=HELLO))
    finally:
        await engine.aclose()


async def test_a_short_request_does_not_wait_for_a_long_one(embedding_model: Path) -> None:
    """Inputs are scheduled round-robin: one text that arrives behind two thousand is in the next batch."""
    engine = Engine(engine_settings(embedding_model))
    await engine.start()
    try:
        long = asyncio.create_task(engine.embed(tuple((Text(f"sentence {n} of a long report"),) for n in range(2000))))
        await asyncio.sleep(0)
        await engine.embed(((Text("a query"),),))
        assert not long.done()
        assert len((await long).vectors) == 2000
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0},
        {"max_tokens": -1},
        {"logprobs": -1},
        {"sampling": SamplingParams(temperature=float("nan"))},
        {"sampling": SamplingParams(temperature=-1)},
        {"sampling": SamplingParams(logit_bias={99999: 1.0})},
        {"sampling": SamplingParams(logit_bias={9: float("nan")})},
        {"sampling": SamplingParams(presence_penalty=float("inf"))},
    ],
)
async def test_refuses_invalid_values(engine: Engine, bad: dict[str, Any]) -> None:
    """Values that the API would not let through are refused here too, and do no harm."""
    with pytest.raises(InvalidPrompt):
        await text_of(engine, Generate(id=0, prompt=HELLO, **bad))
    assert engine.state == "ready"


async def test_an_empty_score_has_an_empty_answer(engine: Engine) -> None:
    """A score of no continuation has an answer, and leaves an engine that is idle."""
    assert (await engine.score(HELLO, ())).logprobs == ()
    assert await text_of(engine, Generate(id=0, prompt=HELLO, max_tokens=3, sampling=GREEDY))


async def test_scores_continuations_and_prompts(engine: Engine) -> None:
    """A score is the sum of the log-probabilities that an echoed prompt reports for the same tokens."""
    continuation = Text(" Hello there")
    scored = await engine.score(HELLO, ((continuation,), (Text(" zebra"),)))
    echo = Generate(id=0, prompt=(*HELLO, continuation), max_tokens=0, echo_logprobs=True)
    started, *_ = [answer async for answer in engine.generate(echo)]
    assert isinstance(started, Prefilled)
    assert started.prompt_logprobs[0].logprob is None
    last = [token.logprob or 0.0 for token in started.prompt_logprobs[-scored.num_tokens[0] :]]
    assert scored.logprobs[0] == pytest.approx(sum(last), abs=1e-2)
    assert scored.logprobs[0] > scored.logprobs[1]
