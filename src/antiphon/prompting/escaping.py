"""Keeps what users write from being read as control tokens.

A control token's text inside a message could end the user's turn and forge another. Before rendering, each such text
in a user's strings is replaced by one private-use character that occurs nowhere else in the request; a single
character survives whatever a template does to strings (trim, split, join, JSON). After rendering, those characters
mark the pieces that are to be tokenised as plain text.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from antiphon.prompting.errors import PromptError

_PRIVATE = range(0xF0000, 0x10FFFE)
_PRIVATE_TEXT = re.compile("[\U000f0000-\U0010fffd]")


class Piece(msgspec.Struct, frozen=True):
    """Part of a prompt. Control tokens are recognised in it if ``special``; otherwise it is tokenised as plain text."""

    text: str
    special: bool


class SpecialTokenEscaper:
    """Knows the control tokens of one model."""

    def __init__(self, control_tokens: Iterable[str]) -> None:
        self._tokens = frozenset(token for token in control_tokens if token)
        self._lengths = sorted({len(token) for token in self._tokens}, reverse=True)
        firsts = "".join(sorted({re.escape(token[0]) for token in self._tokens}))
        self._start = re.compile(f"[{firsts}]") if firsts else re.compile(r"(?!)")
        self._prefixes = {token[:n] for token in self._tokens for n in range(1, len(token))}

    def for_request(self) -> "RequestEscaper":
        """Return a fresh escaper for the strings of one request."""
        return RequestEscaper(self)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where ``text`` holds a control token, or ends in the beginning of one.

        The beginning counts because a template may append text that completes it, also after trimming spaces.
        """
        end = 0
        for match in self._start.finditer(text):
            start = match.start()
            if start < end:
                continue
            length = next((n for n in self._lengths if text[start : start + n] in self._tokens), 0)
            if length:
                end = start + length
                yield start, end
        tail = len(text.rstrip())
        longest = self._lengths[0] if self._lengths else 0
        for start in range(max(end, tail - longest), tail):
            if text[start:tail] in self._prefixes:
                yield start, tail
                return


class RequestEscaper:
    """The protection of one request: escape every user string, render, then split what was rendered."""

    def __init__(self, escaper: SpecialTokenEscaper) -> None:
        self._escaper = escaper
        self._texts: dict[str, str] = {}
        self._marks: dict[str, str] = {}

    def escape(self, value: Any) -> Any:
        """Return a copy of a JSON value whose strings (keys too) hold no control token.

        Call it once per request, with everything that comes from the user.
        """
        taken = {char for text in _strings(value) for char in _PRIVATE_TEXT.findall(text)}
        free = (chr(code) for code in _PRIVATE if chr(code) not in taken)
        return self._escape(value, free)

    def split(self, rendered: str) -> tuple[Piece, ...]:
        """Return the rendered text in pieces, protected texts in plain ones."""
        if not self._texts:
            return (Piece(rendered, special=True),) if rendered else ()
        parts = re.split(f"([{''.join(self._texts)}]+)", rendered)
        pieces: list[Piece] = []
        for number, part in enumerate(parts):
            is_plain = number % 2 == 1
            text = "".join(self._texts[char] for char in part) if is_plain else part
            pieces.append(Piece(text, special=not is_plain))
        return tuple(piece for piece in pieces if piece.text)

    def _escape(self, value: Any, free: Iterator[str]) -> Any:
        match value:
            case str():
                return self._mask(value, free)
            case Mapping():
                items = cast("Mapping[str, Any]", value).items()
                return {self._mask(key, free): self._escape(item, free) for key, item in items}
            case list() | tuple():
                return [self._escape(item, free) for item in cast("Sequence[Any]", value)]
            case _:
                return value

    def _mask(self, text: str, free: Iterator[str]) -> str:
        parts: list[str] = []
        end = 0
        for start, stop in self._escaper.spans(text):
            parts += [text[end:start], self._mark(text[start:stop], free)]
            end = stop
        return "".join([*parts, text[end:]]) if parts else text

    def _mark(self, text: str, free: Iterator[str]) -> str:
        if text not in self._marks:
            try:
                mark = next(free)
            except StopIteration:
                raise PromptError("The messages use up every private-use character of Unicode.") from None
            self._marks[text] = mark
            self._texts[mark] = text
        return self._marks[text]


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in cast("Mapping[str, Any]", value).items():
                yield key
                yield from _strings(item)
        case list() | tuple():
            for item in cast("Sequence[Any]", value):
                yield from _strings(item)
        case _:
            return
