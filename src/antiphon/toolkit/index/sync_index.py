"""The index for synchronous code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from antiphon.search.chunking import Chunking
from antiphon.toolkit._sync import portal
from antiphon.toolkit.calls.options import EmbeddingOptions
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.clients import Client, portal_client
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL, Progress
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.embeddings.prefixes import Prefixes
from antiphon.toolkit.index.answer_stream import AnswerStream
from antiphon.toolkit.index.answers import CitedAnswer
from antiphon.toolkit.index.documents import Document, Hit, UpdateReport
from antiphon.toolkit.index.filters import Where
from antiphon.toolkit.index.index import AsyncIndex, Mode
from antiphon.toolkit.index.rerank import Rerank
from antiphon.toolkit.index.store import IndexStatistics


class Index:
    """What ``AsyncIndex`` is, for synchronous code: the same arguments, the same errors. Use it as ``with``."""

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
        own = portal_client(client)
        self._index = AsyncIndex(
            path,
            model=model,
            dimensions=dimensions,
            chunking=chunking,
            prefixes=prefixes,
            client=own,
            cache=cache,
            **options,
        )

    @property
    def prefixes(self) -> Prefixes:
        """What is put before questions and passages when they are embedded."""
        return self._index.prefixes

    def update(
        self, documents: Iterable[Document], *, delete_missing: bool = False, on_progress: Progress | None = None
    ) -> UpdateReport:
        """Bring the index up to date with ``documents``; see ``AsyncIndex.update``."""
        return portal.call(self._index.update(documents, delete_missing=delete_missing, on_progress=on_progress))

    def delete(self, ids: Iterable[str]) -> int:
        """Remove documents; return how many of ``ids`` there were."""
        return portal.call(self._index.delete(ids))

    def search(
        self,
        question: str,
        *,
        limit: int = 10,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
    ) -> list[Hit]:
        """Return the chunks that answer ``question`` best; see ``AsyncIndex.search``."""
        return portal.call(self._index.search(question, limit=limit, where=where, mode=mode, rerank=rerank))

    def answer(
        self,
        question: str,
        *,
        num_sources: int = 5,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
        chat: Chat | None = None,
        **options: Unpack[ChatOptions],
    ) -> CitedAnswer:
        """Answer ``question`` from the index, with citations; see ``AsyncIndex.answer``."""
        made = self._index.answer(
            question, num_sources=num_sources, where=where, mode=mode, rerank=rerank, chat=chat, **options
        )
        return portal.call(made)

    def stream_answer(
        self,
        question: str,
        *,
        num_sources: int = 5,
        where: Where | None = None,
        mode: Mode = "hybrid",
        rerank: Rerank | None = None,
        chat: Chat | None = None,
        **options: Unpack[ChatOptions],
    ) -> AnswerStream:
        """Do what ``answer`` does, while the text comes. Nothing is sent before the first iteration."""
        return AnswerStream(
            self._index.stream_answer(
                question, num_sources=num_sources, where=where, mode=mode, rerank=rerank, chat=chat, **options
            )
        )

    def statistics(self) -> IndexStatistics:
        """Return an immutable picture of the index."""
        return self._index.statistics()

    def close(self) -> None:
        """Close the file."""
        portal.call(self._index.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
