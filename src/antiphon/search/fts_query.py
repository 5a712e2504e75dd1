"""A question as a full-text query: the words that tell something, any of which may occur.

The ranking is BM25 (k1 = 1.2, b = 0.75) of SQLite's FTS5, over words folded to lower case, without accents and,
in English, stemmed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\w+")
# Words in nearly every English text: they rank nothing and make the scan long.
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "no",
        "not",
        "of",
        "on",
        "or",
        "our",
        "should",
        "so",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


def query_words(question: str) -> list[str]:
    """Return the words to look for, each once, in order; empty when there is none."""
    # "_" joins words here and separates them there; split as the index does.
    words = [word for part in _WORD.findall(question.lower()) for word in part.split("_") if word]
    return [word for word in dict.fromkeys(words) if word not in _STOP_WORDS] or list(dict.fromkeys(words))


def match_expression(words: Iterable[str]) -> str:
    """Return the FTS5 expression for chunks with any of ``words``."""
    return " OR ".join(f'"{word}"' for word in words)
