"""The default models' files, and an engine on the chat model."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.installed import engine_settings

from antiphon.engine import Engine
from antiphon.models import Catalogue, ModelStore


def stored(model_id: str) -> Path:
    """The file of a default model, fetched at the first use."""
    return ModelStore().ensure(Catalogue.default().resolve(model_id).entry)


@pytest.fixture(scope="session")
def chat_model() -> Path:
    """The default chat model's file."""
    return stored("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def embedding_model() -> Path:
    """The default embedding model's file."""
    return stored("all-minilm-l6-v2")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models that OpenVINO loads are kept."""
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
async def engine(chat_model: Path) -> AsyncGenerator[Engine]:
    """A running engine."""
    engine = Engine(engine_settings(chat_model, context_size=2048))
    await engine.start()
    yield engine
    await engine.aclose()
