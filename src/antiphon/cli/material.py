"""What a question consists of in addition to its words: fragments, attachments, and a template with its parameters."""

import base64
import mimetypes
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template as Placeholders
from typing import Annotated, Any

import httpx2
import msgspec
from cyclopts import Parameter

from antiphon.config import home_directory
from antiphon.errors import AntiphonError

_MAX_BYTES = 20 * 1024 * 1024
_FETCH_TIMEOUT_S = 30.0
_AUDIO = {"audio/x-wav": "wav", "audio/wav": "wav", "audio/mpeg": "mp3"}


@Parameter(name="*")
@dataclass(frozen=True)
class Material:
    """The options of a command that say what is asked in addition to the words of the question."""

    fragment: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--fragment", "-f"], negative="", help="Text file or URL to put before the question; repeat it."
        ),
    ] = ()
    attachment: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--attachment", "-a"], negative="", help="Image, PDF or audio file, or an image's URL; repeat it."
        ),
    ] = ()
    template: Annotated[
        str | None, Parameter(name=["--template", "-t"], help="Template to ask with: antiphon templates.")
    ] = None
    param: Annotated[
        tuple[str, ...],
        Parameter(name=["--param", "-p"], negative="", help="NAME=VALUE for a $NAME of the template; repeat it."),
    ] = ()


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A question that is asked again and again; ``prompt`` has ``$input`` for the words of the command, and ``$NAME``."""

    prompt: str = ""
    system: str = ""
    model: str = ""
    fragments: tuple[str, ...] = ()
    schema: str = ""

    def filled(self, words: str, given: Sequence[str]) -> str:
        """Return the prompt for ``words``. Raises AntiphonError for a placeholder without a value, or a value without one."""
        values = {"input": words}
        for pair in given:
            name, equals, value = pair.partition("=")
            if not equals:
                raise AntiphonError(f"cannot read the parameter {pair!r}", hint="write NAME=VALUE")
            values[name] = value
        text = Placeholders(self.prompt or "$input")
        names = set(text.get_identifiers())
        if unused := values.keys() - names - {"input"}:
            raise AntiphonError(f"the template has no ${min(unused)}", hint=f"it has: {', '.join(sorted(names))}")
        try:
            filled = text.substitute(values)
        except KeyError as error:
            raise AntiphonError(
                f"the template needs a value for ${error.args[0]}", hint="give it with --param NAME=VALUE"
            ) from None
        except ValueError as error:
            raise AntiphonError(
                f"the template's prompt cannot be read: {error}", hint="write $$ for a dollar sign"
            ) from None
        return filled if "input" in names or not words else f"{filled}\n\n{words}"


def templates_folder() -> Path:
    return home_directory() / "templates"


def read_template(name: str) -> Template:
    """Read a template of the home directory; raises AntiphonError for one that is missing or not valid."""
    path = _template_path(name)
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Template)
    except FileNotFoundError:
        known = ", ".join(template_names()) or "none"
        raise AntiphonError(
            f"there is no template {name!r}", hint=f"there are: {known}; ask --save NAME makes one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise AntiphonError(f"the template {str(path)!r} is not valid: {error}") from error


def write_template(name: str, template: Template) -> Path:
    """Write a template as TOML and return its path; one of the same name is replaced."""
    path = _template_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields: Mapping[str, Any] = msgspec.to_builtins(template)
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in fields.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def template_names() -> list[str]:
    return sorted(path.stem for path in templates_folder().glob("*.toml"))


def remove_template(name: str) -> None:
    """Remove a template; raises AntiphonError if it is not valid or missing."""
    read_template(name)
    _template_path(name).unlink()


def content_of(prompt: str, material: Material) -> str | list[dict[str, Any]]:
    """Return the content of the message: text alone, or text and attachments as parts. Raises AntiphonError."""
    texts = [*map(_fragment, material.fragment), prompt]
    text = "\n\n".join(part for part in texts if part)
    if not material.attachment:
        return text
    parts = [_attachment(each) for each in material.attachment]
    return [*parts, *([{"type": "text", "text": text}] if text else [])]


def _template_path(name: str) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise AntiphonError(f"{name!r} is not a name for a template", hint="use letters, digits, '-' and '_'")
    return templates_folder() / f"{name}.toml"


def _fragment(source: str) -> str:
    try:
        return _bytes_of(source).decode("utf-8")
    except UnicodeDecodeError:
        raise AntiphonError(
            f"the fragment {source!r} is not text", hint="images, PDF and audio are attachments: -a FILE"
        ) from None


def _attachment(source: str) -> dict[str, Any]:
    kind = mimetypes.guess_type(source)[0] or ""
    if source.startswith(("http://", "https://")) and not kind.startswith("audio/") and kind != "application/pdf":
        return {"type": "image_url", "image_url": {"url": source}}
    if kind not in _AUDIO and kind != "application/pdf" and not kind.startswith("image/"):
        hint = "attach an image, a PDF, a .wav or an .mp3; text is a fragment: -f FILE"
        raise AntiphonError(f"the attachment {source!r} is of no known kind", hint=hint)
    data = base64.b64encode(_bytes_of(source)).decode()
    if kind in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[kind]}}
    url = f"data:{kind};base64,{data}"
    if kind == "application/pdf":
        return {"type": "file", "file": {"filename": Path(source).name, "file_data": url}}
    return {"type": "image_url", "image_url": {"url": url}}


def _bytes_of(source: str) -> bytes:
    """Read a file, a URL, or standard input for ``-``; raises AntiphonError for more than 20 MiB."""
    if source == "-":
        data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    elif source.startswith(("http://", "https://")):
        data = _fetch(source)
    else:
        with Path(source).open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise AntiphonError(f"{source!r} has more than {_MAX_BYTES >> 20} MiB", hint="send a part of it")
    return data


def _fetch(url: str) -> bytes:
    data = b""
    try:
        with httpx2.stream("GET", url, follow_redirects=True, timeout=_FETCH_TIMEOUT_S) as response:
            response.raise_for_status()
            for piece in response.iter_bytes():
                data += piece
                if len(data) > _MAX_BYTES:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise AntiphonError(f"cannot fetch {url!r}: {error}") from error
    return data
