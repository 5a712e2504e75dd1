"""Native code that dies is reported, and the engine starts another way: a stub library that dies for real, in each phase."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.engine.native_stub import COMPILER, native_build

from antiphon.engine import Engine, EngineSettings, EngineStartFailed
from antiphon.engine.ipc.messages import Generate, Text
from antiphon.engine.model.native.choose import Chosen, choose, examine
from antiphon.engine.model.native.find import ENVIRONMENT_VARIABLE, find_libraries

PREBUILT = next((candidate for candidate in find_libraries() if candidate.kind == "prebuilt"), None)
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler makes the stub library"),
    pytest.mark.skipif(PREBUILT is None, reason="the stub is built around xllamacpp, which is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="the stub is for Linux's linker"),
    pytest.mark.model,
    pytest.mark.anyio,
]


@pytest.fixture(autouse=True)
def no_preference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is what is tested, so that nothing outside may make it."""
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def stub(directory: Path, where: str, death: str) -> Path:
    assert PREBUILT is not None
    return native_build(directory, PREBUILT.path, where, death)


def settings(model: Path, directory: Path, library: str = "auto") -> EngineSettings:
    return EngineSettings(model_path=model, context_size=512, library_directory=directory, library=library)


async def answers(engine: Engine) -> bool:
    request = Generate(id=0, prompt=(Text("Once upon a time"),), max_tokens=4)
    return any([answer async for answer in engine.generate(request)])


def only_stub_and_prebuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide llama-cpp-python, which not every environment has."""
    monkeypatch.setattr("antiphon.engine.model.native.find._llama_cpp_python", lambda: None)


@pytest.fixture
def prefers_native(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library directory; child processes put native builds first, as if they were faster."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'antiphon.engine' in sys.orig_argv:\n"
        "    from antiphon.engine.model.native import choose, find\n"
        "    choose._WORTH = 1000.0\n"
        "    everything = find.find_libraries\n"
        "    find.find_libraries = lambda *given: sorted(everything(*given), key=lambda one: one.kind != 'native')\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.mark.parametrize("death", ["SIGILL", "SIGSEGV", "exit"])
@pytest.mark.parametrize(
    ("where", "phase"),
    [("AT_LOAD", "loading the library"), ("IN_SELF_TEST", "computing with f16 weights")],
)
def test_a_library_that_dies_in_its_self_test_is_not_chosen(
    where: str, phase: str, death: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prebuilt one is; the reason names the library, the signal and the phase. A death by such a signal is remembered."""
    only_stub_and_prebuilt(monkeypatch)
    stub(tmp_path, where, death)
    chosen = choose(find_libraries(tmp_path), tmp_path, None)
    assert isinstance(chosen, Chosen)
    assert chosen.best.candidate == PREBUILT
    assert "the native build of llama.cpp (stub) failed its self-test" in chosen.reason
    assert ("status 7" if death == "exit" else death) in chosen.reason
    assert phase in chosen.reason
    assert bool(list(tmp_path.glob("native-*.json"))) is (death != "exit")
    if death != "exit":
        monkeypatch.setattr("antiphon.engine.model.native.choose._run", None)
        assert choose(find_libraries(tmp_path), tmp_path, None) == chosen


def test_a_library_that_dies_with_extra_buffers_is_tested_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on processors with AMX where the compiler drops the stores of the tile configuration."""
    only_stub_and_prebuilt(monkeypatch)
    stub(tmp_path, "WITH_EXTRA_BUFFERS", "SIGILL")
    native = examine(find_libraries(tmp_path), tmp_path)[1]
    assert native.result is not None
    assert native.extra_buffers is False
    assert "SIGILL" in native.notes


@pytest.mark.parametrize("death", ["SIGILL", "SIGSEGV", "exit"])
@pytest.mark.parametrize(
    ("where", "phase"), [("AT_MODEL", "loading the model"), ("AT_DECODE", "computing the first batch")]
)
async def test_an_engine_whose_library_dies_after_the_self_test_starts_with_another(
    where: str, phase: str, death: str, chat_model: Path, prefers_native: Path
) -> None:
    """It answers, and its information says how the first process died."""
    tmp_path = prefers_native
    stub(tmp_path, where, death)
    engine = Engine(settings(chat_model, tmp_path))
    await engine.start()
    try:
        assert await answers(engine)
        info = engine.info.settings
        assert "stub" not in info["library"]
        assert "the native build of llama.cpp (stub)" in info["started_after"]
        assert ("status 7" if death == "exit" else death) in info["started_after"]
        assert phase in info["started_after"]
    finally:
        await engine.aclose()


@pytest.mark.parametrize("where", ["AT_LOAD", "IN_SELF_TEST", "AT_MODEL", "AT_DECODE"])
async def test_an_engine_that_may_use_no_other_library_fails_with_the_cause(
    where: str, chat_model: Path, tmp_path: Path
) -> None:
    """After at most two deaths: what died, by which signal, doing what, and what to do."""
    path = stub(tmp_path, where, "SIGILL")
    with pytest.raises(EngineStartFailed) as caught:
        await Engine(settings(chat_model, tmp_path, str(path))).start()
    assert caught.value.message.count("; then ") <= 2  # each takes a second or two
    assert "SIGILL" in caught.value.message
    assert "stub" in caught.value.message
    assert "antiphon engine" in caught.value.hint


async def test_an_engine_that_is_killed_for_memory_says_so(chat_model: Path, tmp_path: Path) -> None:
    """After it was tried with less memory; another library would need as much."""
    path = stub(tmp_path, "AT_MODEL", "SIGKILL")
    with pytest.raises(EngineStartFailed, match="SIGKILL") as caught:
        await Engine(settings(chat_model, tmp_path, str(path))).start()
    assert "with the weights as they are" in caught.value.message
    assert "memory" in caught.value.hint


async def test_a_model_larger_than_the_memory_is_refused_with_both_sizes(chat_model: Path, tmp_path: Path) -> None:
    """Before it is loaded: the machine would swap, or the kernel kill something."""
    large = tmp_path / "large.gguf"
    shutil.copyfile(chat_model, large)
    os.truncate(large, 2**42)
    with pytest.raises(EngineStartFailed, match=r"takes 4398\.0 GB and [\d.]+ GB of memory are free") as caught:
        await Engine(settings(large, tmp_path)).start()
    assert "smaller model" in caught.value.hint
