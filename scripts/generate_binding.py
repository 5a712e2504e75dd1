"""Generate the ctypes binding of llama.cpp's C API from the headers of the pinned ``xllamacpp``: ``make binding``.

``python scripts/generate_binding.py SOURCE`` reads the unpacked source package and writes
``src/antiphon/engine/model/native/generated.py``. ``--check`` writes nothing and fails where the file would change.

C text goes in, Python text comes out: the few declarations that the engine needs are found by name, their types mapped to
ctypes. What this small parser does not understand ends it with the declaration's name.
"""

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src/antiphon/engine/model/native/generated.py"
HEADERS = ("include/llama.h", "ggml/include/ggml.h", "ggml/include/ggml-cpu.h")
"""Within the llama.cpp of the source package; later declarations may use earlier files' types."""
DEFAULTS = {
    "llama_model_params": ("src/llama-model.cpp", "llama_model_default_params"),
    "llama_context_params": ("src/llama-context.cpp", "llama_context_default_params"),
}
"""Where the values of the parameter structs' defaults are written: a library whose defaults differ does not fit."""
STRUCTS = ("llama_model_params", "llama_context_params", "llama_batch")
ENUMS = ("ggml_type", "llama_pooling_type", "llama_token_attr")
CALLBACKS = ("ggml_abort_callback", "ggml_log_callback")
FUNCTIONS = (
    "llama_backend_init", "llama_context_default_params", "llama_decode", "llama_free", "llama_get_embeddings_seq",
    "llama_get_logits", "llama_get_memory", "llama_init_from_model", "llama_log_set", "llama_memory_clear",
    "llama_memory_seq_cp", "llama_memory_seq_rm", "llama_model_default_params", "llama_model_desc", "llama_model_free",
    "llama_model_get_vocab", "llama_model_has_decoder", "llama_model_has_encoder", "llama_model_is_hybrid",
    "llama_model_is_recurrent", "llama_model_load_from_file", "llama_model_meta_count",
    "llama_model_meta_key_by_index", "llama_model_meta_val_str_by_index", "llama_model_n_cls_out",
    "llama_model_n_ctx_train", "llama_model_n_embd_out", "llama_model_n_head", "llama_model_n_head_kv",
    "llama_model_n_layer", "llama_model_n_params", "llama_model_n_swa", "llama_model_size", "llama_n_ctx", "llama_print_system_info",
    "llama_set_n_threads", "llama_supports_gpu_offload", "llama_token_to_piece", "llama_tokenize", "llama_version",
    "llama_vocab_bos", "llama_vocab_eos", "llama_vocab_fim_mid", "llama_vocab_fim_pre", "llama_vocab_fim_suf",
    "llama_vocab_get_add_bos", "llama_vocab_get_add_eos", "llama_vocab_get_add_sep", "llama_vocab_get_attr",
    "llama_vocab_is_control", "llama_vocab_is_eog", "llama_vocab_n_tokens", "llama_vocab_sep",
)  # fmt: skip
_SCALARS = {
    "int8_t": "c_int8", "int32_t": "c_int32", "uint32_t": "c_uint32", "int64_t": "c_int64", "uint64_t": "c_uint64",
    "size_t": "c_size_t", "float": "c_float", "bool": "c_bool", "llama_token": "c_int32", "llama_pos": "c_int32",
    "llama_seq_id": "c_int32",
}  # fmt: skip
_WORD = re.compile(r"\b(?:const|struct|LLAMA_API|GGML_API)\b")


class Headers:
    """The text of the headers without comments, and what is declared in it."""

    def __init__(self, source: Path) -> None:
        self._llama = source / "thirdparty/llama.cpp"
        self.files = {name: (self._llama / name).read_bytes() for name in HEADERS}
        self._text = "\n".join(_without_comments(data.decode()) for data in self.files.values())

    def version(self) -> str:
        """Return the version that ``llama_version`` reports."""
        text = (self._llama / "CMakeLists.txt").read_text(encoding="utf-8")
        return ".".join(re.findall(r"set\(LLAMA_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", text))

    def enum(self, name: str) -> dict[str, int]:
        """Return the constants of an enum and their values."""
        body = self._find(rf"enum {name} \{{(.*?)\}};", name)
        values: dict[str, int] = {}
        following = 0
        for entry in filter(None, map(str.strip, body.split(","))):
            constant, _, expression = map(str.strip, entry.partition("="))
            following = _evaluate(expression, values) if expression else following
            values[constant] = following
            following += 1
        return values

    def struct(self, name: str) -> list[tuple[str, str]]:
        """Return the fields of a struct and their ctypes, in order."""
        body = self._find(rf"struct {name} \{{(.*?)\}}", name)
        fields = [re.fullmatch(r"(.+?)(\w+)", line.strip(), re.DOTALL) for line in body.split(";") if line.strip()]
        return [(match[2], self.ctype(match[1])) for match in fields if match]

    def callback(self, name: str) -> str:
        """Return a CFUNCTYPE for a typedef of a function pointer."""
        match = re.search(rf"typedef ([\w ]+?) ?\(\*{name}\)\((.*?)\);", self._text, re.DOTALL)
        if match is None:
            sys.exit(f"no callback {name} in the headers")
        return f"CFUNCTYPE({', '.join([self.ctype(match[1]), *self._parameters(match[2])])})"

    def function(self, name: str) -> str:
        """Return (result type, argument types) of a function as Python text."""
        match = re.search(rf"LLAMA_API\s+([\w\s\*]+?)\b{name}\s*\((.*?)\)\s*;", self._text, re.DOTALL)
        if match is None:
            sys.exit(f"no function {name} in the headers")
        parameters = self._parameters(match[2])
        return f"({self.ctype(match[1])}, [{', '.join(parameters)}])"

    def defaults(self, name: str) -> dict[str, float | None]:
        """Return the default of each field of a parameter struct; None is the null pointer."""
        file, function = DEFAULTS[name]
        text = (self._llama / file).read_text(encoding="utf-8")
        body = re.search(rf"{function}\(\) \{{.*?= \{{(.*?)\}};", text, re.DOTALL)
        if body is None:
            sys.exit(f"no defaults of {name} in {file}")
        values = [_default(value.strip(), self) for value in re.findall(r"=\*/ (.*?),", body[1])]
        fields = [field for field, _ in self.struct(name)]
        if len(values) != len(fields):
            sys.exit(f"{name} has {len(fields)} fields and {len(values)} defaults")
        return dict(zip(fields, values, strict=True))

    def constant(self, name: str) -> int:
        """Return a constant of any enum, or a number that is #defined."""
        if match := re.search(rf"#define {name}\s+(\d+)", self._text):
            return int(match[1])
        if match := re.search(rf"enum (\w+) \{{[^}}]*\b{name}\b", self._text):
            return self.enum(match[1])[name]
        sys.exit(f"no constant {name} in the headers")

    def ctype(self, declared: str) -> str:
        """Return the ctypes name of a C type."""
        plain = _WORD.sub("", declared).strip()
        base, stars = plain.rstrip("* \n"), plain.count("*")
        base = " ".join(base.replace("*", "").split())
        if base.startswith("enum "):
            base, scalar = base.removeprefix("enum "), "c_int32"
        else:
            scalar = _SCALARS.get(base, "")
        if stars == 0:
            if base == "void":
                return "None"
            if scalar or base in STRUCTS or base in CALLBACKS:
                return scalar or base
            return "c_void_p"  # a typedef of a pointer: to a function that is not set, or to what stays opaque
        if base == "char" and stars == 1:
            return "c_char_p"
        return f"{'POINTER(' * stars}{scalar}{')' * stars}" if scalar else "c_void_p"

    def _parameters(self, text: str) -> list[str]:
        given = [part.strip() for part in text.split(",")]
        return [] if given in (["void"], [""]) else [self.ctype(re.sub(r"(?<=[\s\*])\w+$", "", part)) for part in given]

    def _find(self, pattern: str, name: str) -> str:
        match = re.search(pattern, self._text, re.DOTALL)
        if match is None:
            sys.exit(f"no {name} in the headers")
        return match[1]


def _without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def _evaluate(expression: str, known: dict[str, int]) -> int:
    if expression in known:
        return known[expression]
    if shift := re.fullmatch(r"(\d+)u? << (\d+)", expression):
        return int(shift[1]) << int(shift[2])
    return int(expression.rstrip("uU"), 0)


def _default(text: str, headers: Headers) -> float | None:
    if text == "nullptr":
        return None
    if text in {"true", "false"}:
        return int(text == "true")
    if re.fullmatch(r"-?[\d.]+f?", text):
        return float(text.rstrip("f")) if "." in text else int(text)
    return headers.constant(text)


def generate(source: Path) -> str:
    """Return the text of the binding to the llama.cpp in ``source``, an unpacked source package of xllamacpp."""
    version = re.search(r"^Version: (\S+)", (source / "PKG-INFO").read_text(encoding="utf-8"), re.MULTILINE)
    if version is None:
        sys.exit(f"{source} is not an unpacked source package of xllamacpp")
    return "\n".join(_lines(Headers(source), version[1])) + "\n"


def _lines(headers: Headers, version: str) -> Iterator[str]:
    yield f'"""llama.cpp\'s C API in xllamacpp {version}. Generated by scripts/generate_binding.py: do not edit."""'
    yield ""
    yield "# ruff: noqa: D101, N801"
    yield "from ctypes import CFUNCTYPE, POINTER, Structure, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t"
    yield "from ctypes import c_uint32, c_uint64, c_void_p"
    yield "from typing import Any, Final"
    yield ""
    yield f'PACKAGE_VERSION: Final = "{version}"'
    yield f'LLAMA_VERSION: Final = "{headers.version()}"'
    yield f'GENERATOR: Final = "{digest(Path(__file__).read_bytes())}"'
    yield '"""sha256 of the program that generated this file."""'
    yield f"HEADERS: Final = { ({name: digest(data) for name, data in headers.files.items()})!r}"
    yield '"""sha256 of the headers it was generated from."""'
    yield "CONSTANTS: Final[dict[str, Any]] = {"
    for name in ENUMS:
        yield from (f"    {constant!r}: {value}," for constant, value in headers.enum(name).items())
    yield '    "llama_token": c_int32,'
    yield '    "llama_pos": c_int32,'
    yield "}"
    for name in CALLBACKS:
        yield f"{name}: Final = {headers.callback(name)}"
    for name in STRUCTS:
        yield f"\n\nclass {name}(Structure):"
        yield "    _fields_ = ("
        yield from (f"        ({field!r}, {kind})," for field, kind in headers.struct(name))
        yield "    )"
    yield "\n"
    yield f"STRUCTS: Final = ({', '.join(STRUCTS)})"
    yield f"CALLBACKS: Final[dict[str, Any]] = {{{', '.join(f'{name!r}: {name}' for name in CALLBACKS)}}}"
    yield "DEFAULTS: Final[dict[str, dict[str, float | None]]] = {"
    for name in DEFAULTS:
        yield f"    {name!r}: {headers.defaults(name)!r},"
    yield "}"
    yield "FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {"
    yield from (f"    {name!r}: {headers.function(name)}," for name in FUNCTIONS)
    yield "}"


def digest(data: bytes) -> str:
    """Return the sha256 of a file's bytes."""
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Write or check the binding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the unpacked source package of xllamacpp")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the binding would change")
    given = parser.parse_args()
    text = _formatted(generate(given.source))
    if not given.check:
        TARGET.write_text(text, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET} does not fit {given.source}: run this program without --check")


def _formatted(text: str) -> str:
    for command in (["check", "--quiet", "--fix"], ["format", "--quiet"]):
        given = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET), "-"]
        text = subprocess.run(given, input=text, capture_output=True, text=True, check=True).stdout
    return text


if __name__ == "__main__":
    main()
