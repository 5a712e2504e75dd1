"""Download one large file over HTTP: resumed, checked, and visible only when it is complete."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2
import msgspec

from antiphon.models.errors import CorruptModel, SourceUnavailable
from antiphon.models.files import check_sha256, full_disk_explained, require_space
from antiphon.models.progress import Progress, ProgressEvent

_ATTEMPTS = 5
"""Broken connections in a row without a single byte between them, before the download is given up."""

MAX_REDIRECTS = 10

_TIMEOUT = httpx2.Timeout(30.0)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")
_PARTIAL, _RANGE_NOT_SATISFIABLE, _TOO_MANY = 206, 416, 429


class Remote(msgspec.Struct, frozen=True):
    """A file as the server describes it. ``etag`` is a sha256, a git blob's sha1, or opaque; ``size`` in bytes."""

    url: str
    etag: str
    size: int | None
    commit: str | None = None


def client(headers: Mapping[str, str]) -> httpx2.Client:
    """Return a client that honours the usual proxy variables.

    An ``authorization`` in ``headers`` goes to the origin that is asked first; a redirect elsewhere drops it.
    """
    return httpx2.Client(
        headers={"user-agent": "antiphon", **headers},
        timeout=_TIMEOUT,
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
    )


def head_until(http: httpx2.Client, url: str, header: str) -> httpx2.Response:
    """Ask for ``url`` and follow redirects up to the first answer that has ``header`` or is not a redirect.

    Raises ``httpx2.TooManyRedirects`` after ``MAX_REDIRECTS``.
    """
    response = http.head(url, follow_redirects=False)
    for _ in range(MAX_REDIRECTS):
        if response.next_request is None or header in response.headers:
            return response
        # The client made this request: it resolves a relative location, and drops the credentials for another origin.
        response = http.send(response.next_request, follow_redirects=False)
    if response.next_request is None or header in response.headers:
        return response
    raise httpx2.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=response.request)


def download(http: httpx2.Client, remote: Remote, target: Path, progress: Progress) -> None:
    """Write ``remote`` to ``target``, going on from ``target.part`` if that is of the same file.

    Raises ``SourceUnavailable`` when the server keeps failing (the part is kept), ``CorruptModel`` when the
    result has the wrong size or hash (it is removed), ``StoreFull``.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, stamp = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")
    described = msgspec.json.encode(remote)
    if not stamp.exists() or stamp.read_bytes() != described:
        part.unlink(missing_ok=True)
        stamp.write_bytes(described)
    have = part.stat().st_size if part.exists() else 0
    if remote.size is not None:
        require_space(target.parent, remote.size - have)
    _receive_all(http, remote, part, progress)
    _check(part, remote, progress)
    part.replace(target)
    stamp.unlink()


def _receive_all(http: httpx2.Client, remote: Remote, part: Path, progress: Progress) -> None:
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            with full_disk_explained(part.parent):
                _receive(http, remote, part, before, progress)
        except httpx2.TransportError as error:
            failures = 0 if part.exists() and part.stat().st_size > before else failures + 1
            if failures >= _ATTEMPTS:
                raise SourceUnavailable(
                    f"The download of {part.stem} broke off ({error or type(error).__name__}).",
                    hint="Run the same command again: it goes on where it stopped.",
                ) from error
            time.sleep(min(2.0**failures, 30.0) if failures else 0.0)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceUnavailable(
                f"{remote.url} cannot be downloaded ({error or type(error).__name__}).",
                hint="Its server redirects to an address that does not work: check the name and HF_ENDPOINT.",
            ) from error
        else:
            return


def _receive(http: httpx2.Client, remote: Remote, part: Path, start: int, progress: Progress) -> None:
    if remote.size is not None and start == remote.size:
        part.touch()
        return
    headers = {"range": f"bytes={start}-"} if start else {}
    with http.stream("GET", remote.url, headers=headers) as response:
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            part.unlink()
            raise httpx2.ReadError("the server has less than was received before")
        if response.status_code == _TOO_MANY or response.is_server_error:
            raise httpx2.ReadError(f"HTTP {response.status_code}")
        if response.is_error:
            raise SourceUnavailable(
                f"{remote.url} answered HTTP {response.status_code}.", hint="Check the name and HF_TOKEN."
            )
        resumed = response.status_code == _PARTIAL and response.headers.get("content-range", "").startswith(
            f"bytes {start}-"
        )
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                progress(ProgressEvent(part.stem, file.tell(), remote.size, "download"))
            file.flush()
            os.fsync(file.fileno())


def _check(part: Path, remote: Remote, progress: Progress) -> None:
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        part.unlink()
        raise CorruptModel(
            part, f"has {size} bytes, the server announced {remote.size}; it has been removed", hint="Try again."
        )
    if _SHA256.fullmatch(remote.etag):
        check_sha256(part, remote.etag, progress)
    elif _GIT_SHA1.fullmatch(remote.etag):
        data = part.read_bytes()  # git hashes only files too small for large file storage
        found = hashlib.sha1(b"blob %d\0" % size + data, usedforsecurity=False).hexdigest()
        if found != remote.etag:
            part.unlink()
            raise CorruptModel(
                part, f"has the git hash {found}, expected {remote.etag}; it has been removed", hint="Try again."
            )
