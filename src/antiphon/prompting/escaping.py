"""Keeps text in a request from being read as special tokens.

A special token's text inside a message could end the user's turn and forge another. Before rendering, each such text
in a user's strings is replaced by one private-use character that occurs nowhere else in the request: a single
character survives every string operation of a template (trim, split, join, JSON). After rendering, those characters
mark the pieces that are to be tokenised as plain text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from antiphon.prompting.errors import PromptError

_PRIVATE = range(0xF0000, 0x10FFFE)
_PRIVATE_TEXT = re.compile("[\U000f0000-\U0010fffd]")

_Trie = dict[str, "_Trie"]


class Piece(msgspec.Struct, frozen=True):
    """Part of a prompt. Special tokens are recognised in it if ``special``; otherwise it is tokenised as plain text."""

    text: str
    special: bool


class SpecialTokenEscaper:
    """Knows the special tokens of one model. Its work is linear in the length of the text."""

    def __init__(self, special_tokens: Iterable[str]) -> None:
        tokens = {token for token in special_tokens if token}
        trie: _Trie = {}
        for token in tokens:
            _insert(trie, token)
        self._longest = max(map(len, tokens), default=0)
        self._prefixes = {token[:n] for token in tokens for n in range(1, len(token))}
        self._tokens = re.compile(_pattern(trie)) if tokens else None

    def for_request(self) -> "RequestEscaper":
        """Return a fresh escaper for the strings of one request."""
        return RequestEscaper(self)

    def escape(self, text: str, marks: Mapping[str, str]) -> str:
        """Return the text with the mark of each special token in its place, and of the beginning of one at its end.

        The beginning counts because a template may append text that completes it, even after trimming spaces. ``marks``
        is looked up for each text to replace.
        """
        if self._tokens is None or not text:
            return text
        end = 0

        def mark(found: re.Match[str]) -> str:
            nonlocal end
            end = found.end()
            return marks[found[0]]

        replaced = self._tokens.sub(mark, text)
        tail = len(text.rstrip())
        for start in range(max(end, tail - self._longest), tail):
            if text[start:tail] in self._prefixes:
                kept = len(replaced) - (len(text) - start)
                return replaced[:kept] + marks[text[start:tail]] + text[tail:]
        return replaced


class RequestEscaper:
    """Escapes the strings of one request: escape every user string, render, then split the rendered text."""

    def __init__(self, escaper: SpecialTokenEscaper) -> None:
        self._escaper = escaper
        self._marks = _Marks(self.unused_character)
        self._unused: Iterator[str] = map(chr, _PRIVATE)

    def escape(self, value: Any) -> Any:
        """Return a copy of a JSON value whose strings (keys too) hold no special token.

        Call it once per request, with everything that comes from the user. Raises ``PromptError`` when the value leaves
        no private-use character unused.
        """
        used = {char for text in _strings(value) for char in _PRIVATE_TEXT.findall(text)}
        self._unused = (chr(code) for code in _PRIVATE if chr(code) not in used)
        return self._escape(value)

    def unused_character(self) -> str:
        """Return a private-use character that is neither in the request nor in use here."""
        try:
            return next(self._unused)
        except StopIteration:
            raise PromptError("The messages use up every private-use character of Unicode.") from None

    def split(self, rendered: str) -> tuple[Piece, ...]:
        """Return the rendered text in pieces, escaped texts in plain ones."""
        if not self._marks:
            return (Piece(rendered, special=True),) if rendered else ()
        texts = {mark: text for text, mark in self._marks.items()}
        # A range, not a set: a set of many characters is searched one by one.
        parts = re.split(f"([{min(texts)}-{max(texts)}]+)", rendered)
        pieces: list[Piece] = []
        for number, part in enumerate(parts):
            is_plain = number % 2 == 1
            text = "".join([texts.get(char, char) for char in part]) if is_plain else part
            pieces.append(Piece(text, special=not is_plain))
        return tuple(piece for piece in pieces if piece.text)

    def _escape(self, value: Any) -> Any:
        match value:
            case str():
                return self._escaper.escape(value, self._marks)
            case Mapping():
                items = cast("Mapping[str, Any]", value).items()
                return {self._escaper.escape(key, self._marks): self._escape(item) for key, item in items}
            case list() | tuple():
                return [self._escape(item) for item in cast("Sequence[Any]", value)]
            case _:
                return value


class _Marks(dict[str, str]):
    """The mark of each text that was replaced; a new text gets a new mark."""

    def __init__(self, new_mark: Callable[[], str]) -> None:
        super().__init__()
        self._new_mark = new_mark

    def __missing__(self, text: str) -> str:
        mark = self[text] = self._new_mark()
        return mark


def _insert(trie: _Trie, token: str) -> None:
    node = trie
    for char in token:
        node = node.setdefault(char, {})
    node[""] = {}


def _pattern(trie: _Trie) -> str:
    """Return a regular expression for the longest of the tokens in the trie that a text begins with.

    Written as a trie it fails at the first character that no token has, however many tokens there are.
    """
    steps: list[str] = []
    choices = [char for char in trie if char]
    for char in choices:
        text, node = char, trie[char]
        while len(node) == 1 and "" not in node:
            ((following, node),) = node.items()
            text += following
        steps.append(re.escape(text) + ("" if node.keys() == {""} else _pattern(node)))
    if "" in trie:
        return f"(?:{'|'.join(steps)})?"
    return steps[0] if len(steps) == 1 else f"(?:{'|'.join(steps)})"


def _strings(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys included."""
    waiting: list[Any] = [value]
    while waiting:
        item = waiting.pop()
        match item:
            case str():
                yield item
            case Mapping():
                yield from cast("Mapping[str, Any]", item)
                waiting += cast("Mapping[str, Any]", item).values()
            case list() | tuple():
                waiting += cast("Sequence[Any]", item)
            case _:
                pass
