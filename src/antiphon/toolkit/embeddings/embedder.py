"""Texts into vectors: batched, concurrent, de-duplicated, in order, and cached on disk.

``embed`` waits, ``aembed`` is its asynchronous twin, ``Embedder`` keeps the client, the cache and what was learnt
about the server's limits between calls.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self, Unpack, cast

import numpy as np
import openai
from numpy.typing import NDArray
from openai.types import Embedding
from openai.types.create_embedding_response import Usage as EmbeddingUsage

from antiphon.toolkit._sync import portal
from antiphon.toolkit.calls.dialects import no_answer
from antiphon.toolkit.calls.guard import AnswerFacts, CallGuard, CallKind, ModelCall
from antiphon.toolkit.calls.options import EmbeddingOptions, require_options
from antiphon.toolkit.clients import ApiResponse, Client, Connection, connect, portal_client
from antiphon.toolkit.embeddings.embedding_cache import CachedVector, CacheSpace, EmbeddingCache
from antiphon.toolkit.errors import EmbeddingError
from antiphon.toolkit.pacing.pace import Pace
from antiphon.toolkit.pacing.task_group import all_or_none
from antiphon.toolkit.usage import NO_USAGE, Usage
from antiphon.wire.failures import says_too_large

DEFAULT_EMBEDDING_MODEL = "text-embedding-3-small"
# OpenAI takes 2,048 inputs and 300,000 tokens in a request. Smaller batches lose little and let several run at once.
MAX_BATCH_TEXTS = 512
MAX_BATCH_TOKENS = 100_000
# UTF-8 bytes per token of OpenAI's tokenizers: 4 to 5 in English, 3 in Chinese. The low one never packs too much.
_BYTES_PER_TOKEN = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """The vectors of texts, in the texts' order: float32 [n, dimensions], of unit length.

    ``num_cached`` of the texts came from disk and ``num_repeated`` stood in the list before. ``usage`` is what the
    rest consumed, ``cost`` its price in dollars (None: unknown). numpy takes the value for the matrix it holds.
    """

    vectors: NDArray[np.float32]
    model: str
    usage: Usage
    cost: Decimal | None
    num_cached: int
    num_repeated: int

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self.vectors[index]

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.vectors)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype=dtype, copy=copy)


@dataclass(frozen=True, slots=True, eq=False)
class FittingEmbeddings:
    """The vectors of the texts that fit the model, and the texts that do not. ``model`` is None if none fits."""

    vectors: dict[str, NDArray[np.float32]]
    too_long: list[str]
    model: str | None
    usage: Usage
    cost: Decimal | None


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """What calls brought: vectors, their usage, and the texts refused for their length."""

    vectors: dict[str, CachedVector] = field(default_factory=dict[str, CachedVector])
    usage: Usage = NO_USAGE
    refused: dict[str, openai.BadRequestError] = field(default_factory=dict[str, openai.BadRequestError])

    def joined(self, other: _Made) -> _Made:
        return _Made(self.vectors | other.vectors, self.usage + other.usage, self.refused | other.refused)


class Embedder:
    """Embeds through one client with one model; safe to share between tasks of one event loop.

    ``client`` None is one from the environment, closed by ``async with`` (or ``aclose``). ``cache`` None calls the server
    for every text. Errors of the client pass through unchanged, but an input that no request can hold raises
    EmbeddingError with its place in the list.
    """

    def __init__(
        self,
        client: Client | Connection | None = None,
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        cache: EmbeddingCache | None = None,
        concurrency: int = 4,
        **options: Unpack[EmbeddingOptions],
    ) -> None:
        require_options(options, EmbeddingOptions, "An embedder")
        self._connection = client if isinstance(client, Connection) else connect(client)
        self.space = CacheSpace(self._connection.endpoint.base_url, model, dimensions)
        self._cache = cache
        # Limits are learnt from the first answer; the pace then keeps every later batch within them.
        self._guard = CallGuard(self._connection, {**options}, pace=Pace())
        self._places = asyncio.Semaphore(concurrency)

    async def aclose(self) -> None:
        """Close the client if it was made here."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def embed(self, texts: Sequence[str], *, on_progress: Progress | None = None) -> Embeddings:
        """Return the vectors of ``texts``; ``on_progress`` gets how many of the distinct texts are done."""
        _check(texts)
        unique = list(dict.fromkeys(texts))
        cached = await self._cached(unique)
        made = await self._embed_all([text for text in unique if text not in cached], len(unique), on_progress)
        while stale := _stale(cached, made.vectors):
            # Another model answers now than when these were stored; vectors of two models cannot be compared.
            made = made.joined(await self._embed_all(stale, len(unique), on_progress))
        for text, error in made.refused.items():
            raise EmbeddingError(
                f"texts[{texts.index(text)}], of {len(text)} characters, was refused for its length: {text[:60]!r}...",
                hint="cut it first: Chunking(tokens=...).chunks(text), or use an Index, which does",
                text=text,
            ) from error
        known = cached | made.vectors
        return Embeddings(
            vectors=_matrix([known[text].vector for text in texts]),
            model=known[texts[0]].answered_by if texts else self.space.model,
            usage=made.usage,
            cost=self._cost(made.usage),
            num_cached=len(unique) - len(made.vectors),
            num_repeated=len(texts) - len(unique),
        )

    async def embed_fitting(self, texts: Sequence[str]) -> FittingEmbeddings:
        """Embed distinct texts; those that the server refuses for their length are named instead of raised."""
        cached = await self._cached(texts)
        made = await self._embed_all([text for text in texts if text not in cached], len(texts), None)
        while stale := _stale(cached, made.vectors):
            made = made.joined(await self._embed_all(stale, len(texts), None))
        known = cached | made.vectors
        model = next((vector.answered_by for vector in known.values()), None)
        vectors = {text: vector.vector for text, vector in known.items()}
        return FittingEmbeddings(vectors, list(made.refused), model, made.usage, self._cost(made.usage))

    def _cost(self, usage: Usage) -> Decimal | None:
        if not usage.num_calls:
            return Decimal(0)
        return self._guard.cost(usage, self.space.model, self._connection)

    async def _cached(self, texts: Sequence[str]) -> dict[str, CachedVector]:
        if self._cache is None:
            return {}
        keys = {self.space.key(text): text for text in texts}
        found = await asyncio.to_thread(self._cache.get, list(keys))
        return {keys[key]: vector for key, vector in found.items()}

    async def _embed_all(self, texts: Sequence[str], total: int, on_progress: Progress | None) -> _Made:
        made = _Made()
        before = total - len(texts)
        async with all_or_none(self._embed_batch(batch) for batch in batches(texts)) as running:
            for task in running:
                made = made.joined(await task)
                if on_progress is not None:
                    on_progress(before + len(made.vectors), total)
        return made

    async def _embed_batch(self, texts: Sequence[str]) -> _Made:
        try:
            answer = await self._call(texts)
        except openai.BadRequestError as error:
            if not _is_too_large(error):
                raise
            if len(texts) == 1:
                return _Made(refused={texts[0]: error})
            # Halving finds which text it is, and embeds the others.
            middle = len(texts) // 2
            left = await self._embed_batch(texts[:middle])
            return left.joined(await self._embed_batch(texts[middle:]))
        vectors = _items(answer.value)
        if len(vectors) != len(texts):
            raise EmbeddingError(f"{len(texts)} texts were sent, and {len(vectors)} vectors came back")
        made = {
            text: CachedVector(_unit(item.embedding, text), answer.value.model)
            for text, item in zip(texts, vectors, strict=True)
        }
        if self._cache is not None:
            await asyncio.to_thread(self._cache.put, {self.space.key(text): vector for text, vector in made.items()})
        return _Made(made, _usage(answer.value) or Usage())

    async def _call(self, texts: Sequence[str]) -> ApiResponse[Any]:
        request: dict[str, Any] = {"model": self.space.model, "input": list(texts)}
        if self.space.dimensions is not None:
            request["dimensions"] = self.space.dimensions

        async def send(call: ModelCall) -> ApiResponse[Any]:
            return await call.connection.embeddings(call.request, max_retries=self._guard.max_retries)

        async with self._places:
            call, answer = await self._guard.answer(EMBEDDINGS, request, send)
            async with call.held:
                call.note(answer.headers, answer.num_retries)
                answered_by = getattr(answer.value, "model", None)
                call.finish(AnswerFacts(_usage(answer.value), answered_by if isinstance(answered_by, str) else ""))
        return answer


async def aembed(
    texts: Sequence[str],
    *,
    model: str = DEFAULT_EMBEDDING_MODEL,
    dimensions: int | None = None,
    client: Client | None = None,
    cache: EmbeddingCache | bool = True,
    concurrency: int = 4,
    on_progress: Progress | None = None,
    **options: Unpack[EmbeddingOptions],
) -> Embeddings:
    """Do what ``embed`` does, from asynchronous code."""
    own = EmbeddingCache() if cache is True else None
    used = own if own is not None else (cache if isinstance(cache, EmbeddingCache) else None)
    try:
        async with connect(client) as connection:
            embedder = Embedder(
                connection, model=model, dimensions=dimensions, cache=used, concurrency=concurrency, **options
            )
            return await embedder.embed([texts] if isinstance(texts, str) else texts, on_progress=on_progress)
    finally:
        if own is not None:
            own.close()


def embed(
    texts: Sequence[str],
    *,
    model: str = DEFAULT_EMBEDDING_MODEL,
    dimensions: int | None = None,
    client: Client | None = None,
    cache: EmbeddingCache | bool = True,
    concurrency: int = 4,
    on_progress: Progress | None = None,
    **options: Unpack[EmbeddingOptions],
) -> Embeddings:
    """Embed ``texts``; ``cache`` True is the file of the user, False none.

    Raises EmbeddingError for an empty or over-long text, ClientError without a usable client, else the client's own.
    """
    return portal.call(
        aembed(
            texts,
            model=model,
            dimensions=dimensions,
            client=portal_client(client),
            cache=cache,
            concurrency=concurrency,
            on_progress=on_progress,
            **options,
        )
    )


async def _prompt_tokens(_: Connection, request: Mapping[str, Any]) -> int:
    return sum(num_tokens_at_most(text) for text in request["input"])


EMBEDDINGS = CallKind(_prompt_tokens, operation="embeddings")


def num_tokens_at_most(text: str) -> int:
    """Return a number of tokens that ``text`` hardly exceeds: for packing and reserving, not for reporting."""
    return len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN + 1


def batches(
    texts: Sequence[str], max_texts: int = MAX_BATCH_TEXTS, max_tokens: int = MAX_BATCH_TOKENS
) -> list[list[str]]:
    """Cut ``texts``, in order, into batches within both bounds; a text larger than the bound goes alone."""
    made: list[list[str]] = []
    room = 0
    for text in texts:
        n_tokens = num_tokens_at_most(text)
        if not made or len(made[-1]) == max_texts or n_tokens > room:
            made.append([])
            room = max_tokens
        made[-1].append(text)
        room -= n_tokens
    return made


def _items(value: object) -> list[Embedding]:
    """Return the vectors of an answer, in the order of the inputs. Raises EmbeddingError for an answer without any."""
    data: Any = getattr(value, "data", None)
    items = cast("list[Embedding]", data) if isinstance(data, list) else []
    if not items or not all(isinstance(getattr(item, "embedding", None), list) for item in items):
        error = no_answer("vectors", value)
        raise EmbeddingError(error.message, hint=error.hint)
    return sorted(items, key=lambda item: item.index)


def _usage(value: object) -> Usage | None:
    usage: Any = getattr(value, "usage", None)
    return Usage.of(usage) if isinstance(usage, EmbeddingUsage) else None


def _check(texts: Sequence[str]) -> None:
    for place, text in enumerate(texts):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] # callers need not be typed
            raise EmbeddingError(f"texts[{place}] must be a string, not {type(text).__name__}")
        if not text:
            raise EmbeddingError(f"texts[{place}] is empty, and an empty text has no vector", hint="leave it out")


def _stale(cached: Mapping[str, CachedVector], made: Mapping[str, CachedVector]) -> list[str]:
    """List the cached texts whose vectors are of another model than the one that answers now."""
    old = {text: vector for text, vector in cached.items() if text not in made}
    current = {vector.answered_by for vector in made.values()}
    if len(current) > 1:
        raise EmbeddingError(f"Several models answered, and their vectors cannot be compared: {sorted(current)}")
    if not current:
        current = {name for name, _ in Counter(vector.answered_by for vector in old.values()).most_common(1)}
    return [text for text, vector in old.items() if vector.answered_by not in current]


def _matrix(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if not vectors:
        return np.empty((0, 0), dtype=np.float32)
    if len(sizes := {len(vector) for vector in vectors}) > 1:
        raise EmbeddingError(f"The server answered with vectors of different dimensions: {sorted(sizes)}")
    return np.stack(vectors)


def _unit(values: Sequence[float], text: str) -> NDArray[np.float32]:
    vector = np.asarray(values, dtype=np.float32)
    length = float(np.linalg.norm(vector))
    if not length > 0:
        raise EmbeddingError(f"The server answered with a vector of no direction for {text[:60]!r}")
    return vector / np.float32(length)


def _is_too_large(error: openai.BadRequestError) -> bool:
    return says_too_large(str(error))
