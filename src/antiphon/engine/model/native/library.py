"""Loads a shared library of llama.cpp and checks that it is what its binding describes.

Two bindings: ``generated``, for the llama.cpp of the pinned ``xllamacpp`` (prebuilt, or built here from the same source),
and the one in ``llama-cpp-python``, for the library of that package. A field too many in a parameter struct would shift all
fields after it, and the damage would show somewhere else; so a library whose default parameters or version differ from its
binding's is refused by name.
"""

import ctypes
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, Literal

import msgspec

from antiphon.engine.model.native import generated

Kind = Literal["prebuilt", "native", "llama-cpp-python"]
PREBUILT_PACKAGE: Final = "xllamacpp"
_STRUCT_PAIRS: Final = (
    ("llama_model_params", "llama_model_default_params"),
    ("llama_context_params", "llama_context_default_params"),
)


class LibraryRefusedError(Exception):
    """The library cannot be loaded, or does not fit its binding; the message says which and why."""


class Candidate(msgspec.Struct, frozen=True):
    """A library that was found: the shared library's file, and the version of the package or source it comes from."""

    kind: Kind
    path: Path
    version: str

    @property
    def name(self) -> str:
        """How messages call it."""
        if self.kind == "native":
            return f"the native build of llama.cpp ({self.version})"
        return f"{PREBUILT_PACKAGE if self.kind == 'prebuilt' else self.kind} {self.version}"


class Library(msgspec.Struct, frozen=True):
    """A loaded library: the C API as attributes of ``api``, and the instruction sets that it was compiled for."""

    candidate: Candidate
    api: Any
    instruction_sets: tuple[str, ...]


def load(candidate: Candidate) -> Library:
    """Load a library and check it.

    Raises:
        LibraryRefusedError: it cannot be loaded, lacks a function, or has other parameters than its binding.
    """
    try:
        api = _packaged_api() if candidate.kind == "llama-cpp-python" else _generated_api(candidate.path)
    except OSError as error:
        raise LibraryRefusedError(f"{candidate.name} cannot be loaded: {error}{_missing_hint(str(error))}") from error
    except AttributeError as error:
        raise LibraryRefusedError(f"{candidate.name} lacks a function that the engine needs: {error}") from error
    if candidate.kind != "llama-cpp-python" and (problem := _misfit(candidate, api)):
        raise LibraryRefusedError(
            f"{candidate.name} ({candidate.path}) does not fit the binding, which is for {PREBUILT_PACKAGE} "
            f"{generated.PACKAGE_VERSION}: {problem}"
        )
    info: bytes = api.llama_print_system_info()
    return Library(candidate, api, instruction_sets(info.decode("utf-8", "replace")))


def instruction_sets(system_info: str) -> tuple[str, ...]:
    """Return the names that llama.cpp reports as used, as ``AVX2`` in "CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0"."""
    return tuple(re.findall(r"(\w+) = [1-9]\d*", system_info))


def _generated_api(path: Path) -> Any:
    library = ctypes.CDLL(str(path))
    api = SimpleNamespace(**generated.CONSTANTS, **generated.CALLBACKS, library=library)
    for struct in generated.STRUCTS:
        setattr(api, struct.__name__, struct)
    for name, (result, parameters) in generated.FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
        setattr(api, name, function)
    return api


def _packaged_api() -> Any:
    # Importing it loads its library. It is optional, so type checkers may not find it.
    module: Any = import_module("llama_cpp.llama_cpp")
    api = SimpleNamespace(**generated.CONSTANTS, library=module._lib)  # noqa: SLF001 - llguidance needs an address of a function in it
    api.ggml_abort_callback, api.ggml_log_callback = module.ggml_abort_callback, module.llama_log_callback
    for name in (*(struct.__name__ for struct in generated.STRUCTS), *generated.FUNCTIONS):
        if name != "llama_version":
            setattr(api, name, getattr(module, name))
    return api


def _misfit(candidate: Candidate, api: Any) -> str:
    """Return how a library differs from the generated binding, empty if it does not."""
    if candidate.kind == "prebuilt" and candidate.version != generated.PACKAGE_VERSION:
        return f"install it with: pip install {PREBUILT_PACKAGE}=={generated.PACKAGE_VERSION}"
    version: str = api.llama_version().decode().partition("-")[0]
    if version != generated.LLAMA_VERSION:
        return f"it is llama.cpp {version}, not {generated.LLAMA_VERSION}"
    for struct, function in _STRUCT_PAIRS:
        actual = getattr(api, function)()
        for field, expected in generated.DEFAULTS[struct].items():
            value = getattr(actual, field)
            fits = not value if expected is None else value == expected
            if not fits:
                return f"the default of {struct}.{field} is {value!r}, not {expected!r}"
    return ""


def _missing_hint(error: str) -> str:
    return " (install the package libgomp1, or libgomp)" if "libgomp" in error else ""
