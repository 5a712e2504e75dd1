"""Which core opens a model file, and what happens where OpenVINO cannot load its copy."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.engine import EngineSettings, EngineStartFailed
from antiphon.engine.model.weight_format import Served
from antiphon.engine.worker import opening


class _Native:
    """Weights for OpenVINO, and for llama.cpp once OpenVINO is left out."""

    extra_buffers = True

    def __init__(self, library: Any) -> None:
        self.library = library
        self.because: list[str] = []

    def enter(self, phase: str) -> None:
        """Take note of nothing."""

    def weights(self) -> Served:
        return Served(Path("folder"), "f16", "", "openvino")

    def weights_without_openvino(self, because: str) -> Served:
        self.because.append(because)
        return Served(Path("model.gguf"), "as-is", "")


class _Model:
    is_embedding = False


def _open(monkeypatch: pytest.MonkeyPatch, runtime: Any, library: Any = "prebuilt") -> tuple[_Native, Any]:
    def fail(*_: Any) -> Any:
        raise EngineStartFailed("the graph is damaged", hint="")

    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    monkeypatch.setattr(opening, "load_converted", fail)
    monkeypatch.setattr(opening, "load_model", lambda *_, **__: _Model())
    monkeypatch.setattr(opening, "GenerationCore", lambda _settings, _native, served, *_: served)
    native: Any = _Native(library)
    settings = EngineSettings(model_path=Path("model.gguf"), runtime=runtime)
    return native, opening.open_core(settings, native, lambda _: None)


def test_a_copy_that_openvino_cannot_load_goes_to_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under auto the file is served with llama.cpp, and the reason is kept."""
    native, served = _open(monkeypatch, "auto")
    assert (served.runtime, served.path) == ("llama", Path("model.gguf"))
    assert native.because == ["the graph is damaged"]


def test_a_demanded_openvino_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is tried in its place."""
    with pytest.raises(EngineStartFailed, match="the graph is damaged"):
        _open(monkeypatch, "openvino")


def test_without_llama_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where llama.cpp is not installed, what OpenVINO said is the answer."""
    with pytest.raises(EngineStartFailed, match="the graph is damaged"):
        _open(monkeypatch, "auto", None)
