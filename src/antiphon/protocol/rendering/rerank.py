"""The answer of ``POST /v1/rerank``."""

from typing import Any

from antiphon.protocol.ids import new_id
from antiphon.protocol.rendering.frames import encode
from antiphon.protocol.rerank import RerankRequest, RerankResult


def render_rerank(request: RerankRequest, result: RerankResult) -> bytes:
    """Return the answer as JSON: the most relevant document first; of equal ones, the earlier."""
    order = sorted(range(len(result.relevance)), key=lambda index: -result.relevance[index])[: request.top_n]
    results: list[dict[str, Any]] = []
    for index in order:
        one: dict[str, Any] = {"index": index, "relevance_score": result.relevance[index]}
        results.append(one | {"document": {"text": request.documents[index]}} if request.return_documents else one)
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    return encode({"id": new_id("rerank"), "object": "list", "model": result.model, "results": results, "usage": usage})
