"""A file of a model repository on the Hugging Face hub, or of any server with its API at ``HF_ENDPOINT``.

``GET {endpoint}/{repo}/resolve/{revision}/{file}`` redirects to where the bytes are; the answer before the redirect
names commit, size and hash (``x-repo-commit``, ``x-linked-size``, ``x-linked-etag``; small files have a git blob ``etag``).
"""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import httpx2
import msgspec

from antiphon.models.errors import SourceUnavailable
from antiphon.models.progress import Progress
from antiphon.models.sources.base import belonging_files
from antiphon.models.sources.http import Remote, client, download, head_until

_DEFAULT_ENDPOINT = "https://huggingface.co"


class HubFile(msgspec.Struct, frozen=True):
    """``file`` in ``repo`` (``org/name``) at ``revision``, a branch, tag or commit."""

    repo: str
    file: PurePosixPath
    revision: str = "main"
    sha256: str | None = None

    @property
    def spec(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        pin = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"hf:{self.repo}/{self.file}{revision}{pin}"

    @property
    def digests(self) -> Mapping[str, str]:
        return {self.file.name: self.sha256} if self.sha256 else {}

    def fetch(self, workspace: Path, progress: Progress) -> Path:
        """Parts that an interrupted call left are continued if the hub still has the same file."""
        files = workspace / "files"
        with client(_headers()) as http:
            for file in belonging_files(self.file):
                target = files / file.relative_to(self.file.parent)
                if not target.exists():
                    download(http, self._remote(http, file), target, progress)
        return files / self.file.name

    def _remote(self, http: httpx2.Client, file: PurePosixPath) -> Remote:
        endpoint = os.environ.get("HF_ENDPOINT", _DEFAULT_ENDPOINT).rstrip("/")
        url = f"{endpoint}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(str(file))}"
        try:
            # A renamed repository redirects once more before the answer that describes the file.
            response = head_until(http, url, "x-linked-etag")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceUnavailable(
                f"The hub at {endpoint} cannot be reached ({error or type(error).__name__}).",
                hint="Check the network; a mirror goes into HF_ENDPOINT, a proxy into HTTPS_PROXY.",
            ) from error
        if not response.is_success and "x-linked-etag" not in response.headers:
            raise self._refusal(endpoint, file, response)
        headers = response.headers
        etag = headers.get("x-linked-etag") or headers.get("etag") or ""
        size = headers.get("x-linked-size") or headers.get("content-length")
        return Remote(
            url=url,
            etag=etag.removeprefix("W/").strip('"'),
            size=int(size) if size and size.isdigit() else None,
            commit=headers.get("x-repo-commit"),
        )

    def _refusal(self, endpoint: str, file: PurePosixPath, response: httpx2.Response) -> SourceUnavailable:
        code = response.headers.get("x-error-code", "")
        where = f"{self.repo} at {endpoint}"
        if code == "EntryNotFound":
            return SourceUnavailable(
                f"{where} has no file {str(file)!r}.", hint=f"Look at {endpoint}/{self.repo}/tree/main"
            )
        if code == "RevisionNotFound":
            return SourceUnavailable(f"{where} has no revision {self.revision!r}.", hint="Leave it out for the newest.")
        if code == "GatedRepo":
            return SourceUnavailable(
                f"{where} is gated.",
                hint=f"Accept its terms at {endpoint}/{self.repo} and set HF_TOKEN to a token of yours.",
            )
        if response.status_code in (401, 403, 404):
            token = (
                "The token in HF_TOKEN may not read it, or it" if _token() else "It is private (then set HF_TOKEN) or"
            )
            return SourceUnavailable(
                f"{where} cannot be downloaded (HTTP {response.status_code}).",
                hint=f"{token} does not exist: check the name.",
            )
        message = response.headers.get("x-error-message", "")
        return SourceUnavailable(
            f"{where} answered HTTP {response.status_code}. {message}".strip(), hint="Try again later."
        )


def _token() -> str | None:
    """``HF_TOKEN``, or what ``hf auth login`` left."""
    if token := os.environ.get("HF_TOKEN"):
        return token.strip()
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    stored = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    return (stored.read_text("utf-8").strip() or None) if stored.is_file() else None


def _headers() -> dict[str, str]:
    token = _token()
    return {"authorization": f"Bearer {token}"} if token else {}
