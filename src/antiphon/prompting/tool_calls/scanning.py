"""Finds where values and literals end in text that arrives in pieces."""

import re

_STRUCTURE = re.compile(r'["{}\[\]]')
_HALF_TAG = re.compile(r"[<\[][^<>\[\]]*$")
_BARE = re.compile(r"[-+.\w]+")
_STRING_END = re.compile(r'["\\]')


def common_start(one: str, other: str) -> str:
    """Return the longest text with which both begin."""
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def whole_tags(text: str) -> str:
    """Return the text without a tag that is begun at its end: a tag may be a single token."""
    half = _HALF_TAG.search(text)
    return text[: half.start()] if half else text


def partial(text: str, ending: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``ending`` without completing it."""
    for length in range(min(len(text), len(ending) - 1), 0, -1):
        if text.endswith(ending[:length]):
            return length
    return 0


class JsonScanner:
    """Finds the end of one JSON value. Feed it consecutive text; a bare number or word ends where another text begins."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._is_bare = False
        self._has_begun = False

    def feed(self, text: str) -> int | None:
        """Return how many characters of ``text`` belong to the value if it ends here, else None (all of them do).

        Returns -1 when the text does not begin with a JSON value.
        """
        if not self._has_begun and text:
            self._has_begun = True
            self._is_bare = bool(_BARE.match(text))
            if not self._is_bare and text[0] not in '{["':
                return -1
        if self._is_bare:
            match = _BARE.match(text)
            end = match.end() if match else 0
            return end if end < len(text) else None
        return self._structured(text)

    def _structured(self, text: str) -> int | None:
        at = 0
        while at < len(text):
            if self._in_string:
                at = self._string(text, at)
                if not self._in_string and self._depth == 0:
                    return at
                continue
            match = _STRUCTURE.search(text, at)
            if match is None:
                return None
            at = match.end()
            match match[0]:
                case '"':
                    self._in_string = True
                case "{" | "[":
                    self._depth += 1
                case _:
                    self._depth -= 1
                    if self._depth == 0:
                        return at
        return None

    def _string(self, text: str, at: int) -> int:
        if self._escaped:
            self._escaped = False
            return at + 1
        match = _STRING_END.search(text, at)
        if match is None:
            return len(text)
        if match[0] == "\\":
            self._escaped = True
        else:
            self._in_string = False
        return match.end()
