"""Vector stores: files of a key, cut into chunks with vectors, to be searched by meaning and by words.

``VectorStores`` puts the parts together; the routes and the tool ``file_search`` need it alone.
"""

from antiphon.vector_stores.embedding import StoreEmbedding
from antiphon.vector_stores.ranking import StoreRanking
from antiphon.vector_stores.records import FileBatch, FileCounts, NewStoreFile, StoreFile, VectorStore
from antiphon.vector_stores.searching import Found, SearchQuery, search_query
from antiphon.vector_stores.settings import VectorStoreSettings
from antiphon.vector_stores.vector_stores import VectorStores

__all__ = [
    "FileBatch",
    "FileCounts",
    "Found",
    "NewStoreFile",
    "SearchQuery",
    "StoreEmbedding",
    "StoreFile",
    "StoreRanking",
    "VectorStore",
    "VectorStoreSettings",
    "VectorStores",
    "search_query",
]
