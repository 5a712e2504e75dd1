"""Embeddings against the real server over a scripted backend."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from pathlib import Path

import numpy as np
import openai
import pytest
from tests.serving import Running, running
from tests.toolkit.short_backend import ShortBackend
from tests.waiting import PATIENCE_S

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Script
from antiphon.toolkit.embeddings.embedder import MAX_BATCH_TOKENS, batches, embed, num_tokens_at_most
from antiphon.toolkit.embeddings.embedding_cache import CachedVector, CacheSpace, EmbeddingCache
from antiphon.toolkit.embeddings.similarity import cosine_similarity
from antiphon.toolkit.errors import EmbeddingError

MODEL = "text-embedding-3-small"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    with running(ScriptedBackend(Script(embedding_models=(MODEL, "other"))), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def client(server: Running) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any") as made:
        yield made


@pytest.fixture
def cache(tmp_path: Path) -> Generator[EmbeddingCache]:
    made = EmbeddingCache(tmp_path / "cache.sqlite")
    yield made
    made.close()


def test_order_is_kept_and_repeats_are_sent_once(client: openai.OpenAI) -> None:
    """1,500 texts in several batches, some repeated: each row is its text's vector."""
    texts = [f"text {n % 1_200}" for n in range(1_500)]
    made = embed(texts, client=client, cache=False)
    alone = embed(["text 7"], client=client, cache=False)
    assert made.vectors.shape[0] == 1_500
    assert made.num_repeated == 300
    np.testing.assert_allclose(made[7], alone[0], rtol=1e-5)
    np.testing.assert_array_equal(made[7], made[1_207])
    assert made.usage.num_calls == 3


def test_a_second_call_reads_the_disk(client: openai.OpenAI, cache: EmbeddingCache) -> None:
    """What was embedded once costs nothing again, and is the same."""
    first = embed(["a", "b"], client=client, cache=cache)
    again = embed(["b", "c", "a"], client=client, cache=cache)
    assert (first.num_cached, again.num_cached) == (0, 2)
    np.testing.assert_array_equal(again[2], first[0])
    assert embed(["a"], client=client, cache=cache).usage.num_calls == 0


def test_model_and_dimensions_are_kept_apart(client: openai.OpenAI, cache: EmbeddingCache) -> None:
    """The same text under another name or length is another vector."""
    whole = embed(["a"], client=client, cache=cache)
    short = embed(["a"], client=client, cache=cache, dimensions=8)
    other = embed(["a"], client=client, cache=cache, model="other")
    assert short.vectors.shape == (1, 8)
    assert (short.num_cached, other.num_cached) == (0, 0)
    assert whole.vectors.shape[1] != 8


def test_vectors_of_a_replaced_model_are_made_anew(client: openai.OpenAI, cache: EmbeddingCache) -> None:
    """When the name answers with another model than the cache holds, nothing old is mixed in."""
    embed(["a"], client=client, cache=cache)
    space = CacheSpace(str(client.base_url).rstrip("/"), MODEL, None)
    old = cache.get([space.key("a")])[space.key("a")]
    cache.put({space.key("a"): CachedVector(-old.vector, "an-older-model")})
    made = embed(["a", "b"], client=client, cache=cache)
    np.testing.assert_array_equal(made[0], old.vector)
    assert made.num_cached == 0


def test_an_empty_text_is_named(client: openai.OpenAI) -> None:
    """The API refuses it; the message says which one it is, before anything is sent."""
    with pytest.raises(EmbeddingError, match=r"texts\[1\] is empty"):
        embed(["a", ""], client=client, cache=False)


def test_no_texts_give_no_vectors(client: openai.OpenAI) -> None:
    """Nothing is asked for nothing."""
    assert embed([], client=client, cache=False).vectors.shape == (0, 0)


def test_an_over_long_text_is_found_and_named(tmp_path: Path) -> None:
    """One text of many is too long for the model: the error says which, and the others are in the cache."""
    cache = EmbeddingCache(tmp_path / "c.sqlite")
    texts = [*(f"text {n}" for n in range(20)), "word " * 200, "last"]
    with running(ShortBackend(50), tmp_path) as up, openai.OpenAI(base_url=up.url, api_key="any") as client:
        with pytest.raises(EmbeddingError, match=r"texts\[20\]") as caught:
            embed(texts, client=client, cache=cache)
        assert embed(texts[:20], client=client, cache=cache).usage.num_calls == 0
    cache.close()
    assert caught.value.text == texts[20]


def test_batches_keep_both_bounds() -> None:
    """No batch is above the count or the tokens, none is empty, and together they are the list."""
    texts = ["x" * size for size in (3, 299_000, 5, 400_000, 7)] + ["y"] * 600
    made = batches(texts)
    assert [text for batch in made for text in batch] == texts
    for batch in made:
        assert 0 < len(batch) <= 512
        assert len(batch) == 1 or sum(map(num_tokens_at_most, batch)) <= MAX_BATCH_TOKENS


def _write(path: str, first: int) -> None:
    cache = EmbeddingCache(Path(path))
    for n in range(first, first + 50):
        cache.put({str(n).encode(): CachedVector(np.ones(4, dtype=np.float32), "m")})
    cache.close()


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    """Four processes write at once; every row is there."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path / "c.sqlite"), n * 50)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE_S)
    assert [writer.exitcode for writer in writers] == [0, 0, 0, 0]
    cache = EmbeddingCache(tmp_path / "c.sqlite")
    assert len(cache) == 200
    cache.close()


def test_cosine_similarity_by_shape() -> None:
    """Two vectors give a number, a vector and a matrix a vector, two matrices a matrix."""
    east, north = [2.0, 0.0], [0.0, 3.0]
    assert cosine_similarity(east, east) == pytest.approx(1.0)
    assert cosine_similarity(east, north) == pytest.approx(0.0)
    assert np.asarray(cosine_similarity(east, [east, north])).tolist() == [1.0, 0.0]
    assert np.asarray(cosine_similarity([east, north], [north])).shape == (2, 1)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([0.0, 0.0], [1.0, 2.0]), (1.0, [1.0])])
def test_cosine_of_what_has_none_is_refused(a: object, b: object) -> None:
    """Unequal dimensions, a vector of zeros and a lone number have no angle."""
    with pytest.raises(ValueError, match=r"cannot be compared|no direction|expected a vector"):
        cosine_similarity(a, b)  # type: ignore[arg-type]
