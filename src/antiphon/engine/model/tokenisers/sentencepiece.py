"""SentencePiece vocabularies (Llama 2, Mistral, TinyLlama, ...): neighbours join into the token of the highest score.

Hugging Face's ``tokenizers`` computes it as BPE whose merges are all ways to put a token together, by the token's score.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Tokenizer, models

from antiphon.engine.model.tokenisers.facts import TokenizerFacts, UnknownTokenizerError
from antiphon.engine.model.tokenisers.token_table import ADDED, BYTE, CONTROL, NORMAL, UNKNOWN, TokenTable

SPACE: Final = "▁"
_NUM_BYTES: Final = 256


class SentencePiece:
    """Tokenises plain text. Characters that no token has are written in bytes.

    Raises:
        UnknownTokenizerError: two tokens that can be put together have one score, or single bytes have no tokens.
    """

    def __init__(self, facts: TokenizerFacts) -> None:
        ids = {text: token for token, text in enumerate(facts.texts)}
        self._bytes = [ids.get(f"<0x{byte:02X}>", -1) for byte in range(_NUM_BYTES)]
        if min(self._bytes) < 0:
            raise UnknownTokenizerError("its SentencePiece vocabulary has no tokens for single bytes")
        self._size = len(facts.texts)
        # A character that only has tokens together with others gets one for the time of tokenising.
        self._parts = sorted({character for text in facts.texts for character in text if character not in ids})
        ids |= {character: self._size + at for at, character in enumerate(self._parts)}
        library: Any = models
        model = library.BPE(vocab=ids, merges=_merges(facts, ids), byte_fallback=True)
        self._tokenizer: Any = Tokenizer(model)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text."""
        escaped = text.replace(" ", SPACE)
        # One text as a batch: only then the library lets other threads run.
        ids: list[int] = self._tokenizer.encode_batch_fast([escaped], add_special_tokens=False)[0].ids
        if not self._parts or max(ids, default=0) < self._size:
            return ids
        return [written for token in ids for written in self._written(token)]

    def _written(self, token: int) -> list[int]:
        """Return a token, or the bytes of a character that has none."""
        if token < self._size:
            return [token]
        return [self._bytes[byte] for byte in self._parts[token - self._size].encode()]


def piece(table: TokenTable, token: int) -> bytes:
    """Return the bytes of a token of such a vocabulary, or of one of words."""
    text, bits = table.texts[token], table.attributes[token]
    if bits & (UNKNOWN | CONTROL | ADDED):
        return text.encode()
    if bits & NORMAL:
        return text.replace(SPACE, " ").encode()
    return bytes([int(text[3:5], 16)]) if bits & BYTE else b""


def _merges(facts: TokenizerFacts, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make up each token, those of the highest score first.

    Of pairs with one score, SentencePiece joins the leftmost in the text. Only runs of a character (spaces, in Llama's vocabulary)
    are known to share a score. There the leftmost is the one whose left part has grown longest.
    """
    ways = {text: pairs for text in facts.texts if (pairs := list(_ways(text, ids)))}
    tied = Counter(facts.scores[ids[text]] for text in ways)
    for text in ways:
        if tied[facts.scores[ids[text]]] > 1 and len(set(text)) > 1:
            raise UnknownTokenizerError(
                f"the token {text!r} of its SentencePiece vocabulary shares its score with others"
            )
    pairs = [(-facts.scores[ids[text]], -len(left), left, right) for text in ways for left, right in ways[text]]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def _ways(text: str, ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of tokens that a token can be put together from."""
    for at in range(1, len(text)):
        if text[:at] in ids and text[at:] in ids:
            yield text[:at], text[at:]
