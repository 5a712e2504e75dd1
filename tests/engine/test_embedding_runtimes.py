"""The default embedding model in an engine of each runtime: one meaning, one vector, whatever else is asked."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.runtimes import RUNTIMES
from tests.installed import needs_llama, needs_openvino

from antiphon.engine import Engine, EngineSettings
from antiphon.engine.ipc.messages import Text
from antiphon.engine.model import weight_format

pytestmark = [pytest.mark.anyio, pytest.mark.model, needs_llama, needs_openvino]

TEXTS = (
    "hello",
    "A man with a hard hat is dancing.",
    "The quick brown fox jumps over the lazy dog, and nobody in the whole village is surprised about it any more.",
    "Der Leuchtturmwärter schrieb jeden Abend in sein Buch.",
    "La mer est calme ce soir, et le vent s'est couché.",
    "Смотритель маяка писал каждый вечер.",
    "灯台守は毎晩日記を書いた。",
    "كان حارس المنارة يكتب كل مساء",
    "🙂 def mean(values): return sum(values) / len(values)",
    "The supply boat came in March. " * 12,
    "Where is he? asked the captain. " * 60,
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model that OpenVINO loads is kept."""
    return tmp_path_factory.mktemp("converted")


def engine_of(runtime: str, model: Path, converted: Path) -> Engine:
    given: dict[str, Any] = {"runtime": runtime}
    if runtime == "openvino":
        given |= {"cache_directory": converted, "weight_format": "f16"}
    return Engine(EngineSettings(model_path=model, **given))


@pytest.fixture
async def engines(embedding_model: Path, converted: Path) -> AsyncGenerator[list[Engine]]:
    """A running engine of each runtime."""
    engines = [engine_of(runtime, embedding_model, converted) for runtime in RUNTIMES]
    for engine in engines:
        await engine.start()
    yield engines
    for engine in engines:
        await engine.aclose()


async def embed(engine: Engine, *texts: str) -> NDArray[np.float32]:
    embedded = await engine.embed(tuple((Text(text),) for text in texts))
    return np.stack([np.frombuffer(vector, "<f4") for vector in embedded.vectors])


async def test_both_runtimes_agree_and_openvino_repeats_bits(engines: list[Engine]) -> None:
    """Texts of many lengths and languages have one direction in both; in OpenVINO a crowd of others changes no bit."""
    llama, openvino = engines
    assert [engine.info.settings["runtime"] for engine in engines] == list(RUNTIMES)
    ours, theirs = await embed(openvino, *TEXTS), await embed(llama, *TEXTS)
    assert np.linalg.norm(ours, axis=1) == pytest.approx(1, abs=1e-5)
    assert 1 - (ours * theirs).sum(axis=1).min() < weight_format.MOST_DISTANCE / 10
    alone = np.concatenate([await embed(openvino, text) for text in TEXTS])
    assert np.array_equal(alone, ours)
    crowd = (embed(openvino, *(f"{number} of {size}" + " words" * size for number in range(40))) for size in (2, 9, 30))
    beside, *_ = await asyncio.gather(embed(openvino, *reversed(TEXTS)), *crowd)
    assert np.array_equal(beside[::-1], ours)
