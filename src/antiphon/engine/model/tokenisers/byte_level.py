"""Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, ...), computed by Hugging Face's ``tokenizers``."""

import os
import re
from collections.abc import Iterator
from typing import Any, Final

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from antiphon.engine.model.tokenisers.facts import TokenizerFacts, UnknownTokenizerError
from antiphon.engine.model.tokenisers.pretokenisers import Pretokeniser
from antiphon.engine.model.tokenisers.token_table import ADDED, BYTE, CONTROL, NORMAL, UNKNOWN, TokenTable

PORTION: Final = 64 * 1024
"""Characters of a text that are tokenised at once; the library takes forty bytes of memory for each."""
_WORD_END: Final = re.compile("(?<=[A-Za-z]) ")
"""Where a text can be cut without changing its tokens: every rule ends a word before a space, whatever follows."""
_SHOWN: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))


def _characters() -> dict[int, str]:
    """Return the character that means each byte in the texts of tokens, as GPT-2 defined it."""
    unshown = (byte for byte in range(256) if byte not in _SHOWN)
    return {byte: chr(byte) for byte in _SHOWN} | {byte: chr(256 + at) for at, byte in enumerate(unshown)}


CHARACTERS: Final = _characters()
_BYTES: Final = {character: byte for byte, character in CHARACTERS.items()}


class ByteLevel:
    """Tokenises plain text. Bytes without a token are left out, as in llama.cpp.

    Raises:
        UnknownTokenizerError: the merges do not fit the vocabulary.
    """

    def __init__(self, facts: TokenizerFacts, rule: Pretokeniser) -> None:
        self._size = len(facts.texts)
        ids = {text: token for token, text in enumerate(facts.texts)}
        # A byte without a token gets one for the time of tokenising: its neighbours must not merge across it.
        missing = [character for character in CHARACTERS.values() if character not in ids]
        self._leaves_out = bool(missing)
        ids |= {character: self._size + at for at, character in enumerate(missing)}
        self._tokenizer: Any = _library_tokenizer(_bpe(facts, ids, rule), rule.patterns)

    def __call__(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for portion in _portions(text):
            # One text as a batch: only then the library lets other threads run.
            ids += self._tokenizer.encode_batch_fast([portion], add_special_tokens=False)[0].ids
        return [token for token in ids if token < self._size] if self._leaves_out else ids


def piece(table: TokenTable, token: int) -> bytes:
    """Return the bytes of a token of such a vocabulary."""
    text, bits = table.texts[token], table.attributes[token]
    if bits & (UNKNOWN | CONTROL | ADDED):
        return text.encode()
    if bits & NORMAL:
        return b"".join(_byte_of(character, text) for character in text)
    return bytes([int(text[3:5], 16)]) if bits & BYTE else b""


def _byte_of(character: str, text: str) -> bytes:
    byte = _BYTES.get(character)
    # llama.cpp's own way to show a token that is not written in bytes.
    return f"[UNK_BYTE_0x{character.encode().hex()}{text}]".encode() if byte is None else bytes([byte])


def _bpe(facts: TokenizerFacts, ids: dict[str, int], rule: Pretokeniser) -> Any:
    # The first space of a merge at its second character or later separates the two.
    pairs = [(merge[:at], merge[at + 1 :]) for merge in facts.merges if (at := merge.find(" ", 1)) > 0]
    try:
        return models.BPE(vocab=ids, merges=list(dict.fromkeys(pairs)), ignore_merges=rule.keeps_words)
    except Exception as error:  # the library raises nothing narrower
        raise UnknownTokenizerError(f"its merges do not fit its vocabulary: {error}") from error


def _library_tokenizer(model: Any, patterns: tuple[str, ...]) -> Any:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # texts come one at a time
    made: Any = Tokenizer(model)
    steps: Any = pre_tokenizers
    made.pre_tokenizer = steps.Sequence(
        [
            *(steps.Split(Regex(pattern), "isolated") for pattern in patterns),
            steps.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def _portions(text: str) -> Iterator[str]:
    """Yield parts of a text that can be tokenised one by one."""
    start = 0
    while len(text) - start > PORTION and (end := _WORD_END.search(text, start + PORTION)) is not None:
        yield text[start : end.start()]
        start = end.start()
    yield text[start:]
