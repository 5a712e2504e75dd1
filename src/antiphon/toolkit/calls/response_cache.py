"""Answers kept on disk, for calls that would give the same answer again.

Only deterministic calls are kept: ``temperature=0``, or a ``seed`` given. The key is the endpoint and the whole request,
so any change of model, messages, tools or parameters is another entry.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from openai.types.chat import ChatCompletion

from antiphon.toolkit.cache_file import CacheFile, CacheSize, reading, writing
from antiphon.toolkit.clients import Endpoint

# An answer that a power cut takes is only asked for again.
_SCRIPT = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, completion TEXT NOT NULL, kept_at REAL NOT NULL);
"""
_MAX_BYTES = 256 * 1024 * 1024
# How an answer is delivered and computed does not change it.
_OF_DELIVERY = {"stream", "stream_options", "prompt_cache_key", "service_tier"}


@dataclass(frozen=True, slots=True)
class ResponseCacheStatistics(CacheSize):
    """The size on disk; hits, misses and calls passed over as not deterministic, since this object was made."""

    num_hits: int
    num_misses: int
    num_passed_over: int


class ResponseCache:
    """A SQLite file of completions; may be shared by threads and processes. The prompts themselves are not stored.

    Answers older than ``max_age_s`` are asked for again (None: never). Of a file above ``max_bytes`` (256 MiB) the answers
    that were used least recently are removed.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = _MAX_BYTES, max_age_s: float | None = None) -> None:
        self.path = Path(path)
        self._num_hits = self._num_misses = self._num_passed_over = 0
        self._file = CacheFile(self.path, "answers", _SCRIPT, max_bytes=max_bytes, max_age_s=max_age_s)

    def get(self, endpoint: Endpoint, request: Mapping[str, Any]) -> ChatCompletion | None:
        """Return the kept answer, or None. Raises CacheError for a file that cannot be read."""
        with self._file.lock, reading(self.path):
            if not is_deterministic(request):
                self._num_passed_over += 1
                return None
            key = _key(endpoint, request)
            query = "SELECT completion, used_at FROM answers WHERE key = ? AND kept_at >= ?"
            row = self._file.database.execute(query, (key, self._file.kept_since)).fetchone()
            kept = None if row is None else _completion(row[0])
            self._num_misses += kept is None
            self._num_hits += kept is not None
            if row is not None:
                self._file.touch([key], row[1])
            return kept

    def put(self, endpoint: Endpoint, request: Mapping[str, Any], completion: ChatCompletion) -> None:
        """Keep ``completion`` if the call is deterministic and the answer complete (not cut at the token limit)."""
        is_complete = all(choice.finish_reason in {"stop", "tool_calls"} for choice in completion.choices)
        if not is_deterministic(request) or not is_complete:
            return
        now = time.time()
        row = (_key(endpoint, request), completion.model_dump_json(), now, now)
        insert = "INSERT OR REPLACE INTO answers (key, completion, kept_at, used_at) VALUES (?, ?, ?, ?)"
        with self._file.lock, writing(self.path):
            self._file.database.execute(insert, row)
            self._file.shrink(1)

    def clear(self, *, older_than_s: float = 0.0) -> int:
        """Remove all answers, or those kept longer ago than ``older_than_s``; return how many."""
        return self._file.clear(older_than_s)

    def statistics(self) -> ResponseCacheStatistics:
        size = self._file.size()
        return ResponseCacheStatistics(
            size.num_entries, size.num_bytes, size.oldest_s, self._num_hits, self._num_misses, self._num_passed_over
        )

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_deterministic(request: Mapping[str, Any]) -> bool:
    """Tell whether ``request`` asks for one answer that sampling does not change."""
    return (request.get("temperature") == 0 or request.get("seed") is not None) and request.get("n") in {None, 1}


def _completion(text: str) -> ChatCompletion | None:
    """Read a stored answer; a damaged one counts as absent, and the next answer replaces it."""
    try:
        return ChatCompletion.model_validate_json(text)
    except ValueError:
        return None


def _key(endpoint: Endpoint, request: Mapping[str, Any]) -> str:
    asked = {key: value for key, value in request.items() if key not in _OF_DELIVERY}
    text = json.dumps([endpoint.base_url, asked], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
