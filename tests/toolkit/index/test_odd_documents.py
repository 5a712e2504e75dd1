"""Odd documents: read, listed as skipped, or refused by name."""

import os
import sys
from pathlib import Path

import openai
import pytest

from antiphon.toolkit.errors import IndexingError
from antiphon.toolkit.index import Document, Index, read_folder


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Nor of the title."""
    (tmp_path / "a.md").write_bytes("\ufeff# Apples\n\nRed.".encode())
    (document,) = read_folder(tmp_path)
    assert (document.title, document.text) == ("Apples", "# Apples\n\nRed.")


@pytest.mark.parametrize("name", ["README.MD", "readme.Md", "notes.TXT", "a.Markdown"])
def test_suffixes_match_in_any_case(tmp_path: Path, name: str) -> None:
    """And Markdown is Markdown."""
    (tmp_path / name).write_text("# Apples")
    (document,) = read_folder(tmp_path)
    assert document.id == name
    assert document.metadata["suffix"] == Path(name).suffix.lower()
    assert document.syntax == ("text" if name == "notes.TXT" else "markdown")


def test_other_files_are_listed_as_skipped(tmp_path: Path) -> None:
    """With the reason; hidden ones are not looked at."""
    for name in ("a.md", "b.zip", "Makefile", ".hidden"):
        (tmp_path / name).write_text("text")
    folder = read_folder(tmp_path)
    assert [document.id for document in folder] == ["a.md"]
    assert {skipped.path: skipped.reason.split(" is ")[0] for skipped in folder.skipped} == {
        "b.zip": ".zip",
        "Makefile": "no suffix",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")
def test_what_cannot_be_read_as_a_file_is_listed_as_skipped(tmp_path: Path) -> None:
    """A pipe would wait for ever, and a broken link leads nowhere."""
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "link.md").symlink_to(tmp_path / "nothing.md")
    (tmp_path / "folder.md").mkdir()
    folder = read_folder(tmp_path)
    assert list(folder) == []
    assert [(skipped.path, skipped.reason.split(" is ")[0]) for skipped in folder.skipped] == [
        ("link.md", "a link"),
        ("pipe.md", "a pipe, a socket or a device"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """In escapes; among skipped files as well."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.zip")).write_text("text")
    folder = read_folder(tmp_path)
    assert list(folder) == []
    assert folder.skipped[0].path == "caf\\udce9.zip"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("text")
    with pytest.raises(IndexingError, match=r"caf\\udce9.md"):
        list(read_folder(tmp_path))


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """With the byte."""
    (tmp_path / "a.md").write_bytes(b"caf\xe9 is good")
    with pytest.raises(IndexingError, match=r"a.md' is not UTF-8: .* at byte 3"):
        list(read_folder(tmp_path))


@pytest.mark.parametrize(
    "document",
    [
        Document("caf\udce9", "text"),
        Document("a", "text \ud800"),
        Document("a", "text", title="caf\udce9"),
        Document("a", "text", metadata={"name": "caf\udce9"}),
    ],
)
def test_a_document_with_lone_surrogates_is_refused_by_name(tmp_path: Path, document: Document) -> None:
    """Before anything is embedded, and the index stays usable."""
    client = openai.OpenAI(api_key="k", base_url="http://127.0.0.1:9/v1", max_retries=0)
    with Index(tmp_path / "i.sqlite", client=client) as index:
        with pytest.raises(IndexingError, match=document.id.encode("ascii", "backslashreplace").decode()[:1]):
            index.update([document])
        assert index.statistics().num_documents == 0
