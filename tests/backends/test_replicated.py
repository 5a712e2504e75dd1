"""Replicas behind one backend: their messages carried by hand, as bytes, as a cluster carries them."""

import pickle
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.backends.conformance import BackendConformance, collect
from tests.waiting import until

from antiphon.backends.base import Backend, Countable
from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.replicated import (
    Description,
    EventBatch,
    Refusal,
    ReplicaLost,
    ReplicaService,
    ReplicatedBackend,
)
from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Reply, Script
from antiphon.protocol.chat import ChatRequest
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest, EmbeddingResult
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Completed, Started, TextDelta
from antiphon.protocol.rerank import RerankRequest, RerankResult

pytestmark = pytest.mark.anyio


def carried(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


class Cluster:
    """Replicas that are asked in turn; ``dies_after`` messages the first ones are gone."""

    def __init__(self, backend: Backend, dies_after: int = 0, num_deaths: int = 0) -> None:
        self._service = ReplicaService(backend)
        self._dies_after = dies_after
        self._num_deaths = num_deaths
        self.keys: list[bytes] = []

    async def stream(
        self, key: bytes, request: ChatRequest | CompletionRequest
    ) -> AsyncGenerator[EventBatch | Refusal]:
        self.keys.append(key)
        left = self._dies_after if self._dying() else 1_000_000
        messages = self._service.stream(carried(request))
        try:
            if not left:
                raise ReplicaLost("gone")
            async for message in messages:
                yield carried(message)
                left -= 1
                if not left:
                    raise ReplicaLost("gone")
        finally:
            await messages.aclose()

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult | Refusal:
        if self._dying():
            raise ReplicaLost("gone")
        return carried(await self._service.embed(carried(request)))

    async def rerank(self, request: RerankRequest) -> RerankResult | Refusal:
        return carried(await self._service.rerank(carried(request)))

    async def count_tokens(self, request: Countable) -> int | Refusal:
        return carried(await self._service.count_tokens(carried(request)))

    async def describe(self) -> Description:
        if self._dying():
            raise ReplicaLost("gone")
        return carried(self._service.describe())

    def _dying(self) -> bool:
        self._num_deaths -= 1
        return self._num_deaths >= 0


def replicated(cluster: Cluster) -> ReplicatedBackend:
    return ReplicatedBackend(cluster, ("scripted", "scripted-embedding"))


class TestConformance(BackendConformance):
    """What comes out of replicas is what a backend owes."""

    @pytest.fixture
    async def backend(self) -> AsyncGenerator[ReplicatedBackend]:
        self.scripted = ScriptedBackend(
            Script(
                rerankers=("scripted-reranker",), replies=(Reply(text="One, two, three, four, five.", token_s=0.001),)
            )
        )
        backend = replicated(Cluster(self.scripted))
        await backend.probe()
        yield backend
        await backend.aclose()
        await self.scripted.aclose()

    def running(self, backend: Backend) -> int:
        return self.scripted.counts.running


def ask(text: str = "hi") -> ChatRequest:
    return TestConformance().chat_request(text, max_tokens=None)


async def test_a_request_whose_replica_is_lost_before_its_first_event_is_asked_of_another() -> None:
    """The client notices nothing; the statistics do."""
    cluster = Cluster(ScriptedBackend(Script(replies=(Reply(text="a b"),))), num_deaths=2)
    backend = replicated(cluster)
    assert isinstance((await collect(backend.chat(ask())))[-1], Completed)
    assert len(cluster.keys) == 3
    assert backend.statistics()[0].values.lost_total == 2  # type: ignore[attr-defined]


async def test_three_lost_replicas_are_an_error() -> None:
    """Tries are bounded; the client learns when to come back."""
    cluster = Cluster(ScriptedBackend(), num_deaths=9)
    backend = replicated(cluster)
    with pytest.raises(ApiError) as caught:
        await collect(backend.chat(ask()))
    assert (caught.value.status, caught.value.code, len(cluster.keys)) == (503, "replica_lost", 3)
    assert "Retry-After" in caught.value.headers


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    """What was said cannot be unsaid: the stream ends with an error."""
    slow = ScriptedBackend(Script(replies=(Reply(text="a b c d", token_s=0.001),)))
    backend = replicated(Cluster(slow, dies_after=2, num_deaths=1))
    events = backend.chat(ask())
    assert isinstance(await anext(events), Started)
    with pytest.raises(ApiError) as caught:
        await collect(events)
    assert caught.value.code == "replica_lost"
    assert slow.counts.running == 0


async def test_embeddings_are_asked_of_another_replica_too() -> None:
    """They have no effect, so nothing speaks against it."""
    cluster = Cluster(ScriptedBackend(), num_deaths=1)
    result = await replicated(cluster).embed(TestConformance().embedding_request("a"))
    assert len(result.vectors) == 1


async def test_errors_of_a_replica_arrive_as_they_were() -> None:
    """Status, code, param and headers of a replica's refusal are the client's."""
    backend = replicated(Cluster(LocalBackend({"scripted": object()})))  # type: ignore[dict-item]
    error = ApiError(429, "no", type="tokens", param="x", code="y", headers={"Retry-After": "7"})
    assert vars(carried(Refusal.of(error)).error()) == vars(error)
    with pytest.raises(ApiError, match="does not exist"):
        await backend.embed(TestConformance().embedding_request("a", model="other"))


async def test_events_that_wait_come_together() -> None:
    """While one message is on its way the next events gather; none is lost, and their order stays."""
    service = ReplicaService(ScriptedBackend(Script(replies=(Reply(text="a b c d e f"),))))
    messages = service.stream(ask())
    batches = [message async for message in messages]
    assert all(isinstance(batch, EventBatch) for batch in batches)
    events = [event for batch in batches for event in batch.events]  # type: ignore[union-attr]
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "a b c d e f"
    assert len(batches) < len(events)


async def test_a_front_without_replicas_is_loading_then_ready_then_down() -> None:
    """Health follows what the last look said."""
    backend = replicated(Cluster(ScriptedBackend()))
    assert (backend.health().state, list(backend.models)) == ("loading", [])
    await backend.probe()
    assert (backend.health().state, len(backend.models)) == ("ready", 2)
    lost = replicated(Cluster(ScriptedBackend(), num_deaths=1))
    assert (await lost.probe()).state == "down"
    assert (await lost.probe()).state == "ready"
    await lost.aclose()
    assert (await lost.probe()).state == "ready"
    assert lost.health().state == "down"


async def test_conversations_keep_their_key() -> None:
    """A conversation that grows has the key that it had; another one has its own."""
    cluster = Cluster(ScriptedBackend())
    backend = replicated(cluster)
    for text in ("one", "one", "two"):
        await collect(backend.chat(ask(text)))
    assert cluster.keys[0] == cluster.keys[1] != cluster.keys[2]
    await until(lambda: backend.statistics()[0].values.running == 0)  # type: ignore[attr-defined]
