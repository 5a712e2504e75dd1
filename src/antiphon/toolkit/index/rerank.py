"""A second look at what a search found, by a model that reads question and passage together.

Follows the route ``/rerank`` of vLLM, llama.cpp, Text Embeddings Inference behind a gateway, Jina and Cohere:
``{"model", "query", "documents"}`` gives ``{"results": [{"index", "relevance_score"}]}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from antiphon.toolkit.bulk.batchfile import as_object
from antiphon.toolkit.bulk.post import Posted, post
from antiphon.toolkit.calls.guard import AnswerFacts, CallGuard, CallKind, ModelCall
from antiphon.toolkit.calls.options import EmbeddingOptions
from antiphon.toolkit.clients import Client, Connection
from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.index.documents import Hit
from antiphon.toolkit.pacing.token_estimate import estimate_prompt
from antiphon.toolkit.usage import Usage


@dataclass(frozen=True, slots=True)
class Rerank:
    """The model that reranks, at the endpoint of ``client`` (None: the index's).

    It looks at ``num_candidates`` hits of the search, or at as many as are asked for if that is more.
    """

    model: str
    client: Client | None = None
    num_candidates: int = 50
    path: str = "/rerank"

    def __post_init__(self) -> None:
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be >= 1, got {self.num_candidates!r}")


async def reranked(
    hits: Sequence[Hit], question: str, rerank: Rerank, connection: Connection, options: EmbeddingOptions
) -> list[Hit]:
    """Return ``hits``, the most relevant first; their ``score`` is the model's. Raises IndexingError for another answer."""
    if not hits:
        return []
    guard = CallGuard(connection if rerank.client is None else Connection(rerank.client), {**options})
    texts = [f"{hit.title}\n\n{hit.text}" if hit.title else hit.text for hit in hits]

    async def send(call: ModelCall) -> Posted:
        return await post(call.connection, rerank.path, call.request)

    request = {"model": rerank.model, "query": question, "documents": texts}
    call, answer = await guard.answer(_RERANK, request, send)
    async with call.held:
        call.note(answer.headers, 0)
        body = as_object(answer.body)
        call.finish(AnswerFacts(_usage(body), str(body.get("model") or "")))
    scores = _scores(body, len(hits))
    ranked = sorted(range(len(hits)), key=lambda index: -scores[index])
    return [replace(hits[index], score=scores[index]) for index in ranked]


async def _prompt_tokens(_: Connection, request: Mapping[str, Any]) -> int:
    # The question is read with each of the texts.
    texts = cast("Sequence[str]", request["documents"])
    return estimate_prompt({"input": texts}) + len(texts) * estimate_prompt({"input": request["query"]})


_RERANK = CallKind(_prompt_tokens, operation="rerank")


def _usage(body: Mapping[str, Any]) -> Usage | None:
    told: Any = body.get("usage")
    if not isinstance(told, Mapping):
        return None
    usage = cast("Mapping[str, Any]", told)
    total = usage.get("total_tokens")
    return Usage.of_json(usage) or (Usage(total) if isinstance(total, int) else None)


def _scores(body: Mapping[str, Any], count: int) -> list[float]:
    results: Any = body.get("results")
    try:
        scores = {int(one["index"]): float(one["relevance_score"]) for one in cast("Sequence[Any]", results)}
        return [scores[index] for index in range(count)]
    except (TypeError, KeyError, ValueError) as error:
        raise IndexingError(
            f"The server answered without a score for each of {count} texts: {str(dict(body))[:200]}",
            hint="check the model and the path of Rerank",
        ) from error
