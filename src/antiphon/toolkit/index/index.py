"""The index: documents in, only what changed embedded; questions in, chunks or a cited answer out.

``AsyncIndex`` holds the logic; ``Index`` (``sync_index``) calls it from synchronous code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, cast

from antiphon.search.chunking import Chunk, Chunking
from antiphon.search.fusion import fuse
from antiphon.search.prefixes import Prefixes, known_prefixes
from antiphon.toolkit.arguments import require_one_of, require_several
from antiphon.toolkit.calls.options import EmbeddingOptions, require_options
from antiphon.toolkit.chat.chat import AsyncChat, Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import warned
from antiphon.toolkit.clients import Client, Connection, connect
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL, Embedder, Progress
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.errors import EmbeddingError, IndexingError
from antiphon.toolkit.index.answer_stream import AsyncAnswerStream
from antiphon.toolkit.index.answers import LONGER, Answerer, CitedAnswer
from antiphon.toolkit.index.documents import Document, Hit, UpdateReport, require_utf8
from antiphon.toolkit.index.filters import Where
from antiphon.toolkit.index.rerank import Rerank, reranked
from antiphon.toolkit.index.store import EmbeddedDocument, IndexStatistics, IndexStore, Vector, metadata_json
from antiphon.toolkit.observing import span

Mode = Literal["hybrid", "vector", "bm25"]

# How many chunks each ranking hands to the fusion, per chunk that is asked for.
CANDIDATES_PER_HIT = 5
MIN_CANDIDATES = 50
# Documents are written when about so many chunks are embedded: what a kill may lose.
CHUNKS_PER_WRITE = 512


_Key = tuple[str, str]  # title and text: what a chunk's vector is the vector of
_Group = list[tuple[Document, list[Chunk]]]


class AsyncIndex:
    """A persistent index in the file ``path``, for asynchronous code; see ``Index``, whose methods it has as coroutines.

    Use it as ``async with``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        chunking: Chunking | None = None,
        prefixes: Prefixes | None = None,
        client: Client | None = None,
        cache: EmbeddingCache | None = None,
        **options: Unpack[EmbeddingOptions],
    ) -> None:
        require_options(options, EmbeddingOptions, "An index")
        self._options = options
        self.connection: Connection = connect(client)
        self.chunking = chunking or Chunking()
        self._store = IndexStore(Path(path))
        self._embedder = Embedder(self.connection, model=model, dimensions=dimensions, cache=cache, **options)
        self.prefixes = prefixes or self._prefixes(model)
        self._adopt(
            {
                "model": model,
                "dimensions": dimensions,
                "chunking": [self.chunking.tokens, self.chunking.overlap],
                "prefixes": [self.prefixes.query, self.prefixes.passage],
            }
        )

    async def update(
        self, documents: Iterable[Document], *, delete_missing: bool = False, on_progress: Progress | None = None
    ) -> UpdateReport:
        """Bring the index up to date with ``documents``; one that is unchanged costs nothing."""
        begun = time.monotonic()
        wanted = _by_id(documents)
        known = await asyncio.to_thread(self._store.fingerprints)
        changed = [d for d in wanted.values() if known.get(d.id, ("",))[0] != d.fingerprint(self.chunking)]
        to_embed = {d.id for d in changed}
        retagged = [d for d in wanted.values() if d.id not in to_embed and known[d.id][1] != metadata_json(d)]
        report = UpdateReport(
            num_added=sum(d.id not in known for d in changed),
            num_changed=sum(d.id in known for d in changed) + len(retagged),
            num_unchanged=len(wanted) - len(changed) - len(retagged),
        )
        if retagged:
            await asyncio.to_thread(self._store.set_metadata, retagged)
        report = await self._write(changed, len(wanted), report, on_progress)
        if delete_missing:
            gone = [name for name in known if name not in wanted]
            report = replace(report, num_deleted=await asyncio.to_thread(self._store.delete, gone))
        return replace(report, seconds=time.monotonic() - begun)

    async def delete(self, ids: Iterable[str]) -> int:
        """Remove documents; return how many of ``ids`` there were."""
        require_several("ids", ids)
        return await asyncio.to_thread(self._store.delete, list(ids))

    async def search(
        self,
        question: str,
        *,
        limit: int = 10,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
    ) -> list[Hit]:
        """Return the chunks that answer ``question`` best, at most ``limit``, among documents that satisfy ``where``."""
        if limit < 1:
            raise IndexingError(f"limit must be at least 1, not {limit!r}")
        require_one_of("mode", mode, Mode)
        attributes = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": str(self._store.path)}
        with span("retrieval", attributes, {"gen_ai.retrieval.query.text": question}) as note:
            wanted = limit if rerank is None else max(limit, rerank.num_candidates)
            hits = await self._search(question, wanted, where, mode)
            if rerank is not None:
                hits = (await reranked(hits, question, rerank, self.connection, self._options))[:limit]
            note({"antiphon.num_hits": len(hits)})
        return hits

    async def _search(self, question: str, limit: int, where: Where | None, mode: Mode) -> list[Hit]:
        candidates = max(limit * CANDIDATES_PER_HIT, MIN_CANDIDATES)
        by_words = (
            [] if mode == "vector" else await asyncio.to_thread(self._store.matching, question, candidates, where)
        )
        by_vector = [] if mode == "bm25" else await self._by_vector(question, candidates, where)
        if mode == "hybrid":
            ranked = fuse([i for i, _ in by_vector], [i for i, _ in by_words])
        else:
            ranked = by_words or by_vector
        return await asyncio.to_thread(self._hits, ranked[:limit], by_vector, by_words)

    async def answer(
        self,
        question: str,
        *,
        num_sources: int = 5,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
        chat: Chat | AsyncChat | None = None,
        **options: Unpack[ChatOptions],
    ) -> CitedAnswer:
        """Answer ``question`` from the index, with citations."""
        answerer = self.answerer(num_sources, where, mode, rerank, chat=chat, options=options)
        made = await answerer.answer(question)
        warned(made.reply, step=LONGER)
        return made

    def stream_answer(
        self,
        question: str,
        *,
        num_sources: int = 5,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
        chat: Chat | AsyncChat | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncAnswerStream:
        """Do what ``answer`` does, while the text comes. Nothing is sent before the first iteration."""
        answerer = self.answerer(num_sources, where, mode, rerank, chat=chat, options=options)
        return AsyncAnswerStream(answerer.parts(question, stream=True))

    def answerer(
        self,
        num_sources: int,
        where: Where | None,
        mode: Mode,
        rerank: Rerank | None,
        *,
        chat: Chat | AsyncChat | None,
        options: ChatOptions,
    ) -> Answerer:
        """Return what answers questions in this way, without a warning for an answer that was cut."""
        search = partial(self.search, limit=num_sources, where=where, mode=mode, rerank=rerank)
        return Answerer(self.connection, search, self.num_characters, {**self._options, **options}, chat)

    def statistics(self) -> IndexStatistics:
        """Return an immutable picture of the index."""
        return self._store.statistics()

    def num_characters(self, ids: Iterable[str]) -> int:
        """Return the length of documents together."""
        return self._store.num_characters(ids)

    async def aclose(self) -> None:
        """Close the file, and the client if it was made here."""
        self._store.close()
        await self.connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _prefixes(self, model: str) -> Prefixes:
        """Return the prefixes of the index; one that was made before there were any goes on without."""
        stored = self._store.setting("prefixes")
        if stored is not None:
            return Prefixes(*stored)
        return Prefixes() if self._store.setting("model") is not None else known_prefixes(model)

    def _adopt(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            stored = self._store.setting(name)
            if stored is not None and stored != value:
                self._store.close()
                raise IndexingError(
                    f"{str(self._store.path)!r} was made with {name} {stored!r}, not {value!r}",
                    hint=f"pass {name}={stored!r}, or index into another file",
                )
        self._store.set_settings(settings)

    async def _write(
        self, documents: Sequence[Document], total: int, report: UpdateReport, on_progress: Progress | None
    ) -> UpdateReport:
        done = total - len(documents)
        for group in _groups(documents, self.chunking):
            stored, report = await self._embed(group, report)
            await asyncio.to_thread(self._store.write, stored)
            done += len(group)
            if on_progress is not None:
                on_progress(done, total)
        return report

    async def _embed(self, group: _Group, report: UpdateReport) -> tuple[list[EmbeddedDocument], UpdateReport]:
        """Give the chunks of a group their vectors: those they had, or new ones."""
        known: dict[_Key, Vector] = {}
        for document, _ in group:
            known |= await asyncio.to_thread(self._store.vectors_of, document.id)
        num_embedded = 0
        while missing := [key for key in _keys(group) if key not in known]:
            texts = {self.prefixes.passage + _text_to_embed(*key): key for key in missing}
            made = await self._embedder.embed_fitting(list(texts))
            if made.model:
                self._check_model(made.model)
            known |= {texts[text]: vector for text, vector in made.vectors.items()}
            group = _cut_again(group, {texts[text] for text in made.too_long}, self.chunking)
            num_embedded += len(made.vectors)
            cost = None if report.cost is None or made.cost is None else report.cost + made.cost
            report = replace(report, usage=report.usage + made.usage, cost=cost)
        report = replace(
            report,
            num_embedded=report.num_embedded + num_embedded,
            num_reused=report.num_reused + len(_keys(group)) - num_embedded,
        )
        stored = [
            EmbeddedDocument(d, d.fingerprint(self.chunking), chunks, [known[d.title, chunk.text] for chunk in chunks])
            for d, chunks in group
        ]
        return stored, report

    def _check_model(self, answered_by: str) -> None:
        """Refuse vectors of another model than those that are stored: behind one name a server may put another."""
        stored = self._store.setting("answered_by")
        if stored is None:
            self._store.set_settings({"answered_by": answered_by})
        elif stored != answered_by:
            raise IndexingError(
                f"The index holds vectors of {stored!r}, and now {answered_by!r} answers",
                hint="index into another file",
            )

    async def _by_vector(self, question: str, limit: int, where: Where | None) -> list[tuple[int, float]]:
        made = await self._embedder.embed([self.prefixes.query + question])
        if made.usage.num_calls:
            self._check_model(made.model)
        return await asyncio.to_thread(self._store.nearest, made[0], limit, where)

    def _hits(
        self,
        ranked: Sequence[tuple[int, float]],
        by_vector: Sequence[tuple[int, float]],
        by_words: Sequence[tuple[int, float]],
    ) -> list[Hit]:
        vector_ranks = {chunk: rank for rank, (chunk, _) in enumerate(by_vector, 1)}
        word_ranks = {chunk: rank for rank, (chunk, _) in enumerate(by_words, 1)}
        found = self._store.chunks(chunk for chunk, _ in ranked)
        return [
            Hit(
                document=stored.document,
                title=stored.title,
                text=stored.text,
                start=stored.start,
                end=stored.end,
                score=score,
                vector_rank=vector_ranks.get(chunk),
                bm25_rank=word_ranks.get(chunk),
                metadata=stored.metadata,
            )
            for chunk, score in ranked
            if (stored := found.get(chunk)) is not None
        ]


def _by_id(documents: Iterable[Document]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for document in documents:
        if not isinstance(cast("Any", document), Document):
            kind = type(document).__name__
            raise IndexingError(
                f"An index takes documents, not {kind}", hint="make one: Document('its id', 'its text')"
            )
        if document.id in found:
            raise IndexingError(f"Two documents have the id {document.id!r}", hint="ids must be unique in an index")
        for part, text in (("id", document.id), ("title", document.title), ("text", document.text)):
            require_utf8(text, f"The {part} of the document {document.id!r}")
        # Refused here, before anything is embedded.
        metadata_json(document)
        found[document.id] = document
    return found


def _keys(group: _Group) -> list[_Key]:
    return list(dict.fromkeys((document.title, chunk.text) for document, chunks in group for chunk in chunks))


def _cut_again(group: _Group, too_long: set[_Key], chunking: Chunking) -> _Group:
    """Halve, once more each time, the chunks that the embedding model cannot hold: its tokenizer counts otherwise."""
    return [
        (
            document,
            [part for chunk in chunks for part in _parts(chunk, (document.title, chunk.text) in too_long, chunking)],
        )
        for document, chunks in group
    ]


def _parts(chunk: Chunk, is_too_long: bool, chunking: Chunking) -> list[Chunk]:
    if not is_too_long:
        return [chunk]
    for divisor in (2, 4, 8, 16, 32):
        tokens = max(1, chunking.tokens // divisor)
        parts = Chunking(tokens, 0).chunks(chunk.text)
        if len(parts) > 1:
            return [Chunk(part.text, chunk.start + part.start, chunk.start + part.end) for part in parts]
    raise EmbeddingError(
        f"The embedding model cannot hold even {chunk.text[:40]!r}",
        hint="shorten the document's title",
        text=chunk.text,
    )


def _groups(documents: Sequence[Document], chunking: Chunking) -> Iterator[_Group]:
    """Cut documents into chunks, and yield them in groups that are embedded and written together."""
    group: _Group = []
    size = 0
    for document in documents:
        chunks = chunking.chunks(document.text, document.syntax)
        group.append((document, chunks))
        size += len(chunks)
        if size >= CHUNKS_PER_WRITE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _text_to_embed(title: str, text: str) -> str:
    return f"{title}\n\n{text}" if title and not text.startswith(title) else text
