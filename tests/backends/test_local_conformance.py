"""The models of this machine keep the contract of a backend."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.backends.conformance import BackendConformance

from antiphon.backends.base import Backend
from antiphon.backends.local import LocalBackend
from antiphon.backends.local_chat import LocalChat
from antiphon.backends.local_embedding import LocalEmbedding
from antiphon.engine import Engine, EngineSettings
from antiphon.models import Catalogue, Store

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"


def engine(name: str) -> Engine:
    entry = next(entry for entry in Catalogue.default().entries if entry.id == name)
    return Engine(EngineSettings(model_path=Store().ensure(entry), context_size=2048 if name == CHAT else None))


# Engines take seconds to start: one of each for all tests but the one that closes them.
@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def backend() -> AsyncGenerator[LocalBackend]:
    backend = LocalBackend(
        {CHAT: LocalChat(CHAT, engine(CHAT)), EMBEDDING: LocalEmbedding(EMBEDDING, engine(EMBEDDING), {})}
    )
    await backend.start()
    yield backend
    await backend.aclose()


@pytest.mark.model
@pytest.mark.slow
class TestConformance(BackendConformance):
    chat_model = CHAT
    embedding_model = EMBEDDING

    @pytest.fixture
    async def mortal(self) -> LocalBackend:
        backend = LocalBackend({CHAT: LocalChat(CHAT, engine(CHAT))})
        await backend.start()
        return backend

    def running(self, backend: Backend) -> int:
        numbers: Any = backend.statistics()[0].values
        return numbers.running
