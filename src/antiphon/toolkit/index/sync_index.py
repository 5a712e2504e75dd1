"""The index for synchronous code: the calls of ``AsyncIndex``, which holds the logic, and their description."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from antiphon.search.chunking import Chunking
from antiphon.search.prefixes import Prefixes
from antiphon.toolkit._sync import portal
from antiphon.toolkit.calls.options import EmbeddingOptions
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import warned
from antiphon.toolkit.clients import Client, portal_client
from antiphon.toolkit.embeddings.embedder import DEFAULT_EMBEDDING_MODEL, Progress
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache
from antiphon.toolkit.index.answer_stream import AnswerStream
from antiphon.toolkit.index.answers import LONGER, CitedAnswer
from antiphon.toolkit.index.documents import Document, Hit, UpdateReport
from antiphon.toolkit.index.filters import Where
from antiphon.toolkit.index.index import AsyncIndex, Mode
from antiphon.toolkit.index.rerank import Rerank
from antiphon.toolkit.index.store import IndexStatistics


class Index:
    """A persistent index in the file ``path``; made on first use. Use it as ``with``.

    An index belongs to one embedding model and one chunking, since vectors of two models cannot be compared; opening
    it with another raises IndexingError. ``prefixes`` are what the model expects before questions and passages; those of
    well-known models are known by their names. ``client`` None is one from the environment. ``options`` are those of calls for
    embeddings (``EmbeddingOptions``), and hold for ``answer`` as well.
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
        """Bring the index up to date with ``documents``; one that is unchanged costs nothing.

        Of a changed document only chunks with a new text are embedded. ``delete_missing`` removes every document
        that is not among ``documents``. ``on_progress(done, total)`` counts documents. Killed half way, the same
        call goes on where it stopped.
        """
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
        """Return the chunks that answer ``question`` best, at most ``limit``, among documents that satisfy ``where``.

        ``vector`` ranks by meaning, ``bm25`` by words (no call to the server), ``hybrid`` by both.
        ``rerank`` has a model order what they found. Raises FilterError for a filter that is not understood.
        """
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
        """Answer ``question`` from the index, with citations.

        ``options`` are those of a chat, such as ``model`` and ``max_completion_tokens``; the temperature is 0 unless given,
        where the model takes one. With ``chat`` the question is a turn of that conversation, so that it may refer to what
        was said before; its sources are then searched for with the question as the model writes it anew. Warns with
        TruncatedAnswerWarning if the answer was cut at the token limit. Raises OutputError when nothing in the index can
        serve as a source.
        """
        answerer = self._index.answerer(num_sources, where, mode, rerank, chat=chat, options=options)
        made = portal.call(answerer.answer(question))
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
