"""The backend that sends requests to another API."""

import asyncio
import base64
import math
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from antiphon.backends.base import BackendModel, Countable, Health, PartStatistics, wrong_kind
from antiphon.backends.upstream.bodies import chat_body, completion_body, embedding_body, tokenize_body
from antiphon.backends.upstream.chunks import (
    ChatChunk,
    EmbeddingsBody,
    ModelBody,
    ModelsBody,
    RerankBody,
    TextChunk,
    TokenizeBody,
    read_usage,
)
from antiphon.backends.upstream.events import EventReader, read_chunks
from antiphon.backends.upstream.failures import UpstreamError, protocol_error
from antiphon.backends.upstream.forward import RawAnswer, forward
from antiphon.backends.upstream.http import Http
from antiphon.backends.upstream.relay import StreamedAnswer, WholeAnswer, expect, expect_stream, relay
from antiphon.backends.upstream.response_sessions import ResponseSessions, SocketAnswer, http_request
from antiphon.backends.upstream.secret import upstream_key
from antiphon.backends.upstream.settings import UpstreamSettings
from antiphon.backends.upstream.socket import UpstreamSocket, UpstreamSockets
from antiphon.backends.upstream.warm_up import WarmUpAnswer
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event
from antiphon.protocol.forward import ForwardRequest, SocketRequest
from antiphon.protocol.relay import RelayRequest
from antiphon.protocol.rerank import RerankRequest, RerankResult
from antiphon.wire.token_estimate import CHARACTERS_PER_TOKEN

Body = TypeVar("Body")
Chunk = TypeVar("Chunk", ChatChunk, TextChunk)

_CLOSED = "closed"
_ABOUT_THE_REQUEST = frozenset({400, 422})
_PATH_MISSING = frozenset({404, 405, 501})
_MAX_NUMBER = 2**53
_ROUNDING = 1e-4
"""How far from 1 the length of a unit vector may be in float32 and through base64."""


class UpstreamStatistics(msgspec.Struct, frozen=True):
    """Requests to one upstream. ``running`` includes those that are waiting for a connection."""

    running: int
    requests_total: int
    failures_total: int


class UpstreamBackend:
    """Answers with the API at ``settings.base_url``. Models given in the settings are listed at once, others after ``probe``."""

    def __init__(self, settings: UpstreamSettings, *, environ: Mapping[str, str] = os.environ) -> None:
        self.settings = settings
        key = upstream_key(settings, environ)
        self._http = Http(settings, key)
        self._sockets = UpstreamSockets(settings, key)
        self._sessions = ResponseSessions(settings, self._sockets)
        self._created = int(time.time())
        self._models = tuple(
            BackendModel(model.id, self._created, settings.name, model.kind, model.context_length)
            for model in settings.models
        )
        self._guessed: frozenset[str] = frozenset()
        self._asking = asyncio.Lock()
        self._ask_again_at = 0.0
        self._has_responses = {"auto": None, "relay": True, "translate": False}[settings.responses]
        self._health = Health("loading", f"{settings.name}: not checked yet")

    @property
    def models(self) -> Sequence[BackendModel]:
        return self._models

    def serves(self, model: str) -> bool:
        return any(known.id == model for known in self._models)

    def relays(self, model: str) -> bool:
        return self.serves(model)

    def health(self) -> Health:
        return self._health

    def statistics(self) -> Sequence[PartStatistics]:
        http = self._http
        numbers = UpstreamStatistics(http.num_running, http.num_requests, http.num_failed)
        return [PartStatistics("upstream", {"upstream": self.settings.name}, numbers)]

    @property
    def probe_interval_s(self) -> float:
        return self.settings.health_interval_s

    def wait_s(self, model: str) -> float:
        """Return the seconds until the upstream's own rate limits for ``model`` allow a request; 0 for now."""
        return self._http.wait_s(model)

    async def probe(self) -> Health:
        """Check the upstream's health and, unless the settings name them, list its models."""
        if self._health.detail == _CLOSED:
            return self._health
        # An answer may take as long as a long prompt, which is far too long for a health check.
        patience_s = max(self.settings.health_interval_s, self.settings.timeouts.connect_s)
        try:
            async with asyncio.timeout(patience_s):
                await self._ask()
            found = Health("ready")
        except TimeoutError:
            found = Health(
                "down", f"The upstream {self.settings.name!r} did not answer its health check within {patience_s:g} s."
            )
        except ApiError as error:
            found = Health("down", error.message)
        if self._health.detail != _CLOSED:
            self._health = found
        return self._health

    async def _ask(self) -> None:
        body = await self._http.get(self.settings.health_path)
        if not self.settings.models:
            listed = body if self.settings.health_path == "/models" else await self._http.get("/models")
            self._models = self._discovered(self._decode(listed, ModelsBody))

    async def has_responses(self) -> bool:
        """Whether ``/v1/responses`` is relayed: as the settings say, or as the upstream answers to an empty request."""
        if self._has_responses is None:
            async with self._asking:
                if self._has_responses is None and time.monotonic() >= self._ask_again_at:
                    self._has_responses = await self._ask_for_responses()
                    self._ask_again_at = time.monotonic() + self.settings.health_interval_s
        return bool(self._has_responses)

    async def _ask_for_responses(self) -> bool | None:
        """Return None where the upstream does not say, in the time of a health check: it is asked again later."""
        try:
            async with asyncio.timeout(self.settings.health_interval_s):
                await self._http.post("/responses", b"{}", "")
        except TimeoutError:
            return None
        except UpstreamError as error:
            if error.kind != "answered" or error.status not in _ABOUT_THE_REQUEST | _PATH_MISSING:
                return None
            return error.status in _ABOUT_THE_REQUEST
        # It takes any body, so it is not an API that checks what it cannot do.
        return False

    async def relay(self, request: RelayRequest) -> WholeAnswer | StreamedAnswer | SocketAnswer | WarmUpAnswer:
        turn = request.turn
        if turn is not None:
            if request.upstream not in {None, self.settings.name}:
                turn = msgspec.structs.replace(turn, is_stored=False)
            if (answer := await self._sessions.relay(request, turn)) is not None:
                return answer
            if not turn.generates:
                return WarmUpAnswer(request)
            request = http_request(request, turn)
        return await relay(self.settings.name, self._http, request)

    async def end_session(self, session: str) -> None:
        """Close the connections that are open for a client's WebSocket."""
        await self._sessions.end(session)

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Event]:
        self._require(request.model, "chat")
        body = chat_body(request, request.model)
        async with aclosing(self._events("/chat/completions", body, ChatChunk, request.n, request.n)) as events:
            async for event in events:
                yield event

    async def complete(self, request: CompletionRequest) -> AsyncGenerator[Event]:
        self._require(request.model, "chat")
        body = completion_body(request, request.model)
        num_choices = request.n * len(request.prompts)
        async with aclosing(self._events("/completions", body, TextChunk, num_choices, request.n)) as events:
            async for event in events:
                yield event

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        self._require(request.model, "embedding")
        body = msgspec.json.encode(embedding_body(request, request.model))
        async with await self._http.post("/embeddings", body, request.model) as answer:
            expect(self.settings.name, answer, "application/json")
            got = self._decode(await answer.read_all(), EmbeddingsBody)
        vectors = self._vectors(got, len(request.inputs))
        usage = read_usage(got.usage, has_output=False)
        if usage is None:
            raise protocol_error(self.settings.name, "embeddings without usage")
        num_tokens = usage.prompt_tokens
        return EmbeddingResult(
            model=got.model or request.model,
            vectors=tuple(vectors),
            prompt_tokens=num_tokens,
            input_tokens=(num_tokens,) if len(request.inputs) == 1 else None,
        )

    async def rerank(self, request: RerankRequest) -> RerankResult:
        self._require(request.model, "reranker")
        body = msgspec.json.encode({"model": request.model, "query": request.query, "documents": request.documents})
        async with await self._http.post("/rerank", body, request.model) as answer:
            expect(self.settings.name, answer, "application/json")
            got = self._decode(await answer.read_all(), RerankBody)
        relevance = {one.index: one.relevance_score for one in got.results}
        if len(got.results) != len(request.documents) or set(relevance) != set(range(len(request.documents))):
            raise protocol_error(self.settings.name, "other results than one for each document")
        in_order = tuple(relevance[index] for index in range(len(request.documents)))
        usage = read_usage(got.usage, has_output=False)
        if usage is None:
            raise protocol_error(self.settings.name, "ranked documents without usage")
        return RerankResult(got.model or request.model, in_order, usage.prompt_tokens)

    async def count_tokens(self, request: Countable) -> int:
        path = self.settings.tokenize_path
        if path is None or isinstance(request, EmbeddingRequest):
            message = f"The tokens of a request to `{request.model}` cannot be counted: its API has no endpoint for it."
            raise ApiError(400, message, param="model", code="model_not_supported")
        body = msgspec.json.encode(tokenize_body(request, request.model))
        return self._decode(await self._http.post_to_root(path, body), TokenizeBody).count

    async def forward(self, request: ForwardRequest) -> RawAnswer:
        """Send a request for any path; see ``ForwardingBackend.forward``."""
        return await forward(self._http, request)

    async def connect(self, request: SocketRequest) -> UpstreamSocket:
        """Open a WebSocket at any path; see ``ForwardingBackend.connect``."""
        return await self._sockets.open(request)

    async def aclose(self) -> None:
        self._health = Health("down", _CLOSED)
        await self._sockets.aclose()
        await self._http.aclose()

    async def _events(
        self, path: str, body: dict[str, Any], kind: type[Chunk], num_choices: int, n: int
    ) -> AsyncGenerator[Event]:
        name = self.settings.name
        reader = EventReader(name, num_choices, n, _estimated_prompt_tokens(body))
        async with await self._http.post(path, msgspec.json.encode(body), body["model"]) as answer:
            await expect_stream(name, answer)
            async with aclosing(read_chunks(name, answer, kind)) as chunks:
                async for chunk in chunks:
                    for event in reader.feed(chunk, body["model"]):
                        yield event
            await answer.finish()
        yield reader.end()

    def _require(self, model: str, kind: str) -> None:
        """Refuse a model of the other kind where its kind is known, not where it was guessed from the name."""
        known = next((known for known in self._models if known.id == model), None)
        if known is not None and known.kind != kind and model not in self._guessed:
            raise wrong_kind(known)

    def _vectors(self, body: EmbeddingsBody, num_inputs: int) -> list[bytes]:
        """Return the unit vectors in the order of the inputs; by ``index``, or as sent where the indices are not one each."""
        entries = body.data
        if len(entries) != num_inputs:
            raise protocol_error(self.settings.name, f"{len(entries)} vectors for {num_inputs} inputs")
        by_index = {entry.index: entry for entry in entries}
        if set(by_index) == set(range(num_inputs)):
            entries = [by_index[index] for index in range(num_inputs)]
        try:
            vectors = [_unit(entry.embedding) for entry in entries]
        except ValueError as error:
            raise protocol_error(self.settings.name, f"a vector that cannot be read ({error})") from None
        if len({len(vector) for vector in vectors}) > 1:
            raise protocol_error(self.settings.name, "vectors of different lengths")
        return vectors

    def _decode(self, body: bytes, kind: type[Body]) -> Body:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise protocol_error(self.settings.name, str(error)) from None

    def _discovered(self, listed: ModelsBody) -> tuple[BackendModel, ...]:
        found = listed.data or []
        self._guessed = frozenset(model.id for model in found if model.kind not in {"chat", "embedding", "reranker"})
        return tuple(
            BackendModel(
                model.id,
                _positive(model.created) or self._created,
                model.owned_by if isinstance(model.owned_by, str) and model.owned_by else self.settings.name,
                _kind_of(model),
                _positive(model.max_model_len) or _positive(model.context_length),
            )
            for model in found
        )


def _positive(value: Any) -> int | None:
    """Return a whole number above 0 that servers also write as a float; None for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 < value <= _MAX_NUMBER else None


def _estimated_prompt_tokens(body: dict[str, Any]) -> int:
    """Return the estimate for an upstream that does not report its usage: a quarter of the prompt's characters."""
    texts = {name: body[name] for name in ("messages", "prompt", "tools", "functions") if name in body}
    return len(msgspec.json.encode(texts)) // CHARACTERS_PER_TOKEN


def _kind_of(model: ModelBody) -> Literal["chat", "embedding", "reranker"]:
    if model.kind in {"chat", "embedding", "reranker"}:
        return model.kind
    name = model.id.lower()
    return "reranker" if "rerank" in name else "embedding" if "embed" in name else "chat"


def _unit(vector: list[float] | str) -> bytes:
    """Return the vector as float32 of unit length, which upstreams need not keep to; ``ValueError`` if it is not a vector."""
    raw = (
        np.frombuffer(base64.b64decode(vector, validate=True), "<f4")
        if isinstance(vector, str)
        else np.asarray(vector, "<f4")
    )
    norm = float(np.linalg.norm(raw.astype(np.float64)))
    if not raw.size or not math.isfinite(norm):
        raise ValueError("it is empty, or not all of its numbers are finite")
    return raw.tobytes() if norm == 0 or abs(norm - 1) < _ROUNDING else (raw / norm).astype("<f4").tobytes()
