"""Answers kept on disk, for calls that would give the same answer again.

Only deterministic calls are kept: ``temperature=0``, or a ``seed`` given. The key is the endpoint and the whole request,
so any change of model, messages, tools or parameters is another entry.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from openai.types.chat import ChatCompletion

from antiphon.toolkit.cache_file import open_cache, reading, writing
from antiphon.toolkit.clients import Endpoint

_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, completion TEXT NOT NULL, kept_at REAL NOT NULL)"
# How an answer is delivered and computed does not change it.
_OF_DELIVERY = {"stream", "stream_options", "prompt_cache_key", "service_tier"}


@dataclass(frozen=True, slots=True)
class ResponseCacheStatistics:
    """``num_entries`` on disk; hits, misses and calls passed over as not deterministic, since this object was made."""

    num_entries: int
    num_hits: int
    num_misses: int
    num_passed_over: int


class ResponseCache:
    """A SQLite file of completions; may be shared by threads and processes. The prompts themselves are not stored."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._num_hits = self._num_misses = self._num_passed_over = 0
        self._database = open_cache(self.path, _TABLE)

    def get(self, endpoint: Endpoint, request: Mapping[str, Any]) -> ChatCompletion | None:
        """Return the kept answer, or None. Raises CacheError for a file that cannot be read."""
        with self._lock, reading(self.path):
            if not is_deterministic(request):
                self._num_passed_over += 1
                return None
            query = "SELECT completion FROM answers WHERE key = ?"
            row = self._database.execute(query, (_key(endpoint, request),)).fetchone()
            kept = None if row is None else _completion(row[0])
            self._num_misses += kept is None
            self._num_hits += kept is not None
            return kept

    def put(self, endpoint: Endpoint, request: Mapping[str, Any], completion: ChatCompletion) -> None:
        """Keep ``completion`` if the call is deterministic and the answer complete (not cut at the token limit)."""
        is_complete = all(choice.finish_reason in {"stop", "tool_calls"} for choice in completion.choices)
        if not is_deterministic(request) or not is_complete:
            return
        row = (_key(endpoint, request), completion.model_dump_json(), time.time())
        with self._lock, writing(self.path):
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)

    def clear(self) -> None:
        with self._lock, reading(self.path):
            self._database.execute("DELETE FROM answers")

    def statistics(self) -> ResponseCacheStatistics:
        with self._lock, reading(self.path):
            (num_entries,) = self._database.execute("SELECT count(*) FROM answers").fetchone()
            return ResponseCacheStatistics(num_entries, self._num_hits, self._num_misses, self._num_passed_over)

    def close(self) -> None:
        with self._lock:
            self._database.close()

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
