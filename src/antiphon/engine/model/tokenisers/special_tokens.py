"""Finds special tokens in a text: control tokens where a template may write them, added ones everywhere."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import msgspec

_SPACES: Final = " \t\n\v\f\r"


class SpecialToken(msgspec.Struct, frozen=True):
    """``is_always`` found, or only in a template's text. It may take the spaces before or behind it away."""

    text: str
    token: int
    is_always: bool
    strips_left: bool = False
    strips_right: bool = False


class SpecialTokens:
    """The special tokens of a vocabulary. Longer ones are found first, anywhere in the text, as llama.cpp does it."""

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        ordered = sorted(tokens, key=lambda special: -len(special.text.encode()))
        self.strips = any(special.strips_left or special.strips_right for special in ordered)
        """Whether some take spaces away."""
        self._by_first_character: dict[str, list[tuple[int, SpecialToken]]] = defaultdict(list)
        for rank, special in enumerate(ordered):
            self._by_first_character[special.text[0]].append((rank, special))

    def split(self, text: str, *, in_template: bool) -> list[str | int]:
        """Return the parts of a text: token ids, and the texts between them, none of which is empty."""
        possible = [
            entry
            for first, entries in self._by_first_character.items()
            if first in text
            for entry in entries
            if (in_template or entry[1].is_always) and entry[1].text in text
        ]
        parts: list[str | int] = [text] if text else []
        for _, special in sorted(possible, key=lambda entry: entry[0]):
            parts = [piece for part in parts for piece in (_cut(part, special) if isinstance(part, str) else (part,))]
        return parts


def _cut(text: str, special: SpecialToken) -> list[str | int]:
    """Return a text with every occurrence of one token in its place."""
    pieces: list[str | int] = []
    while True:
        left, found, right = text.partition(special.text)
        if not found:
            break
        if special.strips_left:
            left = left.rstrip(_SPACES)
        if left:
            pieces.append(left)
        pieces.append(special.token)
        text = right.lstrip(_SPACES) if special.strips_right else right
    if text:
        pieces.append(text)
    return pieces
