"""HTML, Word documents and PDF in an index."""

import zipfile
from pathlib import Path

import pytest
from tests.toolkit.model_endpoints import ThinkingEndpoint

from antiphon import Index, read_folder
from antiphon.search import converted

PAGE = """<!DOCTYPE html><html><head><title>Fees &amp; hours</title><style>p { color: red }</style></head>
<body><script>alert("no")</script><h1>Library</h1><p>It opens at <b>nine</b>.</p>
<ul><li>one</li><li>two</li></ul><table><tr><th>book</th><td>3 weeks</td></tr></table>
<pre>a &lt; b</pre><img src="data:image/png;base64,AAAA"><a href="https://example.com">more</a></body></html>"""


def pdf(*pages: str, title: str = "") -> bytes:
    """Write a PDF with a line of text on each page."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids: list[str] = []
    for text in pages:
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        contents = len(objects)
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        size = "/MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {size} /Contents {contents} 0 R /Resources {font} >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    objects.append(f"<< /Title ({title}) >>")
    out, offsets = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    trailer = f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R >>"
    start = len(out)
    return (
        out + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}\nstartxref\n{start}\n%%EOF".encode()
    )


def docx(path: Path, *paragraphs: tuple[str, str]) -> None:
    """Write a Word document of (style, text)."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = "".join(
        f'<w:p><w:pPr><w:pStyle w:val="{style}"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>'
        for style, text in paragraphs
    )
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    package = "http://schemas.openxmlformats.org/package/2006"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types"><Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        made.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships">'
            f'<Relationship Id="r1" Type="{office}" Target="word/document.xml"/></Relationships>',
        )
        made.writestr("word/document.xml", f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>')


def test_no_tag_of_a_page_is_indexed(tmp_path: Path, endpoint: object) -> None:
    """Text, headings, lists and tables stay; scripts, styles, links and pictures do not."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.HTML").write_text(PAGE)
    (document,) = read_folder(tmp_path / "docs")
    assert (document.id, document.title, document.syntax) == ("page.HTML", "Fees & hours", "markdown")
    assert document.metadata == {"folder": "", "suffix": ".html"}
    for shown in ("# Library", "It opens at **nine**.", "* one", "3 weeks", "a < b", "more"):
        assert shown in document.text
    for hidden in ("<p>", "<b>", "color", "alert", "base64", "example.com", "</"):
        assert hidden not in document.text
    with Index(tmp_path / "i.sqlite", model="m", client=ThinkingEndpoint().client()) as index:
        index.update([document])
        (hit,) = index.search("when does it open?", mode="bm25")
        assert document.text[hit.start : hit.end] == hit.text


def test_each_page_of_a_pdf_has_its_number(tmp_path: Path) -> None:
    """A citation names the page; an empty page is none."""
    (tmp_path / "report.pdf").write_bytes(pdf("Sales rose.", "", "Costs fell.", title="Report"))
    found = read_folder(tmp_path)
    documents = list(found)
    assert [(d.id, d.title, d.text, d.metadata["page"]) for d in documents] == [
        ("report.pdf#page=1", "Report, page 1", "Sales rose.", 1),
        ("report.pdf#page=3", "Report, page 3", "Costs fell.", 3),
    ]
    assert found.skipped == ()


def test_a_word_document_keeps_its_headings(tmp_path: Path) -> None:
    """They are the title, and where chunks are cut."""
    (tmp_path / "sub").mkdir()
    docx(tmp_path / "sub" / "a.docx", ("Heading1", "Rules"), ("Normal", "No smoking."))
    (document,) = read_folder(tmp_path)
    assert (document.text, document.title) == ("# Rules\n\nNo smoking.", "Rules")
    assert document.metadata == {"folder": "sub", "suffix": ".docx"}


def test_scanned_pages_are_listed_as_skipped(tmp_path: Path) -> None:
    """A file without a text gives no document, and is not passed over in silence."""
    (tmp_path / "scan.pdf").write_bytes(pdf("", ""))
    (tmp_path / "empty.html").write_text("<html><body><script>x</script></body></html>")
    found = read_folder(tmp_path)
    assert list(found) == []
    assert [(file.path, file.reason) for file in found.skipped] == [
        ("empty.html", "there is no text in it"),
        ("scan.pdf", "there is no text in it"),
    ]


@pytest.mark.parametrize("name", ["broken.pdf", "broken.docx"])
def test_a_damaged_file_is_listed_with_what_is_wrong(tmp_path: Path, name: str) -> None:
    """One of them does not keep a folder from being read."""
    (tmp_path / name).write_bytes(b"not what it says")
    (tmp_path / "z.txt").write_text("text")
    found = read_folder(tmp_path)
    assert [document.id for document in found] == ["z.txt"]
    assert [file.path for file in found.skipped] == [name]
    assert "it cannot be read as" in found.skipped[0].reason


def test_without_the_extra_they_are_listed_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markup is never indexed as if it were text."""
    for name in ("a.html", "b.docx", "c.pdf", "d.txt"):
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(converted, "find_spec", lambda _: None)
    found = read_folder(tmp_path)
    assert [document.id for document in found] == ["d.txt"]
    assert [file.reason for file in found.skipped] == [
        f"{suffix} needs an extra: pip install 'antiphon[files]'" for suffix in (".html", ".docx", ".pdf")
    ]
