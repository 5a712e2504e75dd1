"""Files from strangers: what unpacks to gigabytes, or never ends, costs one file and not the server."""

import asyncio
import io
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.vector_stores.world import World, counts, read_all

from antiphon.accounts.database import open_database

pytestmark = pytest.mark.anyio
MEMORY = 256 << 20
PAGES = 200_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """What a file does is the same on each database."""
    engine = await open_database(None, tmp_path)
    made = World(engine, tmp_path)
    yield made
    await made.aclose()
    await engine.dispose()


def packed(**members: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return target.getvalue()


def word_document(body: bytes) -> bytes:
    """Return a Word document whose text is in ``body``, an XML fragment."""
    head = b'<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(
            "[Content_Types].xml",
            '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
            'wordprocessingml.document.main+xml"/></Types>',
        )
        archive.writestr(
            "_rels/.rels",
            '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
            'officeDocument" Target="word/document.xml"/></Relationships>',
        )
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            member.write(head)
            member.write(body)
            member.write(b"</w:body></w:document>")
    return target.getvalue()


PARAGRAPH = b"<w:p><w:r><w:t>The lamp is lit.</w:t></w:r></w:p>"


def pdf(objects: list[bytes], *, root: int = 1) -> bytes:
    """Return a PDF of these objects, numbered from 1."""
    out = bytearray(b"%PDF-1.7\n")
    places: list[int] = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(out + b"trailer << /Size %d /Root %d 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, root, table))


CATALOGUE = b"<< /Type /Catalog /Pages 2 0 R >>"
PAGE = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R >>"


def stream(content: bytes) -> bytes:
    return b"<< /Length %d >>\nstream\n%b\nendstream" % (len(content), content)


def deflated(content: bytes) -> bytes:
    data = zlib.compress(content, 9)
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n%b\nendstream" % (len(data), data)


def many_pages() -> bytes:
    kids = b" ".join([b"3 0 R"] * PAGES)
    return pdf([CATALOGUE, b"<< /Type /Pages /Kids [%b] /Count %d >>" % (kids, PAGES), PAGE, stream(b"BT ET")])


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a document of gigabytes": ("bomb.docx", lambda: word_document(b" " * (300 << 20))),
    "a document of millions of paragraphs": ("many.docx", lambda: word_document(PARAGRAPH * 1_000_000)),
    "an archive in an archive": ("nested.docx", lambda: packed(a__zip=packed(b__zip=packed(c=b"0" * (50 << 20))))),
    "a document that is no archive": ("torn.docx", lambda: word_document(PARAGRAPH)[:200]),
    "a PDF of endless pages": ("pages.pdf", many_pages),
    "a PDF whose pages contain themselves": (
        "loop.pdf",
        lambda: pdf([CATALOGUE, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 9 >>"]),
    ),
    "a PDF whose length is itself": (
        "length.pdf",
        lambda: pdf(
            [
                CATALOGUE,
                b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
                PAGE,
                b"<< /Length 4 0 R >>\nstream\nx\nendstream",
            ]
        ),
    ),
    "a PDF with a stream of gigabytes": (
        "stream.pdf",
        lambda: pdf([CATALOGUE, b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", PAGE, deflated(b"(x) Tj " * (40 << 20))]),
    ),
    "HTML nested without end": ("deep.html", lambda: b"<div>" * 50_000 + b"x"),
}


def converters() -> list[bytes]:
    """Return the command lines of converting processes that this one started and that run."""
    found: list[bytes] = []
    for listed in Path("/proc/self/task").glob("*/children"):
        for pid in listed.read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return [line for line in found if b"convert_process" in line]


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_file_fails_alone(world: World, name: str) -> None:
    """Within its time and memory, with a reason; the file behind it is read, and no process is left over."""
    filename, make = HOSTILE[name]
    server = world.server(convert_timeout_s=20.0, convert_memory_bytes=MEMORY, max_text_chars=200_000)
    files = [
        await world.file(await asyncio.to_thread(make), filename),
        await world.file(b"The lamp is lit.", "good.txt"),
    ]
    store = await server.create("a", {})
    await server.table.add_files(store, files)
    await read_all(server)
    assert (await counts(server, store)).by_status == {"failed": 1, "completed": 1}
    failed = await server.table.find_file(store.id, files[0].file_id)
    assert failed is not None
    assert failed.error_code == "invalid_file"
    assert failed.error_message
    assert len(failed.error_message) <= 2000
    assert not converters()


@pytest.mark.parametrize("name", ["table.xlsx", "slides.pptx", "old.doc", "archive.zip", "letter.odt"])
async def test_a_format_that_is_not_read_is_named(world: World, name: str) -> None:
    """Nothing of it is unpacked."""
    server = world.server()
    file = await world.file(packed(x=b"0" * (10 << 20)), name)
    store = await server.create("a", {})
    await server.table.add_files(store, [file])
    await read_all(server)
    failed = await server.table.find_file(store.id, file.file_id)
    assert failed is not None
    assert failed.error_code == "unsupported_file"
    assert repr(Path(name).suffix) in (failed.error_message or "")


async def test_a_good_document_and_a_good_pdf_are_read_within_the_same_bounds(world: World) -> None:
    """The bounds refuse what is hostile, not what is ordinary."""
    server = world.server(convert_timeout_s=60.0, convert_memory_bytes=MEMORY)
    text = pdf(
        [
            CATALOGUE,
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
            stream(b"BT /F 9 Tf (The lamp is lit.) Tj ET"),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )
    files = [await world.file(word_document(PARAGRAPH * 100), "good.docx"), await world.file(text, "good.pdf")]
    store = await server.create("a", {})
    await server.table.add_files(store, files)
    await read_all(server)
    assert (await counts(server, store)).by_status == {"completed": 2}
    for file in files:
        held = await server.table.find_file(store.id, file.file_id)
        assert held is not None
        assert "The lamp is lit." in "".join(await server.texts(held))
