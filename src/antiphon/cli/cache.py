"""``antiphon cache``: what the caches on this machine hold, and how to clear them."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import App, Parameter

from antiphon.cli.output import print_json
from antiphon.cli.tables import print_table
from antiphon.config import home_directory
from antiphon.errors import AntiphonError
from antiphon.toolkit.cache_file import CacheSize
from antiphon.toolkit.calls.response_cache import ResponseCache
from antiphon.toolkit.embeddings.embedding_cache import EmbeddingCache, default_cache_path

app = App(name="cache", help="Show and clear the caches of embeddings and answers on this machine.")
Name = Literal["embeddings", "evaluations"]
_DAY_S = 86_400.0


@app.default
def show(*, json: Annotated[bool, Parameter(negative="", help="Print one JSON object.")] = False) -> None:
    """Show how many entries each cache has, their size on disk, and how old they are.

    `embeddings` has the vectors of `embed`, `evaluations` the answers of `eval`.
    """
    sizes = {name: _size(name) for name in get_args(Name)}
    if json:
        print_json({name: {"path": _path(name), "size": size} for name, size in sizes.items()})
        return
    rows = [
        [name, str(_path(name)), str(size.num_entries), f"{size.num_bytes / 1e6:.1f} MB", _age(size.oldest_s)]
        for name, size in sizes.items()
        if size is not None
    ]
    if not rows:
        print("nothing is cached on this machine")
        return
    print_table(["cache", "file"], ["entries", "size", "oldest"], rows)


@app.command
def clear(
    *names: Annotated[Name, Parameter(help="The caches to clear; all of them if none is named.")],
    older_than: Annotated[float | None, Parameter(help="Only what was kept more than so many days ago.")] = None,
) -> None:
    """Remove what the caches hold, and free its space on disk."""
    if older_than is not None and not older_than >= 0:
        raise AntiphonError(f"--older-than must be a number of days, not {older_than!r}", hint="for example: 30")
    for name in names or get_args(Name):
        removed = 0
        if _path(name).exists():
            cache = _open(name)
            try:
                removed = cache.clear(older_than_s=0.0 if older_than is None else older_than * _DAY_S)
            finally:
                cache.close()
        print(f"{name}: {removed} entries removed")


def _path(name: Name) -> Path:
    return default_cache_path() if name == "embeddings" else home_directory() / "evaluations.sqlite"


def _open(name: Name) -> EmbeddingCache | ResponseCache:
    return EmbeddingCache() if name == "embeddings" else ResponseCache(_path(name))


def _size(name: Name) -> CacheSize | None:
    """Return the size of a cache, or None if there is no file: looking makes none."""
    if not _path(name).exists():
        return None
    cache = _open(name)
    try:
        return cache.statistics()
    finally:
        cache.close()


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / _DAY_S:.0f} days" if seconds >= _DAY_S else "today"
