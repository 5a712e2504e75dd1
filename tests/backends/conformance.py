"""What every backend owes its callers; each backend's test module subclasses ``BackendConformance``.

A subclass gives the fixture ``backend`` and the names of its models. ``running`` returns how many requests the backend is
working on, so that an abandoned one can be seen to end.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import numpy as np
import pytest
from tests.waiting import until

from antiphon.backends.base import Backend
from antiphon.protocol.chat import ChatRequest, Message, Sampling
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
)
from antiphon.protocol.rerank import RerankRequest

Delta = TextDelta | ReasoningDelta | RefusalDelta | ToolCallStarted | ToolCallDelta

LONG = "Write a very long and detailed story about a lighthouse keeper. Do not stop before the end of the story."


async def collect(events: AsyncGenerator[Event]) -> list[Event]:
    async with aclosing(events):
        return [event async for event in events]


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.index == index)


def check_order(events: list[Event], num_choices: int) -> None:
    """One Started; each choice's deltas, then exactly one ChoiceFinished; one Completed."""
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Completed)
    finished: set[int] = set()
    calls: set[tuple[int, int]] = set()
    for event in events[1:-1]:
        assert isinstance(event, Delta | ChoiceFinished), event
        assert 0 <= event.index < num_choices
        assert event.index not in finished, f"{event} after the choice's end"
        if isinstance(event, ToolCallStarted):
            assert (event.index, event.call) not in calls
            calls.add((event.index, event.call))
        elif isinstance(event, ToolCallDelta):
            assert (event.index, event.call) in calls
        elif isinstance(event, ChoiceFinished):
            finished.add(event.index)
    assert finished == set(range(num_choices))


class BackendConformance:
    pytestmark = pytest.mark.anyio

    chat_model = "scripted"
    embedding_model: str | None = "scripted-embedding"
    reranker: str | None = "scripted-reranker"
    counts_tokens = True
    serves_completions = True

    def running(self, backend: Backend) -> int:
        raise NotImplementedError

    def chat_request(self, text: str = "Count from one to ten.", **changes: object) -> ChatRequest:
        changes = {"model": self.chat_model, "max_tokens": 16, "sampling": Sampling(temperature=0.0), **changes}
        n, limit = changes.get("n", 1), changes["max_tokens"]
        raw = {"model": changes["model"], "messages": [{"role": "user", "content": text}], "n": n}
        raw |= {"temperature": 0} | ({"max_tokens": limit} if limit is not None else {})
        return ChatRequest(messages=(Message("user", text),), raw=raw, **changes)  # type: ignore[arg-type]

    def completion_request(self, *prompts: str, **changes: object) -> CompletionRequest:
        changes = {"model": self.chat_model, "max_tokens": 8, "sampling": Sampling(temperature=0.0), **changes}
        raw = {"model": changes["model"], "prompt": list(prompts), "temperature": 0, "max_tokens": 8}
        changes = {"best_of": changes.get("n", 1), **changes}
        raw |= {"n": changes.get("n", 1)}
        return CompletionRequest(prompts=prompts, raw=raw, **changes)  # type: ignore[arg-type]

    def embedding_request(self, *inputs: str, model: str | None = None) -> EmbeddingRequest:
        model = model or self.embedding_model or ""
        return EmbeddingRequest(model=model, inputs=inputs, raw={"model": model, "input": list(inputs)})

    def embeds(self) -> str:
        if self.embedding_model is None:
            pytest.skip("this backend serves no embeddings")
        return self.embedding_model

    def rerank_request(self, *documents: str, model: str | None = None) -> RerankRequest:
        return RerankRequest(model=model or self.reranker or "", query="how long bread bakes", documents=documents)

    def ranks(self) -> str:
        if self.reranker is None:
            pytest.skip("this backend serves no reranker")
        return self.reranker

    async def test_lists_its_models(self, backend: Backend) -> None:
        """Every model that it answers for is listed once, with its kind."""
        await until(lambda: bool(backend.models))
        kinds = {model.id: model.kind for model in backend.models}
        assert len(kinds) == len(backend.models)
        assert kinds[self.chat_model] == "chat"
        if self.embedding_model is not None:
            assert kinds[self.embedding_model] == "embedding"
        if self.reranker is not None:
            assert kinds[self.reranker] == "reranker"

    async def test_health_is_ready(self, backend: Backend) -> None:
        """A backend that answers says so."""
        assert backend.health().state == "ready"

    async def test_chat_events_come_in_order(self, backend: Backend) -> None:
        """A chat is one Started, deltas, one ChoiceFinished, one Completed."""
        events = await collect(backend.chat(self.chat_request()))
        check_order(events, 1)
        assert text_of(events)

    async def test_each_choice_finishes_once(self, backend: Backend) -> None:
        """With n = 3 there are three choices, each ended exactly once."""
        events = await collect(backend.chat(self.chat_request(n=3)))
        check_order(events, 3)
        assert all(text_of(events, index) for index in range(3))

    async def test_usage_adds_up(self, backend: Backend) -> None:
        """Usage counts the prompt that was announced and at most max_tokens per choice."""
        events = await collect(backend.chat(self.chat_request(n=2, max_tokens=5)))
        started, completed = events[0], events[-1]
        assert isinstance(started, Started)
        assert isinstance(completed, Completed)
        usage = completed.usage
        assert usage.prompt_tokens > 0
        assert started.prompt_tokens in {0, usage.prompt_tokens}
        assert 0 < usage.completion_tokens <= 2 * 5
        assert usage.cached_tokens <= usage.prompt_tokens
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    async def test_max_tokens_ends_with_length(self, backend: Backend) -> None:
        """An answer that is cut by max_tokens says so."""
        events = await collect(backend.chat(self.chat_request(max_tokens=2)))
        assert [event.reason for event in events if isinstance(event, ChoiceFinished)] == ["length"]

    async def test_closing_the_stream_ends_the_work(self, backend: Backend) -> None:
        """A request whose stream is closed early is worked on no more, and others are still answered."""
        events = backend.chat(self.chat_request(LONG, max_tokens=1000))
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await until(lambda: self.running(backend) == 1)
        await events.aclose()
        await until(lambda: self.running(backend) == 0)
        check_order(await collect(backend.chat(self.chat_request())), 1)

    async def test_cancelling_the_reader_ends_the_work(self, backend: Backend) -> None:
        """A request whose reading task is cancelled is worked on no more."""
        reader = asyncio.ensure_future(collect(backend.chat(self.chat_request(LONG, max_tokens=1000, n=4))))
        await until(lambda: self.running(backend) > 0 or reader.done())
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await until(lambda: self.running(backend) == 0)

    async def test_concurrent_requests_are_kept_apart(self, backend: Backend) -> None:
        """Requests at the same time get their own streams."""
        requests = [self.chat_request(f"Say the number {number}.") for number in range(4)]
        answers = await asyncio.gather(*(collect(backend.chat(request)) for request in requests))
        for events in answers:
            check_order(events, 1)

    async def test_completion_events_come_in_order(self, backend: Backend) -> None:
        """Two prompts with n = 2 are four choices."""
        if not self.serves_completions:
            pytest.skip("this backend serves no completions")
        events = await collect(backend.complete(self.completion_request("One, two,", "A, B,", n=2)))
        check_order(events, 4)

    async def test_embeddings_have_unit_length_and_keep_their_order(self, backend: Backend) -> None:
        """Vectors have length 1 and are in the order of their inputs."""
        self.embeds()
        together = await backend.embed(self.embedding_request("a cat", "the stock market", "a kitten"))
        alone = await backend.embed(self.embedding_request("the stock market"))
        vectors = np.array([np.frombuffer(vector, "<f4") for vector in together.vectors])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
        assert float(vectors[1] @ np.frombuffer(alone.vectors[0], "<f4")) > 0.99
        assert abs(float(vectors[0] @ vectors[1])) < 0.95
        assert together.prompt_tokens > alone.prompt_tokens > 0

    async def test_documents_have_their_relevance_in_the_order_of_the_request(self, backend: Backend) -> None:
        """Whatever stands beside it, a document has its own relevance, from 0 to 1; each is read with the question."""
        self.ranks()
        together = await backend.rerank(self.rerank_request("bread bakes an hour", "tide", "how long"))
        alone = await backend.rerank(self.rerank_request("tide"))
        assert len(together.relevance) == 3
        assert all(0 <= each <= 1 for each in together.relevance)
        assert together.relevance[1] == pytest.approx(alone.relevance[0], abs=0.01)
        assert together.relevance[0] != pytest.approx(together.relevance[1], abs=0.001)
        assert together.prompt_tokens > 2 * alone.prompt_tokens > 0

    async def test_only_a_reranker_ranks(self, backend: Backend) -> None:
        """Models of other kinds refuse it, and a reranker refuses to chat and to embed."""
        reranker = self.ranks()
        for other in filter(None, (self.chat_model, self.embedding_model)):
            with pytest.raises(ApiError) as refused:
                await backend.rerank(self.rerank_request("tide", model=other))
            assert 400 <= refused.value.status < 500
        with pytest.raises(ApiError) as refused:
            await collect(backend.chat(self.chat_request(model=reranker)))
        assert 400 <= refused.value.status < 500
        with pytest.raises(ApiError) as refused:
            await backend.embed(self.embedding_request("text", model=reranker))
        assert 400 <= refused.value.status < 500

    async def test_tokens_are_counted_as_they_are_charged(self, backend: Backend) -> None:
        """The count before is the usage after; a backend that cannot count says so."""
        request = self.chat_request()
        if not self.counts_tokens:
            with pytest.raises(ApiError):
                await backend.count_tokens(request)
            return
        completed = (await collect(backend.chat(request)))[-1]
        assert isinstance(completed, Completed)
        assert await backend.count_tokens(request) == completed.usage.prompt_tokens

    async def test_a_model_of_the_wrong_kind_is_refused(self, backend: Backend) -> None:
        """Chatting with an embedding model, and embedding with a chat model, are errors of the request."""
        embedding_model = self.embeds()
        with pytest.raises(ApiError) as refused:
            await collect(backend.chat(self.chat_request(model=embedding_model)))
        assert 400 <= refused.value.status < 500
        with pytest.raises(ApiError) as refused:
            await backend.embed(self.embedding_request("text", model=self.chat_model))
        assert 400 <= refused.value.status < 500

    async def test_an_unknown_model_is_refused(self, backend: Backend) -> None:
        """A model that is not served is an error of the request."""
        with pytest.raises(ApiError) as refused:
            await collect(backend.chat(self.chat_request(model="no-such-model")))
        assert refused.value.status in {400, 404}

    @pytest.fixture
    def mortal(self, backend: Backend) -> Backend:
        """The backend that is closed; where several tests share theirs, another one."""
        return backend

    async def test_closing_twice_is_closing_once(self, mortal: Backend) -> None:
        """A closed backend refuses requests with an ApiError and may be closed again."""
        await mortal.aclose()
        await mortal.aclose()
        with pytest.raises(ApiError) as refused:
            await collect(mortal.chat(self.chat_request()))
        assert refused.value.status == 503
        assert mortal.health().state == "down"
