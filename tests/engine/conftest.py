"""Engines on the default models, one for all tests of this folder that do not harm it."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from antiphon.engine import Engine, EngineSettings


@pytest.fixture(scope="session")
def chat_model(model_home: Path) -> Path:
    """The default chat model's file."""
    return next(model_home.rglob("SmolLM2-135M-Instruct.Q4_1.gguf"))


@pytest.fixture
async def engine(chat_model: Path) -> AsyncGenerator[Engine]:
    """A running engine."""
    engine = Engine(EngineSettings(model_path=chat_model, context_size=2048))
    await engine.start()
    yield engine
    await engine.aclose()
