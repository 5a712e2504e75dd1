"""Pictures, sound and files as content of a message, from a path, bytes or a URL."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from antiphon.toolkit.errors import HistoryError

# The bound of OpenAI's API for one request with files.
_MAX_BYTES = 50 * 1024 * 1024
_SOUNDS = {"audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/wav": "wav", "audio/x-wav": "wav", "audio/vnd.wave": "wav"}


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: ``source`` is a path, the bytes of a file, or an address ("https://..." or "data:...")."""

    source: str | Path | bytes
    detail: Literal["auto", "low", "high"] = "auto"

    def part(self) -> dict[str, Any]:
        """Return the content part; raises HistoryError for a file that cannot be read or is not a picture."""
        return {"type": "image_url", "image_url": {"url": self._url(), "detail": self.detail}}

    def _url(self) -> str:
        if isinstance(self.source, str) and self.source.startswith(("https://", "http://", "data:")):
            return self.source
        content, name = _read(self.source)
        kind = _kind_of_picture(content) or mimetypes.guess_type(name)[0]
        if kind is None or not kind.startswith("image/"):
            raise HistoryError(f"{_named(self.source)} is not a picture", hint="use PNG, JPEG, WebP or GIF")
        return _data_url(content, kind)


@dataclass(frozen=True, slots=True)
class Sound:
    """Recorded sound, WAV or MP3: ``source`` is a path or the bytes of a file, whose ``name`` then tells which."""

    source: str | Path | bytes
    name: str = ""

    def part(self) -> dict[str, Any]:
        """Return the content part; raises HistoryError for a file that cannot be read or is neither WAV nor MP3."""
        content, name = _read(self.source, self.name)
        format_ = "wav" if content[:4] == b"RIFF" else _SOUNDS.get(mimetypes.guess_type(name)[0] or "")
        if format_ is None:
            raise HistoryError(f"{_named(self.source)} is neither WAV nor MP3", hint="convert it")
        return {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": format_}}


@dataclass(frozen=True, slots=True)
class File:
    """A file that the model reads, such as a PDF: ``source`` is a path, or bytes with a ``name``."""

    source: str | Path | bytes
    name: str = ""

    def part(self) -> dict[str, Any]:
        """Return the content part; raises HistoryError for a file that cannot be read."""
        content, name = _read(self.source, self.name)
        if not name:
            raise HistoryError("A file of bytes has no name", hint="File(content, name='report.pdf')")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return {"type": "file", "file": {"filename": name, "file_data": _data_url(content, kind)}}


Attachment = Image | Sound | File
_HINT = "send the text of one message; chat.remember(user, assistant) adds earlier ones"
ContentPart = str | Attachment | Mapping[str, Any]


def content_parts(content: Any) -> list[Any]:
    """Return the API's content parts: text for a string, and what is a part already as it is.

    Raises HistoryError for anything else, such as a message of the API: the conversation has those itself.
    """
    if isinstance(content, bytes) or not isinstance(content, Sequence):
        raise HistoryError(f"A message is text or a list of parts, not {content!r:.60}", hint=_HINT)
    return [_content_part(part) for part in cast("Sequence[Any]", content)]


def _content_part(part: Any) -> Any:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Image | Sound | File):
        return part.part()
    if not isinstance(part, Mapping) or "type" not in part:
        raise HistoryError(f"{part!r:.60} is not a part of a message: it has no 'type'", hint=_HINT)
    return cast("Mapping[str, Any]", part)


def _read(source: str | Path | bytes, name: str = "") -> tuple[bytes, str]:
    if isinstance(source, bytes):
        content = source
    else:
        path = Path(source)
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise _too_large(source)
            content = path.read_bytes()
        except OSError as error:
            raise HistoryError(f"{str(source)!r} cannot be read: {error.strerror}", hint="check the path") from error
        name = name or path.name
    if len(content) > _MAX_BYTES:
        raise _too_large(source)
    return content, name


def _too_large(source: str | Path | bytes) -> HistoryError:
    return HistoryError(
        f"{_named(source)} is larger than {_MAX_BYTES // 1024**2} MiB", hint="send a smaller part of it"
    )


def _named(source: str | Path | bytes) -> str:
    return "The content" if isinstance(source, bytes) else repr(str(source))


def _data_url(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _kind_of_picture(content: bytes) -> str | None:
    signs = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for sign, kind in signs if content.startswith(sign)), None)
