"""An engine's process is about as large after the largest work that it takes as before it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.installed import engine_settings
from tests.waiting import until

from antiphon.engine import ContextOverflow, Engine, EngineSettings
from antiphon.engine.ipc.messages import Prompt, Text
from antiphon.engine.model.native.find import find_libraries

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc"),
]

MIB = 1024 * 1024
MAX_KEPT_BYTES = 32 * MIB
"""What a process may keep: fragments, and what it learned of words. The text below once left 71 MiB, one of 33 MB 590."""
WORDS = "word, and more. "
LIBRARIES = [pytest.param(str(found.path), id=found.kind) for found in find_libraries(None)] or ["none"]
"""Of llama.cpp; without any, OpenVINO computes."""


def resident_bytes(engine: Engine) -> int:
    """Return the resident memory of an engine's process."""
    assert engine.pid is not None
    lines = Path(f"/proc/{engine.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@asynccontextmanager
async def running(settings: EngineSettings) -> AsyncGenerator[Engine]:
    engine = Engine(settings)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


def prompt_of(num_characters: int) -> Prompt:
    return (Text(WORDS * (num_characters // len(WORDS))),)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_memory_returns_after_a_text_of_megabytes(embedding_model: Path, library: str) -> None:
    """Every library's tokeniser makes strings of words, and an idle engine keeps neither them nor the request."""
    async with running(engine_settings(embedding_model, library=library)) as engine:
        await engine.count((prompt_of(100_000),))
        before = resident_bytes(engine)
        with pytest.raises(ContextOverflow):
            await engine.embed((prompt_of(4_000_000),))
        await until(lambda: resident_bytes(engine) <= before + MAX_KEPT_BYTES)
