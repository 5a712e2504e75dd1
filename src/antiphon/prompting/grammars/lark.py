"""Writes grammars in llguidance's variant of Lark, and reads its compiler's messages."""

import json
import re
from collections.abc import Mapping

ANY_TEXT = "/(?s:.*)/"
SOME_TEXT = "/(?s:.+)/"

_SLASH = re.compile(r"(\\.)|/", re.DOTALL)


def regex_literal(pattern: str) -> str:
    """Return a regular expression as a literal. An escaped slash is kept; ``//`` would be a comment."""
    inner = _SLASH.sub(lambda found: found[1] or r"\/", pattern)
    return f"/{inner}/" if pattern else '""'


def of_user(definition: str) -> str:
    """Return a user's grammar for the engine, which looks no further ahead in it than a token.

    The compiler hangs while it looks for forced text in ``/z+/ /z+/``, whose first part takes every ``z``.
    """
    return f'%llguidance {{"no_forcing": true}}\n{definition}'


def in_one_line(error: str) -> str:
    """Return the compiler's message without the grammar, its own state and the names of its own types."""
    if "NoExtension" in error:
        return "no text can follow here under the grammar or schema."
    words = error.partition("\n   1 | ")[0].partition("\n<state>")[0]
    return " ".join(words.split())[:500]


class LarkWriter:
    """Knows which texts are single control tokens: a grammar names them by id, since no text can match them."""

    def __init__(self, control_ids: Mapping[str, int]) -> None:
        self._ids = dict(control_ids)
        ordered = sorted((text for text in self._ids if text), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None

    def literal(self, text: str) -> str:
        """Return a sequence that matches exactly ``text``; the empty string for no text."""
        parts = self._split.split(text) if self._split else [text]
        return " ".join(self._part(part) for part in parts if part)

    def is_control(self, text: str) -> bool:
        """Whether the text begins with a control token."""
        return bool(self._split and self._split.match(text))

    def up_to_control(self, text: str) -> tuple[str, str]:
        """Return the plain letters that the text begins with, and the rest, which begins with a control token or is empty."""
        found = self._split.search(text) if self._split else None
        return (text, "") if found is None else (text[: found.start()], text[found.start() :])

    def _part(self, part: str) -> str:
        return f"<[{self._ids[part]}]>" if part in self._ids else json.dumps(part, ensure_ascii=False)
