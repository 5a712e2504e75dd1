"""A vocabulary by llama.cpp's C API: the tokens of a loaded file, and its tokeniser."""

import ctypes
from typing import Any

import numpy as np

from antiphon.engine.ipc.messages import PairFrame
from antiphon.engine.model.base import ModelError
from antiphon.engine.model.native.active import api as c
from antiphon.engine.model.vocabulary import Vocabulary, VocabularyEntry

_ctypes: Any = ctypes


def read_vocabulary(vocab: Any, tokenizer: str | None) -> Vocabulary:
    """Return the vocabulary behind the C handle ``vocab``; ``tokenizer`` is the metadata's name of its kind."""
    attributes = [int(c.llama_vocab_get_attr(vocab, token)) for token in range(c.llama_vocab_n_tokens(vocab))]
    entries = [
        VocabularyEntry(
            _piece(vocab, token),
            is_control=bool(c.llama_vocab_is_control(vocab, token)),
            is_end=bool(c.llama_vocab_is_eog(vocab, token)),
            is_added=bool(attribute & c.LLAMA_TOKEN_ATTR_USER_DEFINED),
        )
        for token, attribute in enumerate(attributes)
    ]
    named: dict[str, int] = {
        "bos": c.llama_vocab_bos(vocab),
        "eos": c.llama_vocab_eos(vocab),
        "prefix": c.llama_vocab_fim_pre(vocab),
        "suffix": c.llama_vocab_fim_suf(vocab),
        "middle": c.llama_vocab_fim_mid(vocab),
    }
    is_plain = tokenizer in {"llama", "gpt2"}  # others normalise
    strips = any(attribute & (c.LLAMA_TOKEN_ATTR_LSTRIP | c.LLAMA_TOKEN_ATTR_RSTRIP) for attribute in attributes)

    def tokenize(text: str, special: bool, add: bool) -> list[int]:
        return _tokenize(vocab, text, special, add)

    return Vocabulary(
        tokenize,
        entries,
        {name: token for name, token in named.items() if token >= 0},
        adds_bos=bool(c.llama_vocab_get_add_bos(vocab)),
        handle=vocab,
        tokenize_address=ctypes.cast(c.library.llama_tokenize, ctypes.c_void_p).value,
        keeps_text=is_plain and not strips,
        pair=_pair(vocab, tokenize("", False, True)),
    )


def _pair(vocab: Any, around: list[int]) -> PairFrame:
    """Return what the model was trained to find around and between two texts; ``around`` is what encloses one.

    A BERT reads ``[CLS] one [SEP] two [SEP]``, a RoBERTa ``<s> one </s></s> two </s>``. A file that adds nothing at the end
    still separates the texts, where it names a token for that.
    """
    num_first = 1 if around and c.llama_vocab_get_add_bos(vocab) else 0
    first, last = tuple(around[:num_first]), tuple(around[num_first:])
    separator: int = c.llama_vocab_sep(vocab)
    has_separator = separator >= 0 and c.llama_vocab_get_add_sep(vocab)
    is_doubled = has_separator and (not last or c.llama_vocab_get_add_eos(vocab))
    return PairFrame(first, (*last, separator) if is_doubled else last, last)


def _piece(vocab: Any, token: int) -> bytes:
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = c.llama_token_to_piece(vocab, token, buffer, size, 0, True)
        if length >= 0:
            return buffer.raw[:length]
        size = -length


def _tokenize(vocab: Any, text: str, special: bool, add: bool) -> list[int]:
    data = text.encode()
    size = len(data) + 8
    buffer = np.empty(size, np.int32)
    count = c.llama_tokenize(
        vocab, data, len(data), _ctypes.cast(buffer.ctypes.data, _ctypes.POINTER(c.llama_token)), size, add, special
    )
    if count < 0:
        raise ModelError(f"llama_tokenize returned {count} for {len(data)} bytes")
    ids: list[int] = buffer[:count].tolist()
    return ids
