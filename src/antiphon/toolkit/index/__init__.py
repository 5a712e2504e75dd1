"""A persistent, incremental index of documents: search by meaning and by words, answers with citations."""

from antiphon.toolkit.index.answer_stream import AnswerStream, AsyncAnswerStream
from antiphon.toolkit.index.answers import Citation, CitedAnswer, Saving
from antiphon.toolkit.index.documents import Document, FolderDocuments, Hit, SkippedFile, UpdateReport, read_folder
from antiphon.toolkit.index.index import AsyncIndex
from antiphon.toolkit.index.rerank import Rerank
from antiphon.toolkit.index.store import IndexStatistics
from antiphon.toolkit.index.sync_index import Index

__all__ = [
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncIndex",
    "Citation",
    "CitedAnswer",
    "Document",
    "FolderDocuments",
    "Hit",
    "Index",
    "IndexStatistics",
    "Rerank",
    "Saving",
    "SkippedFile",
    "UpdateReport",
    "read_folder",
]
