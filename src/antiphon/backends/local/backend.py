"""Models on this machine: prompting around one engine per model."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from fnmatch import fnmatchcase

from antiphon.backends.base import CALLED, BackendModel, Countable, Health, PartStatistics, no_reranker
from antiphon.backends.local.chat import LocalChat
from antiphon.backends.local.embedding import LocalEmbedding
from antiphon.backends.local.errors import engine_errors
from antiphon.backends.local.reranking import LocalReranker
from antiphon.backends.local.tokens import plain_prompt
from antiphon.engine import Engine
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError, model_not_found
from antiphon.protocol.events import Event
from antiphon.protocol.rerank import RerankRequest, RerankResult

LocalModel = LocalChat | LocalEmbedding | LocalReranker


class LocalBackend:
    """The models of this machine by name; a ``Backend``.

    ``names`` maps every name that is listed (ids and aliases) to its model. ``patterns`` are further names, which the router
    sends here when nothing else serves them. The engines are started by ``start`` and ended by ``aclose``.
    """

    def __init__(self, names: Mapping[str, LocalModel], patterns: Sequence[tuple[str, LocalModel]] = ()) -> None:
        self._names = dict(names)
        self._patterns = tuple(patterns)
        self._created = int(time.time())

    @property
    def models(self) -> Sequence[BackendModel]:
        return [
            BackendModel(
                id=name,
                created=self._created,
                owned_by="antiphon",
                kind=model.kind,
                context_length=model.context_length,
            )
            for name, model in self._names.items()
        ]

    @property
    def _distinct(self) -> list[LocalModel]:
        return list({id(model): model for model in self._names.values()}.values())

    async def start(self) -> None:
        """Start every engine; returns when all are ready, raises the first ``EngineError``."""
        async with asyncio.TaskGroup() as group:
            for model in self._distinct:
                group.create_task(model.start())

    def serves(self, model: str) -> bool:
        return model in self._names

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        return self._chat_model(request.model, "chat/completions").chat(request)

    def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        return self._chat_model(request.model, "completions").complete(request)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        model = self._find(request.model)
        if not isinstance(model, LocalEmbedding):
            raise ApiError(
                403,
                f"You are not allowed to generate embeddings from this model: `{request.model}` is {CALLED[model.kind]}.",
                param="model",
            )
        return await model.embed(request)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        model = self._find(request.model)
        if not isinstance(model, LocalReranker):
            raise no_reranker(request.model, model.kind)
        return await model.rerank(request)

    async def count_tokens(self, request: Countable) -> int:
        model = self._find(request.model)
        if isinstance(request, ChatRequest):
            return await self._chat_model(request.model, "chat/completions").count_tokens(request)
        texts = request.prompts if isinstance(request, CompletionRequest) else request.inputs
        with engine_errors():
            lengths = await model.engine.count(tuple(plain_prompt(text) for text in texts))
        return sum(lengths)

    def health(self) -> Health:
        states = {model.name: _state(model) for model in self._distinct}
        detail = ", ".join(f"{name}: {state}" for name, state in states.items())
        if all(state == "ready" for state in states.values()):
            return Health("ready", detail)
        return Health("down" if {"failed", "stopped"} & set(states.values()) else "loading", detail)

    def statistics(self) -> Sequence[PartStatistics]:
        return [PartStatistics("engine", {"model": m.name}, m.engine.statistics()) for m in self._distinct]

    async def aclose(self) -> None:
        await asyncio.gather(*(model.engine.aclose() for model in self._distinct))

    @property
    def engines(self) -> Sequence[Engine]:
        """The engine of each model."""
        return [model.engine for model in self._distinct]

    @property
    def engine_of(self) -> Mapping[str, Engine]:
        """The engine of each model, by the model's own name."""
        return {model.name: model.engine for model in self._distinct}

    @property
    def model_names(self) -> Mapping[str, str]:
        """Every listed name, and the own name of the model that it leads to."""
        return {name: model.name for name, model in self._names.items()}

    def _find(self, name: str) -> LocalModel:
        model = self._names.get(name)
        if model is None:
            model = next((model for pattern, model in self._patterns if fnmatchcase(name, pattern)), None)
        if model is None:
            raise model_not_found(name)
        if not model.is_started:
            raise ApiError(
                503,
                f"The model `{name}` is still being loaded; please try again shortly.",
                type="server_error",
                code="model_loading",
                headers={"Retry-After": "1"},
            )
        return model

    def _chat_model(self, name: str, endpoint: str) -> LocalChat:
        model = self._find(name)
        if not isinstance(model, LocalChat):
            raise ApiError(
                404,
                f"This is not a chat model and thus not supported in the v1/{endpoint} endpoint: `{name}` is {CALLED[model.kind]}.",
                param="model",
            )
        return model


def _state(model: LocalModel) -> str:
    """Return the state of a model's engine; a model is loading until it takes requests, which is a moment later."""
    state = model.engine.state
    return "loading" if state == "ready" and not model.is_started else state
