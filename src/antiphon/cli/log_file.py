"""The log of questions and answers on this machine: one SQLite file, written only once it was turned on."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from antiphon.config import home_directory
from antiphon.errors import AntiphonError
from antiphon.sqlite_file import open_sqlite
from antiphon.toolkit.chat.reply import Reply

_SCRIPT = """
CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, updated REAL NOT NULL, chat TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd TEXT,
    seconds REAL NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (prompt, answer, content='answers', content_rowid='id');
CREATE TRIGGER IF NOT EXISTS answer_words AFTER INSERT ON answers BEGIN
    INSERT INTO words (rowid, prompt, answer) VALUES (new.id, new.prompt, new.answer);
END;
"""
_COLUMNS = "id, conversation, at, model, prompt, answer, prompt_tokens, completion_tokens, cost_usd, seconds"


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """One question and its answer. ``at``: Unix seconds; ``cost_usd``: exact dollars as text, None if not known."""

    id: int
    conversation: str
    at: float
    model: str
    prompt: str
    answer: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: str | None
    seconds: float


def log_path() -> Path:
    return home_directory() / "log.sqlite"


def is_on() -> bool:
    """Whether answers are logged: the file is there, so turning the log on makes it."""
    return log_path().exists()


class Log:
    """The open file."""

    def __init__(self) -> None:
        self._database = open_sqlite(log_path(), _SCRIPT, is_private=True)

    @classmethod
    def opened(cls) -> Self:
        """Open the log; raises AntiphonError if it was not turned on."""
        if not is_on():
            raise AntiphonError("nothing is logged on this machine", hint="turn the log on: antiphon log on")
        return cls()

    def add(self, conversation: str | None, prompt: str, reply: Reply[Any], chat: Mapping[str, Any]) -> str:
        """Keep an answer and its conversation; returns the conversation's id, a new one for None."""
        conversation = conversation or secrets.token_hex(6)
        usage = reply.usage
        row = (
            conversation,
            time.time(),
            reply.model,
            prompt,
            reply.text,
            None if usage is None else usage.prompt_tokens,
            None if usage is None else usage.completion_tokens,
            None if reply.cost is None else str(reply.cost),
            reply.timing.total_s,
        )
        with self._database:
            self._database.execute(f"INSERT INTO answers ({_COLUMNS[4:]}) VALUES (?,?,?,?,?,?,?,?,?)", row)  # noqa: S608 - constants
            kept = (conversation, time.time(), json.dumps(chat, ensure_ascii=False))
            self._database.execute("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?)", kept)
        return conversation

    def conversation(self, id_: str | None = None) -> tuple[str, dict[str, Any]]:
        """Return a conversation as ``Chat.save`` writes it, the latest for None. Raises AntiphonError if there is none."""
        if id_ is None:
            found = self._database.execute(
                "SELECT id, chat FROM conversations ORDER BY updated DESC LIMIT 1"
            ).fetchone()
        else:
            found = self._database.execute("SELECT id, chat FROM conversations WHERE id = ?", (id_,)).fetchone()
        if found is None:
            told = "there is no conversation to continue" if id_ is None else f"there is no conversation {id_!r}"
            raise AntiphonError(told, hint="see those that are kept: antiphon log")
        return found[0], json.loads(found[1])

    def answers(self, *, search: str | None = None, limit: int = 10) -> list[LoggedAnswer]:
        """Return the latest answers, newest first; with ``search`` those that have all its words."""
        columns = ", ".join(f"answers.{name.strip()}" for name in _COLUMNS.split(","))
        query, values = f"SELECT {columns} FROM answers ORDER BY id DESC LIMIT ?", [limit]  # noqa: S608 - constants
        if search is not None:
            # Each word in quotes, so that a colon or a minus of the user's is not read as an operator.
            words = " ".join('"' + word.replace('"', '""') + '"' for word in search.split())
            query = (
                f"SELECT {columns} FROM words JOIN answers ON answers.id = words.rowid "  # noqa: S608 - constants
                "WHERE words MATCH ? ORDER BY words.rowid DESC LIMIT ?"
            )
            values = [words, limit]
        return [LoggedAnswer(*row) for row in self._database.execute(query, values)]

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def turn_on() -> Path:
    """Make the log's file."""
    Log().close()
    return log_path()


def remove() -> None:
    """Remove the log and what it kept."""
    for path in (log_path(), *home_directory().glob("log.sqlite-*")):
        path.unlink(missing_ok=True)


def require_no_system(system: str | None) -> None:
    """Raise AntiphonError if there is a system message for a conversation that is continued."""
    if system:
        raise AntiphonError(
            "a conversation that is continued keeps its system message", hint="leave out --system, or begin a new one"
        )
