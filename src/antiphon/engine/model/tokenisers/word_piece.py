"""WordPiece vocabularies (BERT): a text is made plain and cut into words, a word into the longest tokens that fit.

Vocabularies in GGUF mark the beginning of a word, ``▁play`` and ``ing``, where BERT's own marked what continues one. What is
made of each character is llama.cpp's choice, also where BERT's tokenizer does otherwise: of a character that Unicode takes
apart, only the first part is kept, and so of a Korean syllable only the first letter.
"""

import unicodedata
from functools import lru_cache
from typing import Final

from antiphon.engine.model.tokenisers.facts import TokenizerFacts
from antiphon.engine.model.tokenisers.sentencepiece import SPACE

_PORTION: Final = 16 * 1024
"""Characters that are made plain at once, while other threads wait."""
_NUM_KEPT_WORDS: Final = 1 << 15
_LONGEST_KEPT_WORD: Final = 64
"""Characters."""
_SPACES: Final = frozenset(map(chr, (*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                                     0x202F, 0x205F, 0x3000)))  # fmt: skip
_IDEOGRAPHS: Final = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
                      (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0x2F800, 0x2FA1F))  # fmt: skip
_LAST_ASCII_SYMBOL: Final = "~"
_UNKNOWN_DEFAULT: Final = 100


class _Plain(dict[int, str]):
    """What each character becomes, by code point, worked out when it first comes: for ``str.translate``."""

    def __init__(self, *, lower_case: bool, without_accents: bool) -> None:
        super().__init__()
        self._lower_case = lower_case
        self._without_accents = without_accents

    def __missing__(self, code: int) -> str:
        plain = self[code] = self._plain(chr(code))
        return plain

    def _plain(self, character: str) -> str:
        if self._without_accents:
            character = unicodedata.normalize("NFD", character)[0]
        if character in _SPACES:
            return " "
        category = unicodedata.category(character)
        if character == "\ufffd" or category in {"Cc", "Cf", "Co", "Cs"}:
            return ""
        if self._without_accents and category.startswith("M"):
            return ""
        stands_alone = (
            category.startswith("P")
            or (character <= _LAST_ASCII_SYMBOL and category.startswith("S"))
            or any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
        )
        if self._lower_case:
            character = character.lower()[0]
        return f" {character} " if stands_alone else character


class WordPiece:
    """Tokenises plain text; a word that no tokens make up becomes the token for unknown words."""

    def __init__(self, facts: TokenizerFacts) -> None:
        self._ids = {text: token for token, text in enumerate(facts.texts)}
        self._longest = max(map(len, facts.texts))
        self._unknown = facts.token("unknown", _UNKNOWN_DEFAULT)
        lower_case = facts.flag("normalizer.lowercase", True)
        self._plain = _Plain(lower_case=lower_case, without_accents=facts.flag("normalizer.strip_accents", lower_case))
        self._kept = lru_cache(_NUM_KEPT_WORDS)(self._word)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for word in self._words(text):
            ids += self._kept(word) if len(word) <= _LONGEST_KEPT_WORD else self._word(word)
        return ids

    def _words(self, text: str) -> list[str]:
        portions = (text[start : start + _PORTION] for start in range(0, len(text), _PORTION))
        return "".join(portion.translate(self._plain) for portion in portions).split(" ")

    def _word(self, word: str) -> list[int]:
        """Return the tokens of a word, the longest possible from its beginning on."""
        if not word:
            return []
        text = SPACE + word
        ids: list[int] = []
        at = 0
        while at < len(text):
            for end in range(min(len(text), at + self._longest), at, -1):
                token = self._ids.get(text[at:end])
                if token is not None:
                    ids.append(token)
                    at = end
                    break
            else:
                return [] if self._unknown is None else [self._unknown]
        return ids
