"""Which copy of a file is served, on the real model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import msgspec
import pytest
from tests.engine.tiny_models import bert, hybrid, plain_attention, recurrent
from tests.installed import HAS_OPENVINO, NO_OPENVINO, needs_llama

from antiphon.engine import EngineSettings, EngineStartFailed
from antiphon.engine.model import file_header, weight_format
from antiphon.engine.model.native.active import active
from antiphon.engine.model.openvino.support import weight_types
from antiphon.engine.model.quantise import QuantiseError, quantise
from antiphon.engine.model.weight_format import remarks
from antiphon.errors import ConfigError

pytestmark = [pytest.mark.model, needs_llama]


def measured(
    monkeypatch: pytest.MonkeyPatch, by_type: dict[str, tuple[float, float]], dies: frozenset[str] = frozenset()
) -> None:
    """Let conversions write small files and measurements say (processor seconds, divergence), or die.

    OpenVINO's copies are named as "f16.openvino".
    """

    def run(*arguments: str) -> bytes:
        match arguments:
            case ["convert", _, target, _]:
                Path(target).write_bytes(b"copy")
            case ["convert-openvino", _, target, _]:
                Path(target).mkdir()
            case ["measure", path, source, *_]:
                name = Path(path).name
                kind = (
                    "as-is"
                    if path == source
                    else next(kind for kind in (*by_type, *dies, "?") if f".{kind}" in name or kind == "?")
                )
                if kind in dies:
                    raise weight_format._ChildFailedError(
                        "the process was killed by SIGILL (a reason) while measuring it"
                    )
                cpu_s, divergence = by_type.get(kind, (1.0, 0.0))
                works = {"prompt": cpu_s, "8 rows": cpu_s}
                return msgspec.json.encode({"cpu_s": works, "divergence": divergence, "size_bytes": 4})
            case _:
                pass
        return b""

    monkeypatch.setattr(weight_format, "_run", run)


def serve(model: Path, tmp_path: Path, **given: Any) -> weight_format.Served:
    settings = EngineSettings(model_path=model, cache_directory=tmp_path, **given)
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
    (remark,) = remarks(served.reason)
    assert remark.startswith("bf16: left out, the process was killed by SIGILL")


def test_a_file_that_cannot_be_measured_is_served_unchanged_and_measured_again_next_time(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A death while the file itself is measured is reported, and nothing is remembered of it."""
    measured(monkeypatch, {}, dies=frozenset({"as-is"}))
    served = serve(chat_model, tmp_path)
    assert (served.path, served.type) == (chat_model, "as-is")
    assert "SIGILL" in served.reason
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("command", ["convert", "refer", "measure"])
def test_a_full_disk_is_named_and_not_kept_full(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Where a copy cannot be written, the reason is the error alone, without a traceback, and no part of a copy stays."""
    full = "import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    real = subprocess.run

    def run(arguments: list[str], **given: Any) -> Any:
        if "antiphon.engine.model.measurement" not in arguments:
            return real(arguments, **given)
        asked = arguments[3]
        if asked.startswith("convert"):  # it names a file to write; the others name the model in its place
            Path(arguments[5]).write_bytes(b"half of it")
        return real([sys.executable, "-c", full if asked == command else ""], **given)

    monkeypatch.setattr(weight_format.subprocess, "run", run)
    monkeypatch.setenv("ANTIPHON_ENGINE_RUNTIME", "auto")
    served = serve(chat_model, tmp_path)
    assert (served.path, served.type) == (chat_model, "as-is")
    assert served.reason.endswith("it: OSError: [Errno 28] No space left on device")
    assert remarks(served.reason) == [served.reason]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_an_embedding_model_in_a_plain_type_is_measured_too(
    embedding_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of an f16 file is served only if it was measured to be faster, with vectors of nearly the same direction, once."""
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    served = serve(embedding_model, tmp_path)
    assert "1 - cosine 0.000" in served.reason
    assert "for a short text, " in served.reason
    assert ("f16 with OpenVINO: " in served.reason) is HAS_OPENVINO
    assert (served.path == embedding_model) is (served.type == "as-is")
    assert (served.runtime == "openvino") is served.path.is_dir()
    monkeypatch.setattr(weight_format, "_run", None)
    assert serve(embedding_model, tmp_path) == served


def test_as_is_touches_nothing(chat_model: Path, embedding_model: Path, tmp_path: Path) -> None:
    """With as-is, or without a folder for copies, the file itself is served."""
    assert serve(chat_model, tmp_path, weight_format="as-is").path == chat_model
    assert weight_format.prepare(EngineSettings(model_path=embedding_model), active()).path == embedding_model
    with pytest.raises(ConfigError, match="cache_directory"):
        EngineSettings(model_path=chat_model, weight_format="bf16")


def test_openvino_is_chosen_where_it_is_faster(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The candidates of both runtimes are compared; the winner's folder is kept, and the numbers of each work are told."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    measured(monkeypatch, {"bf16.gguf": (0.5, 0.001), "f16.openvino": (0.25, 0.001), "q8_0.openvino": (0.2, 0.02)})
    served = serve(chat_model, tmp_path)
    assert (served.runtime, served.type) == ("openvino", "f16")
    assert "f16 with OpenVINO: 4.0 times as fast (4.0 for prompt, 4.0 for 8 rows)" in served.reason
    assert [path.name for path in tmp_path.glob("*.openvino-*") if path.is_dir()] == [served.path.name]
    assert not list(tmp_path.glob("*.gguf"))
    assert serve(chat_model, tmp_path) == served


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kv_type_k": "q4_0", "kv_type_v": "q4_0"}, "keys and values in one type"),
        ({"flash_attention": False}, "flash_attention is off"),
        ({"gpu_layers": 4}, "gpu_layers is set"),
    ],
)
def test_what_openvino_cannot_do_goes_to_llama(
    given: dict[str, Any], reason: str, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under auto the reason is told; where OpenVINO is demanded, the start fails and says how to go on."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    measured(monkeypatch, {"bf16.gguf": (0.5, 0.001), "f16.openvino": (0.1, 0.001)})
    served = serve(chat_model, tmp_path, **given)
    assert (served.runtime, served.type) == ("llama", "bf16")
    assert f"llama.cpp and not OpenVINO: it {reason}" in served.reason or reason in served.reason
    with pytest.raises(EngineStartFailed, match=reason) as caught:
        serve(chat_model, tmp_path, runtime="openvino", **given)
    assert "runtime = 'auto'" in caught.value.hint


def test_a_large_file_is_not_converted_unasked(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under auto llama.cpp serves it, and the reason says what converting costs and how to ask for it; it works when asked."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    monkeypatch.setattr(weight_format, "MOST_BYTES", 1000)
    monkeypatch.setattr(file_header, "MOST_BYTES", 1000)
    measured(monkeypatch, {"f16.openvino": (0.1, 0.001), "q8_0.openvino": (0.1, 0.02)})
    served = serve(chat_model, tmp_path)
    assert (served.runtime, served.type) == ("llama", "as-is")
    assert "llama.cpp and not OpenVINO: converting 0.1 GB takes minutes and about 0 GB of memory" in served.reason
    assert "runtime = 'openvino' does it" in served.reason
    assert serve(chat_model, tmp_path, runtime="openvino").runtime == "openvino"
    unknown = tmp_path / "mamba.gguf"
    recurrent(unknown)
    assert "runtime = 'openvino'" not in serve(unknown, tmp_path).reason


def test_an_unknown_architecture_goes_to_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is not even tried where its reader knows nothing of the architecture."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    model = tmp_path / "mamba.gguf"
    recurrent(model)
    served = serve(model, tmp_path / "cache")
    assert (served.runtime, served.type) == ("llama", "as-is")
    assert "architecture 'mamba'" in served.reason


def test_an_encoder_of_another_family_goes_to_llama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The start says which embedding models are not built; one of a family that is built has OpenVINO among its candidates."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    measured(monkeypatch, {"f16.openvino": (0.25, 0.0)})
    other, known = tmp_path / "lfm2.gguf", tmp_path / "bert.gguf"
    hybrid(other, gguf.PoolingType.MEAN)
    served = serve(other, tmp_path / "cache")
    assert served.runtime == "llama"
    assert "llama.cpp and not OpenVINO: embedding models of the architecture 'lfm2' are not converted" in served.reason
    with pytest.raises(EngineStartFailed, match="architecture 'lfm2'"):
        serve(other, tmp_path / "cache", runtime="openvino")
    bert(known)
    served = serve(known, tmp_path / "cache")
    assert (served.runtime, served.type) == ("openvino", "f16")


@pytest.mark.parametrize(
    ("file_type", "is_encoder", "flags", "types"),
    [
        ("1", True, {"avx2"}, ["f16", "q8_0"]),
        ("1", True, {"avx2", "avx512_bf16"}, ["f16"]),
        ("7", True, {"avx512_bf16"}, ["q8_0", "f16"]),
        ("2", True, set[str](), ["f16", "q8_0"]),
        ("1", False, {"avx512_bf16"}, ["f16", "q8_0"]),
        ("2", False, set[str](), ["q4_0", "f16"]),
        ("15", False, set[str](), ["q4_0", "q8_0", "f16"]),
    ],
)
def test_which_types_are_tried_with_openvino(
    file_type: str, is_encoder: bool, flags: set[str], types: list[str]
) -> None:
    """What is nearest to the file first; of encoders, eight bits only where they are worth it."""
    assert weight_types(file_type, is_encoder=is_encoder, flags=frozenset(flags)) == types


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


@pytest.mark.parametrize("wanted", ["auto", "q8_0"])
def test_a_failed_conversion_for_openvino_says_what_to_do(
    wanted: Any, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where OpenVINO has to serve, a file that its reader does not take fails the start, whether or not a type was asked for."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)

    def fail(*arguments: str) -> bytes:
        raise weight_format._ChildFailedError(f"the process ended while {arguments[0]}")

    monkeypatch.setattr(weight_format, "_run", fail)
    with pytest.raises(
        EngineStartFailed, match=r"could not be converted to .* with OpenVINO: the process ended"
    ) as caught:
        serve(chat_model, tmp_path, runtime="openvino", weight_format=wanted)
    assert caught.value.hint


@pytest.mark.parametrize("runtime", ["auto", "openvino"])
def test_a_choice_holds_for_one_version_of_openvino(
    runtime: Any, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update the file is measured again, also where OpenVINO alone may serve it."""
    pytest.importorskip("openvino_genai", reason=NO_OPENVINO)
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    measured(monkeypatch, {"f16.openvino": (0.25, 0.001), "q8_0.openvino": (0.2, 0.02)})
    assert serve(chat_model, tmp_path, runtime=runtime).type == "f16"
    measured(monkeypatch, {"f16.openvino": (0.25, 0.001), "q8_0.openvino": (0.2, 0.001)})
    assert serve(chat_model, tmp_path, runtime=runtime).type == "f16"
    monkeypatch.setattr(weight_format, "version", lambda: "2099.1")
    assert serve(chat_model, tmp_path, runtime=runtime).type == "q8_0"


def test_a_model_in_several_files_is_not_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of one of its files would lack the weights of the others; all of them count as its size."""
    monkeypatch.delenv("ANTIPHON_ENGINE_RUNTIME", raising=False)
    monkeypatch.setattr(weight_format, "_run", None)
    plain_attention(tmp_path / "tiny.gguf", file_type=3, tensors_per_file=8)
    files = sorted(tmp_path.glob("*.gguf"))
    served = serve(files[0], tmp_path / "copies")
    assert (served.path, served.type) == (files[0], "as-is")
    assert served.reason.startswith("models in several files are not converted")
    assert file_header.read_file_header(files[0]).size_bytes == sum(file.stat().st_size for file in files)
    with pytest.raises(QuantiseError, match=f"one of {len(files)} files"):
        quantise(files[0], tmp_path / "copy.gguf", "q8_0")
    with pytest.raises(EngineStartFailed, match=r"models in several files are not converted|not installed"):
        serve(files[0], tmp_path / "copies", runtime="openvino")


def test_an_environment_that_names_no_runtime_is_refused(
    chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the variable, what it says, and what it may say."""
    monkeypatch.setenv("ANTIPHON_ENGINE_RUNTIME", "opevino")
    with pytest.raises(EngineStartFailed, match="ANTIPHON_ENGINE_RUNTIME is 'opevino'") as caught:
        serve(chat_model, tmp_path)
    assert "openvino" in caught.value.hint
