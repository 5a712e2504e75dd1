"""The models of this machine keep the contract of a backend."""

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from tests.backends.conformance import BackendConformance, collect
from tests.engine.tiny_models import reranker
from tests.installed import HAS_LLAMA, NO_LLAMA, engine_settings

from antiphon.backends.base import Backend
from antiphon.backends.local.backend import LocalBackend, LocalModel
from antiphon.backends.local.chat import LocalChat
from antiphon.backends.local.embedding import LocalEmbedding
from antiphon.backends.local.reranking import LocalReranker
from antiphon.engine import Engine, EngineSettings
from antiphon.models import Catalogue, ModelStore
from antiphon.protocol.chat import Sampling
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import TextDelta
from antiphon.protocol.rendering import CompletionBody

CHAT, EMBEDDING, RERANKER = "smollm2-135m-instruct", "all-minilm-l6-v2", "tiny-reranker"


def engine(name: str) -> Engine:
    entry = next(entry for entry in Catalogue.default().entries if entry.id == name)
    return Engine(engine_settings(ModelStore().ensure(entry), context_size=2048 if name == CHAT else None))


# Engines take seconds to start: one of each for all tests but the one that closes them.
@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[LocalBackend]:
    models: dict[str, LocalModel] = {
        CHAT: LocalChat(CHAT, engine(CHAT)),
        EMBEDDING: LocalEmbedding(EMBEDDING, engine(EMBEDDING), {}),
    }
    if HAS_LLAMA:
        path = tmp_path_factory.mktemp("reranker") / "tiny.gguf"
        reranker(path)
        models[RERANKER] = LocalReranker(RERANKER, Engine(EngineSettings(model_path=path)))
    backend = LocalBackend(models)
    await backend.start()
    yield backend
    await backend.aclose()


@pytest.mark.model
@pytest.mark.slow
class TestConformance(BackendConformance):
    chat_model = CHAT
    embedding_model = EMBEDDING
    reranker = RERANKER if HAS_LLAMA else None  # OpenVINO computes none

    def ranks(self) -> str:
        if not HAS_LLAMA:
            pytest.skip(NO_LLAMA)
        return super().ranks()

    @pytest.fixture
    async def mortal(self) -> LocalBackend:
        backend = LocalBackend({CHAT: LocalChat(CHAT, engine(CHAT))})
        await backend.start()
        return backend

    def running(self, backend: Backend) -> int:
        numbers: Any = backend.statistics()[0].values
        return numbers.running

    async def test_a_temperature_below_every_float32_is_zero(self, backend: Backend) -> None:
        """The smallest of numbers draws the likeliest token, instead of ending the engine by a division by zero."""
        coldest = msgspec.structs.replace(self.chat_request(), sampling=Sampling(temperature=5e-324))
        greedy = msgspec.structs.replace(self.chat_request(), sampling=Sampling(temperature=0.0))
        reported = [
            [event for event in await collect(backend.chat(request)) if isinstance(event, TextDelta)]
            for request in (coldest, greedy)
        ]
        assert "".join(event.text for event in reported[0]) == "".join(event.text for event in reported[1])

    async def test_an_embedding_model_completes_nothing(self, backend: Backend) -> None:
        """The error names the endpoint that was asked."""
        with pytest.raises(ApiError, match="v1/completions endpoint"):
            backend.complete(self.completion_request("x", model=EMBEDDING))

    async def test_an_echo_of_split_characters(self, backend: Backend) -> None:
        """In an echo, every token begins at the character that its first byte belongs to, in a stream and in a body."""
        prompt = "日本\N{GRINNING FACE} end"
        request = self.completion_request(prompt, echo=True, logprobs=1, max_tokens=3)
        events = await collect(backend.complete(request))
        body = CompletionBody("x", 0, request)
        for event in events:
            body.feed(event)
        found = body.value()["choices"][0]["logprobs"]
        raw = [token.bytes for event in events if isinstance(event, TextDelta) for token in event.logprobs]
        expected: list[int] = []
        place = b""
        for token in raw:
            expected.append(sum(byte & 0xC0 != 0x80 for byte in place + bytes(token[:1])) - 1 if token else 0)
            place += bytes(token)
        assert place.startswith(prompt.encode())
        assert found["text_offset"] == expected
        assert found["tokens"][1].startswith("bytes:\\x")

    async def test_the_beginning_of_a_document_takes_no_place_in_an_echo(self, backend: Backend) -> None:
        """A token before the text is listed, and every other is found where its offset says."""
        request = self.completion_request("", echo=True, logprobs=1)
        body = CompletionBody("x", 0, request)
        for event in await collect(backend.complete(request)):
            body.feed(event)
        choice = body.value()["choices"][0]
        found = choice["logprobs"]
        assert (found["tokens"][0], found["text_offset"][0]) == ("<|im_start|>", 0)
        places = zip(found["tokens"][1:], found["text_offset"][1:], strict=True)
        assert all(choice["text"][offset:].startswith(token) for token, offset in places)
