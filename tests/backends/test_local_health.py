"""When a model of this machine counts as ready."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny_models import plain_attention
from tests.installed import engine_settings
from tests.waiting import until

from antiphon.backends.local import chat
from antiphon.backends.local.backend import LocalBackend
from antiphon.backends.local.chat import LocalChat
from antiphon.engine import Engine
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.errors import ApiError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_model_is_ready_when_it_takes_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before: its engine is ready first, and then its template is tried, which takes a while."""
    may_go_on = threading.Event()
    prompter = chat.ChatPrompter

    def slow(**settings: Any) -> chat.ChatPrompter:
        may_go_on.wait(30)
        return prompter(**settings)

    monkeypatch.setattr(chat, "ChatPrompter", slow)
    path = tmp_path / "tiny.gguf"
    plain_attention(path, "llama")
    model = LocalChat("tiny", Engine(engine_settings(path)))
    backend = LocalBackend({"tiny": model})
    request = CompletionRequest(model="tiny", prompts=((5, 9),), max_tokens=1)
    starting = asyncio.create_task(backend.start())
    try:
        await until(lambda: model.engine.state == "ready")
        assert backend.health().state == "loading"
        with pytest.raises(ApiError, match="still being loaded"):
            _ = [event async for event in backend.complete(request)]
        may_go_on.set()
        await starting
        assert backend.health().state == "ready"
        assert [event async for event in backend.complete(request)]
    finally:
        may_go_on.set()
        await backend.aclose()
