"""From a stored file to its text: texts as they are, other formats through a converter in a process of its own."""

import asyncio
import codecs
import json
import os
import sys
import tempfile
from contextlib import aclosing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from antiphon.files import FileStore, StoredFile
from antiphon.search.chunking import Syntax
from antiphon.search.converted import CONVERTED_SUFFIXES, missing_reason
from antiphon.vector_stores.errors import UnreadableFile
from antiphon.vector_stores.settings import VectorStoreSettings

_MARKDOWN = (".md", ".markdown")
_BINARY = (".pptx", ".doc", ".ppt", ".xls", ".xlsx", ".odt", ".zip", ".gz", ".tar", ".png", ".jpg", ".jpeg", ".gif")
"""What is known to be no text; everything else is tried as text."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BYTES_PER_CHARACTER = 12
"""The most that one character takes in JSON with escapes."""


class ReadText(msgspec.Struct, frozen=True):
    """The text of a file. ``title`` is what the document calls itself, else its file name."""

    text: str
    title: str
    syntax: Syntax


async def read_text(files: FileStore, file: StoredFile, settings: VectorStoreSettings) -> ReadText:
    """Return the text of a file. Raises ``UnreadableFile``; ``ApiError`` where the storage fails."""
    suffix = PurePosixPath(file.filename).suffix.lower()
    if file.num_bytes > settings.max_file_bytes:
        raise UnreadableFile(
            "invalid_file",
            f"The file has {file.num_bytes:,} bytes; this server reads up to {settings.max_file_bytes:,}.",
        )
    if suffix in _BINARY:
        raise UnreadableFile(
            "unsupported_file", f"Files of the kind '{suffix}' cannot be read into a vector store here."
        )
    if suffix in CONVERTED_SUFFIXES:
        if (reason := missing_reason(suffix)) is not None:
            raise UnreadableFile("unsupported_file", f"This server cannot read the file: {reason}")
        return await _convert(files, file, suffix, settings)
    content = b""
    async with aclosing(files.read(file)) as pieces:
        content = b"".join([piece async for piece in pieces])
    text = await asyncio.to_thread(_decoded, content)
    if len(text) > settings.max_text_chars:
        raise UnreadableFile(
            "invalid_file", f"The file holds more than {settings.max_text_chars:,} characters of text."
        )
    return ReadText(text, file.filename, "markdown" if suffix in _MARKDOWN else "text")


def _decoded(content: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            "unsupported_file", f"The file is not text in UTF-8 or UTF-16: {error.reason} at byte {error.start}."
        ) from error
    if "\0" in text:
        raise UnreadableFile("unsupported_file", "The file is not text: it holds zero bytes.")
    return text


async def _convert(files: FileStore, file: StoredFile, suffix: str, settings: VectorStoreSettings) -> ReadText:
    with tempfile.TemporaryDirectory(prefix="antiphon-convert-") as folder:
        path = Path(folder) / f"file{suffix}"
        with path.open("wb") as copy:
            async with aclosing(files.read(file)) as pieces:
                async for piece in pieces:
                    await asyncio.to_thread(copy.write, piece)
        answer = await _run_converter(path, settings)
    if "error" in answer:
        raise UnreadableFile("invalid_file", f"The file cannot be read: {answer['error']}.")
    syntax: Syntax = "text" if suffix == ".pdf" else "markdown"
    return ReadText("\n\n".join(answer["texts"]), answer["title"] or file.filename, syntax)


async def _run_converter(path: Path, settings: VectorStoreSettings) -> dict[str, Any]:
    seconds = max(1, round(settings.convert_timeout_s))
    bounds = (settings.convert_memory_bytes, seconds, settings.max_text_chars)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "antiphon.search.convert_process", str(path), *map(str, bounds)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), "PATH": os.environ.get("PATH", "")},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(settings.convert_timeout_s):
            output = await _read_up_to(process.stdout, settings.max_text_chars * _BYTES_PER_CHARACTER)
            status = await process.wait()
    except TimeoutError:
        raise UnreadableFile(
            "invalid_file", f"Converting the file took longer than {settings.convert_timeout_s:g} seconds."
        ) from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if status != 0 or output is None:
        raise UnreadableFile(
            "invalid_file", "Converting the file took more time or memory than this server gives to one file."
        )
    return await asyncio.to_thread(json.loads, output)


async def _read_up_to(stream: asyncio.StreamReader, most: int) -> bytes | None:
    pieces: list[bytes] = []
    size = 0
    while piece := await stream.read(1 << 16):
        size += len(piece)
        if size > most:
            return None
        pieces.append(piece)
    return b"".join(pieces)
