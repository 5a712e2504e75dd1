"""GGUF files that hold a vocabulary and no weights, for tests of tokenising."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import gguf

from antiphon.engine.model.tokenisers.byte_level import CHARACTERS

NORMAL, CONTROL, ADDED, BYTE, UNKNOWN = 1, 3, 4, 6, 2
Token = tuple[str, int]
"""A text, and GGUF's number of its kind."""


def write(
    path: Path,
    model: str,
    tokens: Iterable[Token],
    *,
    merges: Iterable[str] = (),
    scores: Iterable[float] = (),
    name: str = "",
    **facts: Any,
) -> Path:
    """Write a file with these tokens; ``facts`` go below ``tokenizer.ggml``."""
    writer = gguf.GGUFWriter(path, "llama")
    if name:
        writer.add_name(name)
    writer.add_tokenizer_model(model)
    texts, kinds = zip(*tokens, strict=True)
    writer.add_token_list(list(texts))
    writer.add_token_types(list(kinds))
    if merges := list(merges):
        writer.add_token_merges(merges)
    if scores := list(scores):
        writer.add_token_scores(scores)
    for key, value in facts.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_pairs(path: Path, pre: str, alphabet: str, special: Iterable[Token] = (), **facts: Any) -> Path:
    """Write a byte-level vocabulary in which any two bytes of ``alphabet`` merge, and any two such pairs of one character.

    So the tokens of a text show where it was cut into words. The bytes 0 and 1 have no token.
    """
    singles = [character for byte, character in CHARACTERS.items() if byte > 1]
    bytes_used = sorted({CHARACTERS[byte] for byte in alphabet.encode() if byte > 1})
    pairs = [left + right for left, right in product(bytes_used, repeat=2)]
    doubled = [character * 4 for character in bytes_used]
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs] + [f"{text[:2]} {text[2:]}" for text in doubled]
    tokens = [*special, *((text, NORMAL) for text in (*singles, *pairs, *doubled))]
    return write(path, "gpt2", tokens, merges=merges, pre=pre, **facts)


def pieces(path: Path, texts: Iterable[str], special: Iterable[Token] = (), **facts: Any) -> Path:
    """Write a SentencePiece vocabulary of ``texts``, the most important first, in which runs of spaces share a score."""
    runs = ["▁" * length for length in range(2, 17)]
    head = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *special]
    head += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    texts = list(texts)
    tokens = [*head, *((text, NORMAL) for text in (*texts, *runs))]
    scores = [0.0] * len(head) + [-float(rank) for rank in range(len(texts))] + [-1e9] * len(runs)
    return write(path, "llama", tokens, scores=scores, **facts)
