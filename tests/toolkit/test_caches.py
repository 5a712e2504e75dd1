"""How large and how old caches become; both kinds keep to the same."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion

from antiphon import EmbeddingCache, ResponseCache
from antiphon.cli.root import main
from antiphon.toolkit.clients import Endpoint
from antiphon.toolkit.embeddings.embedding_cache import CachedVector

HERE = Endpoint("http://here/v1")
Kept = ResponseCache | EmbeddingCache


def completion(text: str) -> ChatCompletion:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": None}
    return ChatCompletion.model_validate(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    )


def put(cache: Kept, number: int) -> None:
    """Keep entry ``number``, of about eight kilobytes."""
    if isinstance(cache, ResponseCache):
        cache.put(HERE, asked(number), completion("x" * 8000))
    else:
        cache.put({number.to_bytes(4): CachedVector(np.ones(2000, np.float32), "m")})


def has(cache: Kept, number: int) -> bool:
    if isinstance(cache, ResponseCache):
        return cache.get(HERE, asked(number)) is not None
    return bool(cache.get([number.to_bytes(4)]))


def asked(number: int) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": str(number)}], "temperature": 0}


def set_times(cache: Kept, **times: float) -> None:
    """Move when all entries were kept or used."""
    for column, value in times.items():
        cache._file.database.execute(f"UPDATE {cache._file._table} SET {column} = ?", (value,))


Make = Callable[..., Kept]


@pytest.fixture(params=[ResponseCache, EmbeddingCache], ids=lambda kind: kind.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    return lambda **options: request.param(tmp_path / "c.sqlite", **options)


def test_a_cache_stays_within_its_bytes(make: Make, tmp_path: Path) -> None:
    """Entries and the file itself; the newest are there, the oldest are gone."""
    cache = make(max_bytes=2_000_000)
    for number in range(400):
        put(cache, number)
        assert cache.statistics().num_bytes <= 2_000_000 + 50_000
    assert (has(cache, 399), has(cache, 0)) == (True, False)
    assert cache.statistics().num_entries > 100
    cache.close()
    assert (tmp_path / "c.sqlite").stat().st_size <= 2_000_000 + 200_000


def test_what_is_used_stays(make: Make) -> None:
    """The least recently used go first, not the oldest."""
    cache = make(max_bytes=1_000_000)
    for number in range(80):
        put(cache, number)
    set_times(cache, used_at=time.time() - 100_000)
    assert has(cache, 0)
    for number in range(80, 140):
        put(cache, number)
    assert (has(cache, 0), has(cache, 1)) == (True, False)


def test_what_is_too_old_counts_as_absent_and_goes_with_the_next_write(make: Make) -> None:
    """Its age is that of the answer, whenever it was used."""
    cache = make(max_age_s=3600)
    put(cache, 1)
    assert has(cache, 1)
    set_times(cache, kept_at=time.time() - 3601)
    assert not has(cache, 1)
    put(cache, 2)
    assert (cache.statistics().num_entries, has(cache, 2)) == (1, True)


def test_a_cache_is_cleared_by_age_or_wholly(make: Make, tmp_path: Path) -> None:
    """Its space on disk is freed."""
    cache = make()
    assert cache.statistics().oldest_s is None
    for number in range(200):
        put(cache, number)
    set_times(cache, kept_at=time.time() - 1000)
    put(cache, 200)
    assert 1000 <= (cache.statistics().oldest_s or 0) < 1060
    assert (cache.clear(older_than_s=500), cache.clear(older_than_s=500)) == (200, 0)
    assert (cache.statistics().num_entries, has(cache, 200)) == (1, True)
    assert (tmp_path / "c.sqlite").stat().st_size < 100_000
    assert cache.clear() == 1


@pytest.mark.parametrize("bounds", [{"max_bytes": 0}, {"max_age_s": 0}, {"max_age_s": -1.0}])
def test_bounds_that_hold_nothing_are_refused(make: Make, bounds: dict[str, float]) -> None:
    """Before a file is made."""
    with pytest.raises(ValueError, match="must be > 0"):
        make(**bounds)


OLD = {
    ResponseCache: "CREATE TABLE answers (key TEXT PRIMARY KEY, completion TEXT NOT NULL, kept_at REAL NOT NULL)",
    EmbeddingCache: "CREATE TABLE vectors (key BLOB PRIMARY KEY, answered_by TEXT NOT NULL, vector BLOB NOT NULL) "
    "WITHOUT ROWID; INSERT INTO vectors VALUES (x'00000001', 'm', x'0000803f')",
}


@pytest.mark.parametrize("kind", OLD)
def test_a_file_of_an_earlier_version_goes_on(kind: Any, tmp_path: Path) -> None:
    """What it holds stays, and its age counts from now."""
    with sqlite3.connect(tmp_path / "c.sqlite") as database:
        database.executescript(OLD[kind])
    database.close()
    for _ in range(2):
        cache = kind(tmp_path / "c.sqlite", max_age_s=60)
        assert has(cache, 1) == (kind is EmbeddingCache)
        put(cache, 2)
        assert has(cache, 2)
        cache.close()


def test_the_command_shows_and_clears_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking makes no file; what is cleared is counted."""
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["cache", *words])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

    assert run() == (0, "nothing is cached on this machine\n")
    assert not (tmp_path / "home").exists()
    cache = EmbeddingCache()
    put(cache, 1)
    assert "embeddings" in run()[1]
    assert '"num_entries": 1' in run("--json")[1]
    assert run("clear", "embeddings", "--older-than", "1")[1] == "embeddings: 0 entries removed\n"
    assert "embeddings: 1 entries removed" in run("clear")[1]
    assert "--older-than must be a number of days" in run("clear", "--older-than", "-1")[1]
    assert run("clear", "weights")[0] != 0
