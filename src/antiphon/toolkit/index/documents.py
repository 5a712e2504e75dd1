"""What goes into an index, and what comes out of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from antiphon.toolkit.embeddings.chunking import Chunking, Syntax
from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.usage import Usage

TEXT_SUFFIXES = (".md", ".markdown", ".rst", ".txt", ".text", ".py", ".html", ".adoc", ".tex", ".org")
_MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True, slots=True)
class Document:
    """A text under a name that is unique in its index.

    ``title`` is embedded and searched with each chunk, which tells what a lone paragraph is about. ``metadata`` is a
    flat JSON object to filter by; it is stored, not embedded.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    syntax: Syntax = "text"

    def fingerprint(self, chunking: Chunking) -> str:
        """Name what the chunks and vectors depend on, so that a change of anything else embeds nothing."""
        parts = [self.text, self.title, self.syntax, chunking.tokens, chunking.overlap]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found: ``document[start:end] == text``, in characters.

    ``score`` orders the hits of one search; its scale depends on the mode. ``vector_rank`` and ``bm25_rank`` (from 1)
    tell where each ranking had it, None: not among its candidates.
    """

    document: str
    title: str
    text: str
    start: int
    end: int
    score: float
    vector_rank: int | None
    bm25_rank: int | None
    metadata: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an update touched. ``num_embedded`` chunks were sent to the server; ``num_reused`` kept their vectors."""

    num_added: int = 0
    num_changed: int = 0
    num_unchanged: int = 0
    num_deleted: int = 0
    num_embedded: int = 0
    num_reused: int = 0
    usage: Usage = field(default_factory=lambda: Usage(num_calls=0))
    cost: Decimal | None = Decimal(0)
    seconds: float = 0.0


def read_folder(folder: str | Path, suffixes: Sequence[str] = TEXT_SUFFIXES) -> Iterator[Document]:
    """Yield the text files under ``folder`` as documents, by path; hidden files and folders are left out.

    The id is the path below ``folder``; metadata: ``folder`` (first part of the path, "" at the top) and ``suffix``.
    Raises IndexingError for a folder that is none and for a file that is not UTF-8.
    """
    root = Path(folder)
    if not root.is_dir():
        raise IndexingError(f"{str(folder)!r} is not a folder")
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.suffix in suffixes and path.is_file() and not any(part.startswith(".") for part in relative.parts):
            yield _read(path, relative)


def _read(path: Path, relative: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IndexingError(
            f"{str(path)!r} is not UTF-8: {error.reason} at byte {error.start}",
            hint=f"convert it, or leave out this kind with other suffixes: iconv -f latin1 -t utf-8 {path}",
        ) from error
    where = relative.parts[0] if len(relative.parts) > 1 else ""
    syntax: Syntax = "markdown" if path.suffix in _MARKDOWN else "text"
    return Document(
        id=relative.as_posix(),
        text=text,
        title=_title(text) or relative.stem,
        metadata={"folder": where, "suffix": path.suffix},
        syntax=syntax,
    )


def _title(text: str) -> str:
    """Return the first line that has letters, without heading marks."""
    for line in text.splitlines()[:20]:
        bare = line.strip().strip("#=*-~ `")
        if any(char.isalpha() for char in bare) and not line.startswith(("..", ":", "<!", "import ", "from ")):
            return bare[:120]
    return ""
