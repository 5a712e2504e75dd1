"""A request to rank documents by their relevance to a question, validated, and its result."""

import msgspec

from antiphon.protocol.priority import Priority


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``top_n`` None: all documents are in the answer. ``return_documents``: with their texts."""

    model: str
    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    return_documents: bool = False
    priority: Priority = "interactive"


class RerankResult(msgspec.Struct, frozen=True):
    """``relevance`` has a number for each document, in the order of the request; from 0 to 1 for a model of this machine.

    ``prompt_tokens`` counts the question with each of the documents.
    """

    model: str
    relevance: tuple[float, ...]
    prompt_tokens: int
    compute_s: float | None = None
