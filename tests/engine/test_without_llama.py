"""OpenVINO as the only runtime: the choice of weights, the start, and what only llama.cpp could serve."""

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.installed import NO_OPENVINO

pytest.importorskip("openvino_genai", reason=NO_OPENVINO)

from tests.engine import vocabulary_files
from tests.engine.vocabulary_files import CONTROL

from antiphon.engine import Engine, EngineSettings, EngineStartFailed
from antiphon.engine.ipc.messages import Delta, Generate, SamplingParams, Text
from antiphon.engine.model import weight_format
from antiphon.engine.model.base import ModelError
from antiphon.engine.model.native.library import LibraryRefusedError
from antiphon.engine.model.openvino import tokens
from antiphon.engine.startup import Way
from antiphon.engine.worker import native_start
from antiphon.engine.worker.native_start import NativeStart

pytestmark = [pytest.mark.anyio, pytest.mark.model]


@pytest.fixture
async def alone(chat_model: Path, converted: Path) -> AsyncGenerator[Engine]:
    """An engine whose process loads no llama.cpp."""
    settings = EngineSettings(
        model_path=chat_model,
        context_size=2048,
        cache_directory=converted,
        runtime="openvino",
        weight_format="f16",
        library="none",
    )
    engine = Engine(settings)
    await engine.start()
    yield engine
    await engine.aclose()


async def test_an_engine_without_llama_answers(alone: Engine) -> None:
    """It tokenises, follows a grammar, ends, and tells what it is."""
    assert (alone.info.settings["runtime"], alone.info.settings["library"]) == ("openvino", "")
    assert alone.info.chat_template
    assert "<|im_end|>" in alone.info.end_tokens
    prompt = Text("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", special=True)
    request = Generate(
        id=0,
        prompt=(prompt,),
        max_tokens=40,
        sampling=SamplingParams(temperature=0),
        grammar='start: "The " /[A-Za-z ]+/ "."',
    )
    text = "".join([answer.text async for answer in alone.generate(request) if isinstance(answer, Delta)])
    assert text.startswith("The ")
    assert text.endswith(".")
    assert "Paris" in text


def _measured(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[tuple[str, ...]]:
    """Let measurements say processor seconds by type, and return what was run."""
    ran: list[tuple[str, ...]] = []

    def run(*arguments: str) -> bytes:
        ran.append(arguments)
        match arguments:
            case ["convert", _, target, _]:
                Path(target).write_bytes(b"copy")
            case ["convert-openvino", _, target, _]:
                Path(target).mkdir()
            case ["measure", path, *_]:
                cpu_s = next(value for kind, value in seconds.items() if f".{kind}." in path)
                return msgspec.json.encode({"cpu_s": {"prompt": cpu_s}, "divergence": 0.001, "size_bytes": 4})
            case _:
                pass
        return b""

    monkeypatch.setattr(weight_format, "_run", run)
    return ran


def test_formats_are_measured_with_openvino_alone(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference are the weights in f16, computed by OpenVINO; no process loads llama.cpp."""
    ran = _measured(monkeypatch, {"f16": 1.0, "q8_0": 0.5})
    settings = EngineSettings(model_path=chat_model, cache_directory=tmp_path)
    served = weight_format.prepare(settings, None)
    assert (served.runtime, served.type) == ("openvino", "q8_0")
    (reference,) = [arguments[1] for arguments in ran if arguments[0] == "refer"]
    assert ".f16.openvino" in reference
    assert {arguments[4] for arguments in ran if arguments[0] == "measure"} == {""}
    monkeypatch.setattr(weight_format, "_run", None)
    assert weight_format.prepare(settings, None) == served


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"kv_type_k": "q5_0"}, "keys and values in one type"), ({"cache_directory": None}, "no cache_directory")],
)
def test_what_openvino_cannot_serve_is_refused(
    chat_model: Path, tmp_path: Path, given: dict[str, Any], reason: str
) -> None:
    """The error says why, that llama.cpp is not here, and how to install it."""
    settings = EngineSettings(**{"model_path": chat_model, "cache_directory": tmp_path, **given})
    with pytest.raises(EngineStartFailed, match=f"{reason}.*llama.cpp is not installed") as caught:
        weight_format.prepare(settings, None)
    assert caught.value.hint
    assert "antiphon[llama]" in caught.value.hint


@pytest.mark.parametrize(
    ("given", "way"),
    [({"runtime": "llama"}, Way()), ({"library": "native"}, Way()), ({}, Way(openvino=False))],
)
def test_a_start_that_needs_llama_says_so(
    chat_model: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], way: Way
) -> None:
    """The settings ask for it, or OpenVINO's process died."""
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    monkeypatch.delenv("ANTIPHON_ENGINE_LIBRARY", raising=False)
    monkeypatch.setattr(native_start, "find_libraries", lambda _: [])
    with pytest.raises(EngineStartFailed, match=r"no llama\.cpp is installed") as caught:
        NativeStart(EngineSettings(model_path=chat_model, **given), way, lambda _: None)
    assert caught.value.hint
    assert "antiphon[llama]" in caught.value.hint


def test_a_vocabulary_that_only_llama_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is llama.cpp's where that is installed; elsewhere the error names the kind and what to install."""
    path = vocabulary_files.byte_pairs(tmp_path / "m.gguf", "afmoe", "ab", [("<|x|>", CONTROL)])

    def absent(*_: Any, **__: Any) -> Any:
        raise LibraryRefusedError("no llama.cpp is installed")

    monkeypatch.setattr(tokens, "Model", absent)
    with pytest.raises(ModelError, match=r"'afmoe'.*antiphon\[llama\]"):
        tokens.read_tokens(path)
    assert json.dumps(tokens.read_tokens(vocabulary_files.byte_pairs(path, "gpt-2", "ab")).metadata)
