"""A reranker in this machine: it reads the question with each document and says how relevant the document is."""

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

import structlog

from antiphon.backends.local.errors import engine_errors
from antiphon.backends.local.tokens import engine_prompt
from antiphon.engine import Engine
from antiphon.engine.ipc.messages import Ids, Prompt, Text
from antiphon.prompting import PromptError, RerankTemplate
from antiphon.protocol.errors import ApiError
from antiphon.protocol.rerank import RerankRequest, RerankResult

_TEMPLATE = "rerank"
_AT_ONCE = 64
"""Documents in one message to the engine: each carries the question, so that many would be large."""
_log = structlog.get_logger("antiphon")


class LocalReranker:
    """One reranker. ``name`` is its catalogue id."""

    kind: Literal["reranker"] = "reranker"

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.is_started = False
        self._template: RerankTemplate | None = None

    @property
    def context_length(self) -> int | None:
        """Tokens of question and document together; None before the model is loaded."""
        return self.engine.info.context_length if self.is_started else None

    async def start(self) -> None:
        """Start the engine."""
        await self.engine.start()
        info = self.engine.info
        if (text := info.templates.get(_TEMPLATE)) is not None:
            self._template = RerankTemplate(text, info.control_tokens)
        if int(info.metadata.get("tokenizer.ggml.token_type_count", 1)) > 1:
            _log.warning(
                "reranker with two token types",
                model=self.name,
                problem="llama.cpp computes question and document with the same type, so its scores differ from the original's",
            )
        self.is_started = True

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return the relevance of each document, from 0 to 1. ``ApiError`` 400 for one that does not fit."""
        relevance: list[float] = []
        num_tokens = 0
        began = time.perf_counter()
        for start in range(0, len(request.documents), _AT_ONCE):
            some = request.documents[start : start + _AT_ONCE]
            with engine_errors(is_chat=False):
                ranked = await self.engine.rank(await self._prompts(request.query, some), request.priority)
            relevance += ranked.relevance
            num_tokens += sum(ranked.lengths)
        return RerankResult(self.name, tuple(relevance), num_tokens, time.perf_counter() - began)

    async def _prompts(self, query: str, documents: Sequence[str]) -> tuple[Prompt, ...]:
        if (template := self._template) is None:
            frame = self.engine.info.pair
            first, between, last = Ids(frame.first), Ids(frame.between), Ids(frame.last)
            return tuple((first, Text(query), between, Text(document), last) for document in documents)

        def render() -> tuple[Prompt, ...]:
            return tuple(engine_prompt(template.pieces(query, document)) for document in documents)

        try:
            return await asyncio.to_thread(render)
        except PromptError as error:
            raise ApiError(400, f"These texts cannot be rendered: {error.message}", param="documents") from error
