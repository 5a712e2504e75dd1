"""The libraries of llama.cpp on this machine: finding them, the generated binding, and refusing what does not fit."""

import hashlib
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.installed import needs_llama

from antiphon.engine.model.native import find, generated, library
from antiphon.engine.model.native.active import active
from antiphon.engine.model.native.find import find_libraries, selected
from antiphon.engine.model.native.library import Candidate, LibraryRefusedError, instruction_sets
from antiphon.engine.model.native.processor import parse_flags, processor_key, unused_sets

ROOT = Path(__file__).resolve().parents[2]
SOURCE = os.environ.get("XLLAMACPP_SOURCE")


def test_the_binding_is_for_the_pinned_package_and_was_made_by_this_generator() -> None:
    """A changed pin, in either file, or a changed generator makes the binding stale: run `make binding`."""
    pin = re.search(r"^xllamacpp==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin is not None
    assert pin[1] == generated.PACKAGE_VERSION
    assert f'"xllamacpp=={generated.PACKAGE_VERSION}"' in (ROOT / "pyproject.toml").read_text()
    generator = hashlib.sha256((ROOT / "scripts/generate_binding.py").read_bytes()).hexdigest()
    assert generator == generated.GENERATOR


@pytest.mark.skipif(SOURCE is None, reason="XLLAMACPP_SOURCE names no unpacked source package of xllamacpp")
def test_the_binding_is_what_the_headers_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generating it again from the source package changes nothing."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", ["generate_binding.py", str(SOURCE), "--check"])
    import generate_binding  # pyright: ignore[reportMissingImports]  # noqa: PLC0415 - a script, not a package

    generate_binding.main()


def api_with(**changed: Any) -> Any:
    """A library as the binding describes it, but for some defaults ``struct__field`` and the version."""
    api = SimpleNamespace(llama_version=lambda: changed.pop("version", generated.LLAMA_VERSION).encode())
    for struct, function in library._STRUCT_PAIRS:
        values = {field: value for field, value in generated.DEFAULTS[struct].items() if value is not None}
        values |= {k.partition("__")[2]: v for k, v in changed.items() if k.partition("__")[0] == struct}
        kind = next(one for one in generated.STRUCTS if one.__name__ == struct)
        setattr(api, function, lambda kind=kind, values=values: kind(**values))
    return api


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, ""),
        ({"version": "0.6.0-dev"}, ""),
        ({"version": "0.7.0"}, "it is llama.cpp 0.7.0"),
        ({"llama_context_params__offload_kqv": False}, "llama_context_params.offload_kqv is False"),
        ({"llama_context_params__n_samplers": 1}, "llama_context_params.n_samplers is 1"),
        ({"llama_model_params__use_extra_bufts": False}, "llama_model_params.use_extra_bufts is False"),
    ],
)
def test_a_library_with_other_parameters_than_its_binding_is_refused(changed: dict[str, Any], message: str) -> None:
    """What a field too many or too few would shift shows in the defaults; the message names the field."""
    candidate = Candidate("native", Path("/x/libllama.so"), generated.PACKAGE_VERSION)
    problem = library._misfit(candidate, api_with(**changed))
    assert message in problem
    assert bool(message) is bool(problem)


def test_another_version_of_the_package_is_refused_with_the_command_that_fixes_it() -> None:
    """The binding is for one version only."""
    candidate = Candidate("prebuilt", Path("/x/xllamacpp.abi3.so"), "2025.1.1")
    assert f"pip install xllamacpp=={generated.PACKAGE_VERSION}" in library._misfit(candidate, api_with())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a library", "cannot be loaded"), (None, "lacks a function that the engine needs")],
)
def test_what_is_not_llama_cpp_is_refused_by_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that is no library, and a library that is not llama.cpp."""
    path = tmp_path / "libllama.so"
    if content is None:
        import _ctypes  # noqa: PLC0415 - some shared library of Python's own

        if not getattr(_ctypes, "__file__", ""):
            pytest.skip("this Python has ctypes built in")
        path.write_bytes(Path(_ctypes.__file__).read_bytes())
    else:
        path.write_bytes(content)
    with pytest.raises(LibraryRefusedError, match=message):
        library.load(Candidate("native", path, "1"))


def test_a_missing_openmp_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slim images lack it."""

    def fail(_path: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(library.ctypes, "CDLL", fail)
    with pytest.raises(LibraryRefusedError, match="install the package libgomp1"):
        library.load(Candidate("prebuilt", Path("/x"), generated.PACKAGE_VERSION))


@needs_llama
def test_the_library_of_this_process_has_all_that_the_binding_names() -> None:
    """It is loaded, checked, and says which instruction sets it was compiled for."""
    loaded = active()
    assert set(generated.FUNCTIONS) - {"llama_version"} <= set(vars(loaded.api))
    assert loaded.instruction_sets


def build(folder: Path, processor: str) -> Path:
    folder.mkdir(parents=True)
    (folder / find.MANIFEST).write_bytes(msgspec.json.encode(find.Build("1.2", processor, "gcc 14", "")))
    path = folder / find.library_names()[0]
    path.write_bytes(b"")
    return path.resolve()


def test_native_builds_are_found_for_this_processor_only(tmp_path: Path) -> None:
    """A home that moved to another machine brings no library that the new one cannot run."""
    here = build(tmp_path / "here", processor_key())
    build(tmp_path / "elsewhere", "another")
    found = [candidate for candidate in find_libraries(tmp_path) if candidate.kind == "native"]
    assert found == [Candidate("native", here, "1.2")]


def test_the_setting_selects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By kind or by path; the environment variable replaces `auto`."""
    file = tmp_path / "libother.so"
    file.write_bytes(b"")
    prebuilt, native, packaged = (
        Candidate("prebuilt", Path("/a"), "1"),
        Candidate("native", Path("/b"), "1"),
        Candidate("llama-cpp-python", Path("/c"), "1"),
    )
    every = [prebuilt, native, packaged]
    monkeypatch.delenv(find.ENVIRONMENT_VARIABLE, raising=False)
    assert selected(every, "auto") == selected(every, None) == every
    assert selected(every, "prebuilt") == [prebuilt]
    assert selected(every, "native") == [native, packaged]
    assert [candidate.path for candidate in selected(every, str(file))] == [file]
    with pytest.raises(LibraryRefusedError, match="no library '/nowhere'"):
        selected(every, "/nowhere")
    monkeypatch.setenv(find.ENVIRONMENT_VARIABLE, "prebuilt")
    assert selected(every, "auto") == [prebuilt]
    assert selected(every, "native") == [native, packaged]


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("linux", ("libllama.so",)),
        ("darwin", ("libllama.dylib", "libllama.so")),
        ("win32", ("llama.dll", "libllama.dll")),
    ],
)
def test_a_library_has_its_platforms_name(
    platform: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the platform's linker writes it."""
    monkeypatch.setattr(sys, "platform", platform)
    assert find.library_names() == names


def test_instruction_sets_are_read_from_what_llama_cpp_and_the_kernel_write() -> None:
    """Those in use, those here, and those here that are not used."""
    used = instruction_sets("CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0 | SVE_CNT = 16 | REPACK = 1 | ")
    assert used == ("SSE3", "AVX2", "SVE_CNT", "REPACK")
    flags = parse_flags("processor\t: 0\nflags\t\t: fpu avx2 avx512f amx_int8\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert flags == {"fpu", "avx2", "avx512f", "amx_int8"}
    assert unused_sets(used, flags) == ("AVX512", "AMX_INT8")
    assert parse_flags("Features\t: fp asimd i8mm\n") == {"fp", "asimd", "i8mm"}
