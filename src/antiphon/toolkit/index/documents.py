"""What goes into an index, and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from antiphon.search.chunking import Syntax
from antiphon.search.converted import CONVERTED_SUFFIXES, ConvertedText, convert, missing_reason
from antiphon.search.document import Document
from antiphon.search.errors import SearchError
from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.usage import Usage

TEXT_SUFFIXES = (".md", ".markdown", ".rst", ".txt", ".text", ".py", ".adoc", ".tex", ".org")
SUFFIXES = (*TEXT_SUFFIXES, *CONVERTED_SUFFIXES)
_MARKDOWN = (".md", ".markdown")


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


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that was left out, by its path below the folder, and why."""

    path: str
    reason: str


class FolderDocuments:
    """The files of a folder as documents; iterate it. ``skipped`` then lists the files that gave none, and why."""

    def __init__(self, root: Path, suffixes: Sequence[str]) -> None:
        self.skipped: tuple[SkippedFile, ...] = ()
        self._root = root
        self._suffixes = {suffix.lower() for suffix in suffixes}

    def __iter__(self) -> Iterator[Document]:
        skipped: list[SkippedFile] = []
        for path in sorted(self._root.rglob("*")):
            relative = path.relative_to(self._root)
            if any(part.startswith(".") for part in relative.parts) or path.is_dir():
                continue
            reason = None
            if path.suffix.lower() not in self._suffixes:
                reason = f"{path.suffix or 'no suffix'} is not among the suffixes"
            elif not path.exists():
                reason = "a link is broken"
            elif not path.is_file():
                reason = "a pipe, a socket or a device is not a text"
            elif path.suffix.lower() in CONVERTED_SUFFIXES:
                reason = missing_reason(path.suffix.lower())
            documents: list[Document] = []
            if reason is None:
                documents, reason = _read(path, relative)
            yield from documents
            if not documents:
                shown = relative.as_posix().encode("utf-8", "backslashreplace").decode()
                skipped.append(SkippedFile(shown, reason or "there is no text in it"))
        self.skipped = tuple(skipped)


def read_folder(folder: str | Path, suffixes: Sequence[str] = SUFFIXES) -> FolderDocuments:
    """Return the files under ``folder`` as documents, in the order of their paths, read while they are iterated.

    The id is the path below ``folder``; metadata: ``folder`` (first part of the path, "" at the top) and ``suffix`` (in lower
    case). HTML, Word documents and PDF become Markdown, with the extra ``files``; each page of a PDF is a document of its
    own, with its number in the id ("a.pdf#page=3") and in the metadata (``page``). Suffixes match in any case. Hidden files and folders are left out; other files are in ``skipped`` of the result.
    Raises IndexingError for a path that is not a folder, and, naming it, for a file that cannot be read or whose name or
    text is not UTF-8.
    """
    root = Path(folder)
    if not root.is_dir():
        raise IndexingError(f"{str(folder)!r} is not a folder", hint="name a folder of texts")
    return FolderDocuments(root, suffixes)


def _read(path: Path, relative: Path) -> tuple[list[Document], str | None]:
    """Return what a file holds, and why it holds nothing that could be read."""
    require_utf8(relative.as_posix(), f"The name of the file {str(path)!r}")
    suffix = path.suffix.lower()
    if suffix not in CONVERTED_SUFFIXES:
        return [_read_text(path, relative, suffix)], None
    try:
        return [_converted(made, relative, suffix) for made in convert(path) if made.text], None
    except SearchError as error:
        return [], error.message


def _converted(made: ConvertedText, relative: Path, suffix: str) -> Document:
    id_, title = relative.as_posix(), made.title or _title(made.text) or relative.stem
    metadata: dict[str, Any] = {"folder": _folder(relative), "suffix": suffix}
    if made.page is not None:
        id_, title = f"{id_}#page={made.page}", f"{made.title or relative.stem}, page {made.page}"
        metadata["page"] = made.page
    return Document(id_, made.text, title, metadata, "markdown")


def _folder(relative: Path) -> str:
    return relative.parts[0] if len(relative.parts) > 1 else ""


def _read_text(path: Path, relative: Path, suffix: str) -> Document:
    try:
        # A byte order mark is not part of the text.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise IndexingError(
            f"{str(path)!r} is not UTF-8: {error.reason} at byte {error.start}",
            hint=f"convert it, or leave out this kind with other suffixes: iconv -f latin1 -t utf-8 {path}",
        ) from error
    except OSError as error:
        raise IndexingError(f"{str(path)!r} cannot be read: {error.strerror}", hint="check its permissions") from error
    syntax: Syntax = "markdown" if suffix in _MARKDOWN else "text"
    return Document(
        id=relative.as_posix(),
        text=text,
        title=_title(text) or relative.stem,
        metadata={"folder": _folder(relative), "suffix": suffix},
        syntax=syntax,
    )


def require_utf8(text: str, what: str) -> None:
    """Raise IndexingError, which names ``what``, for a text with lone surrogates: no file can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise IndexingError(
            f"{what} is not UTF-8: {text[error.start : error.start + 20]!a} at character {error.start}",
            hint="rename or convert it; text.encode('utf-8', 'replace') takes out what cannot be written",
        ) from error


def _title(text: str) -> str:
    """Return the first line that has letters, without heading marks."""
    for line in text.splitlines()[:20]:
        bare = line.strip().strip("#=*-~ `")
        if any(char.isalpha() for char in bare) and not line.startswith(("..", ":", "<!", "import ", "from ")):
            return bare[:120]
    return ""
