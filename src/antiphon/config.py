"""One frozen configuration from a TOML file, the environment and command-line options; the later wins.

A file has one table per section (``[server]``, ``[models]``, ``[engine]``, ...). The environment names the same settings
``ANTIPHON_<SECTION>_<KEY>``; options come from the command line as ``{"section": {"key": value}}``. An unknown key or a
value of the wrong type fails and says where it was set. ``ANTIPHON_HOME`` (data) and ``ANTIPHON_CONFIG`` (the file) belong to no
section.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import msgspec
import msgspec.inspect as types
import platformdirs

from antiphon.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

ENV_PREFIX = "ANTIPHON_"
_STANDALONE = {"ANTIPHON_HOME", "ANTIPHON_CONFIG"}
# What msgspec says, and how it writes where.
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_INVALID_ENUM = "Invalid enum value "
_STEP = re.compile(r"\[[^\]]*\]|\.\w+")


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, and where."""

    section: str
    key: str
    value: Any
    origin: str
    is_text: bool = False


def home_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for models and data: ``ANTIPHON_HOME`` or the platform's user data folder."""
    named = environ.get("ANTIPHON_HOME")
    if named is not None and not named.strip():
        raise ConfigError("ANTIPHON_HOME is set but empty", hint="unset it, or set it to a folder")
    return Path(named).expanduser() if named else Path(platformdirs.user_data_dir("antiphon", appauthor=False))


def read_layers(
    sections: Mapping[str, type[msgspec.Struct]],
    *,
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the validated values that were given, ``{section: {key: value}}``; defaults are not filled in.

    ``file`` None: the path in ``ANTIPHON_CONFIG``, else no file.
    """
    if file is None and environ.get("ANTIPHON_CONFIG"):
        file = Path(environ["ANTIPHON_CONFIG"]).expanduser()
    result: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for given in (*_from_file(file, sections), *_from_environment(environ, sections), *_from_options(options or {})):
        result[given.section][given.key] = _convert(given, sections)
    return result


def build(kind: type[T], values: Mapping[str, Any], section: str) -> T:
    """Make a section's frozen value; what its own checks refuse becomes a ``ConfigError`` that names the section."""
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"[{section}] {error}") from error


def _from_file(path: Path | None, sections: Mapping[str, type[msgspec.Struct]]) -> Iterator[Given]:
    if path is None:
        return
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration file {str(path)!r}: {error.strerror}",
            hint="check the path in --config or ANTIPHON_CONFIG",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for section, table in tables.items():
        if section not in sections:
            _unknown(f"table [{section}] in {path}", section, sections)
        if not isinstance(table, dict):
            raise ConfigError(f"{section!r} in {path} is outside a table", hint=f"write it under [{section}]")
        for key, value in cast("dict[str, Any]", table).items():
            yield Given(section, key, value, f"{path}: [{section}] {key}")


def _from_environment(environ: Mapping[str, str], sections: Mapping[str, type[msgspec.Struct]]) -> Iterator[Given]:
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name in _STANDALONE:
            continue
        rest = name.removeprefix(ENV_PREFIX).lower()
        # The longest section wins, so that a section may be another's prefix.
        owners = [s for s in sections if rest.startswith(s + "_")]
        if not owners:
            _unknown(f"environment variable {name}", rest, sections)
        section = max(owners, key=len)
        yield Given(section, rest.removeprefix(section + "_"), value, f"environment variable {name}", is_text=True)


def _from_options(options: Mapping[str, Mapping[str, Any]]) -> Iterator[Given]:
    for section, table in options.items():
        for key, value in table.items():
            if value is not None:
                yield Given(section, key, value, f"option --{key.replace('_', '-')}")


def _convert(given: Given, sections: Mapping[str, type[msgspec.Struct]]) -> Any:
    fields = {f.name: f for f in msgspec.structs.fields(sections[given.section])}
    if given.key not in fields:
        _unknown(given.origin, given.key, fields)
    try:
        kind = fields[given.key].type
        value = _parse_text(given.value, kind) if given.is_text else given.value
        return msgspec.convert(value, kind, strict=not given.is_text, str_keys=True, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError) as error:
        raise _wrong(given, fields[given.key].type, str(error)) from error


def _parse_text(text: str, kind: Any) -> Any:
    """Environment values for lists and tables are JSON; a list may also be separated by commas."""
    name = str(kind)
    if "tuple[" in name or "list[" in name:
        return (
            msgspec.json.decode(text)
            if text.lstrip().startswith("[")
            else [p.strip() for p in text.split(",") if p.strip()]
        )
    if "dict[" in name:
        return msgspec.json.decode(text)
    return text


def _decode(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise ValueError(f"expected a {kind.__name__}")


def _wrong(given: Given, kind: Any, error: str) -> ConfigError:
    """Return msgspec's ``error`` about a value in the words of the file: where in a table it is, and what is possible there."""
    said, _, path = error.partition(" - at `$")
    path = path.removesuffix("`")
    place, expected = f"{given.origin}{path}", _at(types.type_info(kind), path)
    if (unknown := _UNKNOWN_FIELD.fullmatch(said)) and isinstance(expected, types.StructType):
        names = [field.encode_name for field in expected.fields]
        return ConfigError(f"unknown setting: {place} {unknown[1]}", hint=_resembling(unknown[1], names))
    if said.startswith(_INVALID_ENUM) and isinstance(expected, types.LiteralType):
        value = said.removeprefix(_INVALID_ENUM)
        return ConfigError(f"{place}: {value} is not one of {', '.join(map(repr, expected.values))}")
    # A whole table says nothing more, and may hold what belongs in no log.
    got = "" if isinstance(given.value, (dict, list)) else f"; got {given.value!r}"
    return ConfigError(f"{place}: {said}{got}")


def _at(kind: types.Type, path: str) -> types.Type:
    """Return the type at msgspec's ``path`` (``[0].targets[...]``) into ``kind``, without None; ``kind`` where it leads nowhere."""
    for step in ("", *_STEP.findall(path)):
        match kind:
            case types.ListType() | types.VarTupleType() if step:
                kind = kind.item_type
            case types.DictType() if step:
                kind = kind.value_type
            case types.StructType() if step:
                kind = next((f.type for f in kind.fields if f.encode_name == step.removeprefix(".")), kind)
            case _:
                pass
        if isinstance(kind, types.UnionType):
            kind = next((t for t in kind.types if not isinstance(t, types.NoneType)), kind)
    return kind


def _unknown(where: str, name: str, known: Iterable[str]) -> NoReturn:
    raise ConfigError(f"unknown setting: {where}", hint=_resembling(name, known))


def _resembling(name: str, known: Iterable[str]) -> str:
    import difflib  # noqa: PLC0415 - only on the way to an error

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
