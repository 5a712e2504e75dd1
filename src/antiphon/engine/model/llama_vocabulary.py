"""A vocabulary by llama.cpp's C API: the tokens of a loaded file, and its tokeniser."""

import ctypes
from typing import Any

import numpy as np

from antiphon.engine.model.base import ModelError
from antiphon.engine.model.native.active import api as c
from antiphon.engine.model.vocabulary import NativeVocabulary, Vocabulary, VocabularyEntry, pair_frame

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
        native=NativeVocabulary(vocab, ctypes.cast(c.library.llama_tokenize, ctypes.c_void_p).value),
        keeps_text=is_plain and not strips,
        pair=pair_frame(
            tokenize("", False, True),
            adds_bos=c.llama_vocab_get_add_bos(vocab),
            adds_eos=c.llama_vocab_get_add_eos(vocab),
            separator=c.llama_vocab_sep(vocab) if c.llama_vocab_get_add_sep(vocab) else None,
        ),
    )


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
