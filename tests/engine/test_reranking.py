"""Rerankers on the real llama.cpp: the relevance of a document as plain numpy computes it from the same weights."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny_models import RERANKER_HEADS, RERANKER_WORDS, plain_attention, reranker, yes_no_reranker
from tests.installed import needs_llama
from tests.models import bert_reference

from antiphon.engine import ContextOverflow, Engine, EngineSettings, EngineStartFailed
from antiphon.engine.errors import InvalidPrompt
from antiphon.engine.ipc.messages import Ids, PairFrame, Prompt, Text
from antiphon.gguf_file import files_of

pytestmark = [pytest.mark.anyio, needs_llama]

QUESTION = "how long bread bakes"
DOCUMENTS = ("bread bakes an hour", "tide", "how how how", "an hour bread bread bread tide")
CLASS, SEPARATOR = RERANKER_WORDS.index("[CLS]"), RERANKER_WORDS.index("[SEP]")
ROUNDING = 2e-3
"""llama.cpp keeps some products in half precision."""


@asynccontextmanager
async def serving(model: Path, **settings: Any) -> AsyncGenerator[Engine]:
    engine = Engine(EngineSettings(model_path=model, threads=1, batch_threads=1, **settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


def pair(engine: Engine, question: str, document: str) -> Prompt:
    frame = engine.info.pair
    return (Ids(frame.first), Text(question), Ids(frame.between), Text(document), Ids(frame.last))


def ids_of(text: str) -> list[int]:
    return [RERANKER_WORDS.index(word) for word in text.split()]


@pytest.mark.parametrize("names_pooling", [True, False])
async def test_relevance_is_what_the_weights_say(tmp_path: Path, names_pooling: bool) -> None:
    """Documents in one batch, of different lengths; also of a file that does not say that it ranks, if the settings do."""
    path = tmp_path / "reranker.gguf"
    weights = reranker(path, names_pooling=names_pooling)
    async with serving(path, pooling="auto" if names_pooling else "rank") as engine:
        assert engine.info.kind == "reranker"
        assert engine.info.pair == PairFrame((CLASS,), (SEPARATOR,), (SEPARATOR,))
        ranked = await engine.rank(tuple(pair(engine, QUESTION, text) for text in DOCUMENTS))
    prompts = [[CLASS, *ids_of(QUESTION), SEPARATOR, *ids_of(text), SEPARATOR] for text in DOCUMENTS]
    wanted = [bert_reference.relevance(weights, ids, num_heads=RERANKER_HEADS) for ids in prompts]
    assert ranked.relevance == pytest.approx(wanted, abs=ROUNDING)
    assert max(wanted) - min(wanted) > 10 * ROUNDING
    assert ranked.lengths == tuple(map(len, prompts))


async def test_a_model_in_several_files_ranks(tmp_path: Path) -> None:
    """The classification head may be in any of them; the weights stay as they are, and the start says why."""
    reranker(tmp_path / "reranker.gguf", tensors_per_file=10)
    first, *others = files_of(tmp_path / "reranker-00001-of-00003.gguf")
    assert all(path.exists() for path in (first, *others))
    async with serving(first, cache_directory=tmp_path / "copies") as engine:
        assert engine.info.settings["weight_format"] == "as-is"
        ranked = await engine.rank(tuple(pair(engine, QUESTION, text) for text in DOCUMENTS))
    assert len(set(ranked.relevance)) == len(DOCUMENTS)


async def test_many_requests_at_once_have_their_own_answers(tmp_path: Path) -> None:
    """Documents of several requests share batches, and each gets what it gets alone."""
    path = tmp_path / "reranker.gguf"
    reranker(path)
    async with serving(path) as engine:
        alone = [(await engine.rank((pair(engine, QUESTION, text),))).relevance[0] for text in DOCUMENTS]
        prompts = tuple(pair(engine, QUESTION, text) for text in DOCUMENTS)
        together = await asyncio.gather(*(engine.rank(prompts[number:]) for number in range(len(prompts))))
        for number, ranked in enumerate(together):
            assert ranked.relevance == pytest.approx(alone[number:], abs=ROUNDING)
        assert (await engine.rank(())).relevance == ()


async def test_a_model_that_answers_yes_or_no_gives_the_probability_of_yes(tmp_path: Path) -> None:
    """Its template comes with the model's description; the answer is a probability already."""
    path = tmp_path / "decoder.gguf"
    yes_no_reranker(path)
    async with serving(path, context_size=256) as engine:
        assert "{query}" in engine.info.templates["rerank"]
        ranked = await engine.rank(tuple((Text(f"{QUESTION}\n{text}"),) for text in DOCUMENTS))
    assert all(0 < each < 1 for each in ranked.relevance)
    assert len(set(ranked.relevance)) == len(DOCUMENTS)


async def test_a_pair_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """With the tokens that it has; the others of the request are not computed."""
    path = tmp_path / "reranker.gguf"
    reranker(path)
    async with serving(path) as engine:
        with pytest.raises(ContextOverflow) as refused:
            await engine.rank((pair(engine, QUESTION, "tide"), pair(engine, QUESTION, "bread " * 64)))
        assert (refused.value.limit, refused.value.requested) == (64, 4 + 64 + 3)


async def test_a_reranker_makes_no_embeddings(tmp_path: Path) -> None:
    """Nor does it generate: it says what it does."""
    path = tmp_path / "reranker.gguf"
    reranker(path)
    async with serving(path) as engine:
        with pytest.raises(InvalidPrompt, match="ranks documents only"):
            await engine.embed(((Text("tide"),),))


async def test_a_chat_model_ranks_nothing(tmp_path: Path) -> None:
    """A request to rank is refused by it."""
    path = tmp_path / "chat.gguf"
    plain_attention(path)
    async with serving(path, context_size=256) as engine:
        with pytest.raises(InvalidPrompt):
            await engine.rank(((Text("tide"),),))


async def test_a_model_with_several_classes_is_not_served_as_a_reranker(tmp_path: Path) -> None:
    """None of its outputs says how relevant a document is."""
    path = tmp_path / "classifier.gguf"
    reranker(path, classes=3)
    with pytest.raises(EngineStartFailed, match="3 classes"):
        async with serving(path):
            pass
