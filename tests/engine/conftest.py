"""The default models' files, and an engine on the chat model."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.runtimes import RUNTIMES
from tests.installed import HAS_LLAMA, HAS_OPENVINO, NO_LLAMA, NO_OPENVINO, engine_settings

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


@pytest.fixture(params=RUNTIMES)
def on_runtime(request: pytest.FixtureRequest, converted: Path) -> dict[str, Any]:
    """The settings that let one runtime compute the chat model, for tests that every runtime passes."""
    if request.param == "llama" and not HAS_LLAMA:
        pytest.skip(NO_LLAMA)
    if request.param == "llama":
        return {"runtime": "llama"}
    if not HAS_OPENVINO:
        pytest.skip(NO_OPENVINO)
    return {"runtime": "openvino", "cache_directory": converted, "weight_format": "f16"}


@pytest.fixture
async def engine(chat_model: Path) -> AsyncGenerator[Engine]:
    """A running engine."""
    engine = Engine(engine_settings(chat_model, context_size=2048))
    await engine.start()
    yield engine
    await engine.aclose()
