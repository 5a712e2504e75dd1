"""Which copy of a file is served, on the real model."""

from pathlib import Path

import pytest

from antiphon.engine import EngineSettings, EngineStartFailed
from antiphon.engine.model import weight_format
from antiphon.engine.model.native.active import active
from antiphon.errors import ConfigError

pytestmark = pytest.mark.model


def measured(
    monkeypatch: pytest.MonkeyPatch, by_type: dict[str, tuple[float, float]], dies: frozenset[str] = frozenset()
) -> None:
    """Let conversions write small files and measurements say (processor seconds, divergence), or die."""

    def run(*arguments: str) -> bytes:
        if arguments[0] == "convert":
            Path(arguments[2]).write_bytes(b"copy")
            return b""
        name = Path(arguments[1]).suffixes[-2] if len(Path(arguments[1]).suffixes) > 1 else ""
        if name.removeprefix(".") in dies:
            raise weight_format._ChildFailedError("the process was killed by SIGILL (a reason) while measuring it")
        cpu_s, divergence = by_type.get(name.removeprefix("."), (1.0, 0.0))
        return b'{"cpu_s": %f, "divergence": %f, "size_bytes": 4}' % (cpu_s, divergence)

    monkeypatch.setattr(weight_format, "_run", run)


def serve(model: Path, tmp_path: Path, **given: str) -> weight_format.Served:
    settings = EngineSettings(model_path=model, cache_directory=tmp_path, **given)  # pyright: ignore[reportArgumentType]
    return weight_format.prepare(settings, active())


def test_takes_the_fastest_that_is_as_good(chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fastest copy within the bound of divergence is kept, the other removed, and the choice remembered, if it was written whole."""
    measured(monkeypatch, {"bf16": (0.4, 0.003), "q8_0": (0.3, 0.2)})
    served = serve(chat_model, tmp_path)
    assert served.type == "bf16"
    assert "2.5 times as fast" in served.reason
    assert [path.name for path in tmp_path.glob("*.gguf")] == [served.path.name]
    with monkeypatch.context() as patch:
        patch.setattr(weight_format, "_run", None)
        assert serve(chat_model, tmp_path) == served
    (record,) = tmp_path.glob("*.json")
    record.write_bytes(record.read_bytes()[:9])
    assert serve(chat_model, tmp_path) == served


def test_keeps_the_file_where_nothing_is_worth_it(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gain below the threshold, or a copy that is worse, leaves the file unchanged, and says what was measured."""
    measured(monkeypatch, {"bf16": (0.9, 0.0), "q8_0": (0.2, 0.5)})
    served = serve(chat_model, tmp_path)
    assert (served.path, served.type) == (chat_model, "as-is")
    assert "KL divergence 0.5000" in served.reason
    assert not list(tmp_path.glob("*.gguf"))


def test_a_type_whose_process_dies_is_left_out(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are still measured, and the reason names the type and the signal."""
    measured(monkeypatch, {"q8_0": (0.5, 0.001)}, dies=frozenset({"bf16"}))
    served = serve(chat_model, tmp_path)
    assert served.type == "q8_0"
    assert "bf16: left out, the process was killed by SIGILL" in served.reason


def test_a_file_that_cannot_be_measured_is_served_unchanged_and_measured_again_next_time(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death while the file itself is measured is reported, and nothing is remembered of it."""
    measured(monkeypatch, {}, dies=frozenset({"Q4_1"}))
    served = serve(chat_model, tmp_path)
    assert (served.path, served.type) == (chat_model, "as-is")
    assert "SIGILL" in served.reason
    assert not list(tmp_path.glob("*.json"))


def test_an_embedding_model_in_a_plain_type_is_measured_too(embedding_model: Path, tmp_path: Path) -> None:
    """A copy of an f16 file is served only if it was measured to be faster, with vectors of nearly the same direction."""
    served = serve(embedding_model, tmp_path)
    assert "1 - cosine 0.000" in served.reason
    assert (served.path == embedding_model) is (served.type == "as-is")


def test_as_is_touches_nothing(chat_model: Path, embedding_model: Path, tmp_path: Path) -> None:
    """With as-is, or without a folder for copies, the file itself is served."""
    assert serve(chat_model, tmp_path, weight_format="as-is").path == chat_model
    assert weight_format.prepare(EngineSettings(model_path=embedding_model), active()).path == embedding_model
    with pytest.raises(ConfigError, match="cache_directory"):
        EngineSettings(model_path=chat_model, weight_format="bf16")


def test_converts_for_real(chat_model: Path, tmp_path: Path) -> None:
    """A type that the settings demand is made once, by a process of its own."""
    served = serve(chat_model, tmp_path, weight_format="q8_0")
    assert served.path.stat().st_size > chat_model.stat().st_size
    assert serve(chat_model, tmp_path, weight_format="q8_0") == served
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_failed_conversion_says_what_to_do(tmp_path: Path) -> None:
    """A file that cannot be converted fails the start, and the hint says what to set."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF nonsense")
    with pytest.raises(EngineStartFailed) as caught:
        serve(broken, tmp_path / "cache", weight_format="q8_0")
    assert "as-is" in caught.value.hint
