"""What models for search expect before a question and before a passage, so that the two meet.

Many open models are trained with such words, and find less without them. The table follows the models' cards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Words that are put before a question, and before a passage, when they are embedded; never shown or stored."""

    query: str = ""
    passage: str = ""


_NONE = Prefixes()
_REPRESENT = Prefixes("Represent this sentence for searching relevant passages: ")
_INSTRUCT = Prefixes("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ")
_KNOWN = (
    (re.compile(r"e5-.*-instruct"), _INSTRUCT),
    (re.compile(r"(^|[/-])e5-"), Prefixes("query: ", "passage: ")),
    (re.compile(r"nomic-embed-text|modernbert-embed"), Prefixes("search_query: ", "search_document: ")),
    (re.compile(r"embeddinggemma"), Prefixes("task: search result | query: ", "title: none | text: ")),
    (re.compile(r"qwen3-embedding"), _INSTRUCT),
    (re.compile(r"arctic-embed-.*-v2"), Prefixes("query: ")),
    (re.compile(r"bge-(small|base|large)-en|mxbai-embed|arctic-embed"), _REPRESENT),
)


def known_prefixes(model: str) -> Prefixes:
    """Return the prefixes that a model of this name was trained with; empty ones for a model that is not known."""
    name = model.lower()
    return next((prefixes for pattern, prefixes in _KNOWN if pattern.search(name)), _NONE)
