"""The file of an index as the toolkit uses it: with filters in its own language, and its own errors."""

from __future__ import annotations

from typing import ClassVar

from antiphon.errors import AntiphonError
from antiphon.search import index_file
from antiphon.search.document import Document
from antiphon.search.errors import SearchError
from antiphon.search.index_file import EmbeddedDocument, IndexFile, IndexStatistics, Vector
from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.index.filters import Where, compile_filter

__all__ = ["EmbeddedDocument", "IndexStatistics", "IndexStore", "Vector", "metadata_json"]


class IndexStore(IndexFile):
    """One index file. Raises IndexingError, and FilterError for a filter that is not understood."""

    error: ClassVar[type[AntiphonError]] = IndexingError

    def nearest(self, query: Vector, limit: int, where: Where | None) -> list[tuple[int, float]]:
        """Return ``(chunk id, cosine)`` of the nearest chunks among documents that satisfy ``where``."""
        return self.by_vector(query, limit, None if where is None else compile_filter(where, "metadata"))

    def matching(self, question: str, limit: int, where: Where | None) -> list[tuple[int, float]]:
        """Return ``(chunk id, BM25 score)`` of the chunks that match best among documents that satisfy ``where``."""
        return self.by_words(question, limit, None if not where else compile_filter(where, "metadata"))


def metadata_json(document: Document) -> str:
    """Return the metadata as stored. Raises IndexingError for what is not JSON."""
    try:
        return index_file.metadata_json(document)
    except SearchError as error:
        raise IndexingError(error.message) from error
