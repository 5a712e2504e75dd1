"""Files that are not plain text, as Markdown: HTML, Word documents, PDF.

Needs the extra ``files``. Converted by markdownify, mammoth and pypdf; what a browser does not show (scripts, styles) is no
part of the text. Pictures are not read: a PDF of scanned pages has no text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from antiphon.errors import AntiphonError
from antiphon.search.errors import SearchError

HTML_SUFFIXES = (".html", ".htm", ".xhtml")
CONVERTED_SUFFIXES = (*HTML_SUFFIXES, ".docx", ".pdf")

_NOT_SHOWN = ("script", "style", "noscript", "template", "svg", "iframe", "head")


@dataclass(frozen=True, slots=True)
class ConvertedText:
    """A text that was read from a file: Markdown, its title ("" if it names none), and its page, None for a whole file."""

    text: str
    title: str
    page: int | None = None


def missing_reason(suffix: str) -> str | None:
    """Return why a file of this kind cannot be converted here, None if it can."""
    modules = {".pdf": ("pypdf",), ".docx": ("mammoth", "markdownify", "bs4")}.get(suffix, ("markdownify", "bs4"))
    if all(find_spec(module) is not None for module in modules):
        return None
    return f"{suffix} needs an extra: pip install 'antiphon[files]'"


def convert(path: Path) -> list[ConvertedText]:
    """Read a file by its suffix; a PDF gives one text for each page that has any.

    Raises SearchError, which says in a few words what is wrong, for a file that is not what its suffix says.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".pdf":
            return list(_pages(path))
        if suffix == ".docx":
            return [_markdown(_docx_as_html(path))]
        return [_markdown(path.read_bytes())]
    except AntiphonError:
        raise
    except Exception as error:
        # What the readers raise for a damaged file is of many kinds.
        raise SearchError(f"it cannot be read as {suffix}: {type(error).__name__}: {error}") from error


def _markdown(html: bytes | str) -> ConvertedText:
    from bs4 import BeautifulSoup  # noqa: PLC0415 - an extra
    from markdownify import MarkdownConverter  # noqa: PLC0415 - an extra

    soup = BeautifulSoup(html, "html.parser")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    heading = soup.find("h1")
    title = title or (heading.get_text(" ", strip=True) if heading is not None else "")
    for element in soup(_NOT_SHOWN):
        element.decompose()
    converter = MarkdownConverter(heading_style="ATX", strip=["a", "img"])
    lines = (line.rstrip() for line in converter.convert_soup(soup).splitlines())
    return ConvertedText(_without_gaps(lines), " ".join(title.split())[:120])


def _without_gaps(lines: Iterator[str]) -> str:
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).strip()


def _docx_as_html(path: Path) -> str:
    mammoth: Any = import_module("mammoth")  # an extra, and without types
    # Pictures would become megabytes of text.
    pictures = mammoth.images.img_element(_no_picture)
    with path.open("rb") as file:
        return str(mammoth.convert_to_html(file, convert_image=pictures).value)


def _no_picture(_: object) -> dict[str, str]:
    return {"src": ""}


def _pages(path: Path) -> Iterator[ConvertedText]:
    from pypdf import PdfReader  # noqa: PLC0415 - an extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = PdfReader(path)
        if reader.is_encrypted:
            raise SearchError("it is encrypted")
        title = str((reader.metadata.title if reader.metadata else None) or "")
        for number, page in enumerate(reader.pages, 1):
            text = page.extract_text().strip()
            if text:
                yield ConvertedText(text, title, number)
