"""A native build: the compiler, its flags, and what comes of it, with a stand-in for CMake."""

import os
import stat
import tarfile
from pathlib import Path

import pytest

from antiphon.engine.model.native import generated
from antiphon.engine.model.native.build import build
from antiphon.engine.model.native.compiler import BuildError, Compiler, extra_flags, find_compiler, parse_version
from antiphon.engine.model.native.find import find_libraries, library_names

DEBIAN_12 = "c++ (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc.\n"


@pytest.mark.parametrize(
    ("shown", "family", "version"),
    [
        (DEBIAN_12, "gcc", (12, 2, 0)),
        ("g++ (Ubuntu 13.3.0-6ubuntu2~24.04) 13.3.0\n", "gcc", (13, 3, 0)),
        ("g++ (GCC) 14.2.1 20250110 (Red Hat 14.2.1-7)\n", "gcc", (14, 2, 1)),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\n", "clang", (14, 0, 6)),
        ("Apple clang version 17.0.0 (clang-1700.0.13.3)\n", "clang", (17, 0, 0)),
        ("something\n", "other", ()),
    ],
)
def test_a_compiler_is_known_by_what_it_prints(shown: str, family: str, version: tuple[int, ...]) -> None:
    """Family and version, from the first line of --version."""
    compiler = parse_version("c++", shown)
    assert (compiler.family, compiler.version) == (family, version)


@pytest.mark.parametrize(
    ("version", "is_affected"),
    [
        ((11, 5, 0), True),
        ((12, 2, 0), True),
        ((12, 3, 0), True),
        ((12, 4, 0), False),
        ((13, 2, 0), True),
        ((13, 3, 0), False),
        ((14, 1, 0), False),
        ((15, 1, 0), False),
    ],
)
def test_compilers_that_drop_the_tile_configuration_get_the_flags(version: tuple[int, ...], is_affected: bool) -> None:
    """GCC on x86-64 before 12.4, 13.3 and 14; no other compiler and no other machine."""
    flags = ("-fno-tree-dse", "-fno-dse")
    assert extra_flags(Compiler("g++", "gcc", version), "x86_64") == (flags if is_affected else ())
    assert extra_flags(Compiler("g++", "gcc", version), "aarch64") == ()
    assert extra_flags(Compiler("clang++", "clang", version), "x86_64") == ()


def test_without_a_compiler_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    """And that the prebuilt library needs none."""
    with pytest.raises(BuildError, match="no C\\+\\+ compiler") as caught:
        find_compiler({"PATH": str(tmp_path)})
    assert "prebuilt" in caught.value.hint
    with pytest.raises(BuildError, match="my-compiler"):
        find_compiler({"PATH": str(tmp_path), "CXX": "my-compiler"})


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search path with a compiler like Debian 12's, and a CMake that makes a library of what it was called with."""
    folder = tmp_path / "tools"
    folder.mkdir()
    program(folder, "c++", f"printf '%s' '{DEBIAN_12}'")
    library = library_names()[0]
    program(
        folder,
        "cmake",
        'if [ "$1" = "-S" ]; then mkdir -p "$4/bin"; echo "$@" > "$4/called"; else\n'
        f'echo "[  7%] Building"; echo "[100%] Built target llama"; mv "$2/called" "$2/bin/{library}"; fi',
    )
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), "/usr/bin", "/bin"]))
    monkeypatch.delenv("CXX", raising=False)
    return folder


def package(tmp_path: Path, version: str) -> Path:
    source = tmp_path / "xllamacpp-1"
    (source / "thirdparty/llama.cpp").mkdir(parents=True)
    (source / "thirdparty/llama.cpp/CMakeLists.txt").write_text("")
    (source / "PKG-INFO").write_text(f"Name: xllamacpp\nVersion: {version}\n")
    archive = tmp_path / "xllamacpp-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(source, source.name)
        file.add(source / "PKG-INFO", "../outside")
    return archive


def test_a_build_lands_where_it_is_found_and_says_how_far_it_is(tools: Path, tmp_path: Path) -> None:
    """With the flags that the compiler needs; a second build replaces the first, and nothing else is left behind."""
    steps: list[tuple[str, float | None]] = []
    directory = tmp_path / "engine"
    archive = package(tmp_path, generated.PACKAGE_VERSION)
    built = build(
        directory, lambda step, share: steps.append((step, share)), source=archive, options=["-DGGML_CUDA=ON"]
    )
    called = built.path.read_text()
    assert "-DGGML_NATIVE=ON" in called
    assert "-DGGML_CUDA=ON" in called
    assert steps == [("unpacking", None), ("configuring", None), ("compiling", 0.07), ("compiling", 1.0)]
    assert [one for one in find_libraries(directory) if one.kind == "native"] == [built]
    assert build(directory, lambda *_: None, source=archive) == built
    assert len(list(directory.iterdir())) == 1
    assert not list(tmp_path.rglob("outside"))


def test_another_source_than_the_bindings_is_refused(tools: Path, tmp_path: Path) -> None:
    """The library would not fit the binding."""
    with pytest.raises(BuildError, match=r"the source is 1\.0, not xllamacpp"):
        build(tmp_path / "engine", lambda *_: None, source=package(tmp_path, "1.0"))


def test_a_failed_compilation_shows_the_last_lines(tools: Path, tmp_path: Path) -> None:
    """What the compiler said is what helps."""
    program(tools, "cmake", "echo 'fatal error: no space left'; exit 3")
    with pytest.raises(BuildError, match=r"cmake failed with status 3:\nfatal error: no space left"):
        build(tmp_path / "engine", lambda *_: None, source=package(tmp_path, generated.PACKAGE_VERSION))
    assert not list((tmp_path / "engine").iterdir())
