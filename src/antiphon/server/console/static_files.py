"""The console's pages: files of the package, read once and sent with a strict Content-Security-Policy."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from antiphon.protocol.errors import ApiError
from antiphon.server.request.call import Call

_FOLDER = Path(__file__).parent / "static"
_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_HEADERS = {
    # No inline code or styles, nothing from elsewhere; images also from what the user attaches (data:).
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Asked for anew each time, and answered with 304: after an upgrade no old page is left.
    "cache-control": "no-cache",
}


class StaticFile(msgspec.Struct, frozen=True):
    """A file of the console, as it is sent."""

    content: bytes
    content_type: str
    etag: str


@cache
def files() -> Mapping[str, StaticFile]:
    """Return every file, by its path below ``/console/``."""
    found = (path for path in sorted(_FOLDER.rglob("*")) if path.suffix in _TYPES)
    return {path.relative_to(_FOLDER).as_posix(): _read(path) for path in found}


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


async def index(call: Call) -> None:
    """Send the page; it needs no key, as it holds nothing of the server."""
    await _send(call, files()["index.html"])


async def asset(call: Call) -> None:
    """Send a script, a style sheet or an image of the page."""
    found = files().get(call.path_param("name"))
    if found is None:
        raise ApiError(404, f"The console has no file {call.path_param('name')[:200]!r}.", code="unknown_url")
    await _send(call, found)


async def _send(call: Call, file: StaticFile) -> None:
    call.extra.update({**_HEADERS, "etag": file.etag})
    if call.header(b"if-none-match") == file.etag:
        await call.respond(b"", status=304, headers=[])
    else:
        await call.respond(file.content, headers=[(b"content-type", file.content_type.encode())])
