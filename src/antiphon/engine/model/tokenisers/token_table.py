"""What each token of a vocabulary is: ordinary, control, added by hand, a single byte, one that ends a text.

Files name few of these roles. llama.cpp finds the others by the texts of tokens, and this module finds the same.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from antiphon.engine.model.tokenisers.facts import TokenizerFacts

NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 4
ADDED: Final = 8
BYTE: Final = 16
UNUSED: Final = 32
_KINDS: Final = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: ADDED, 5: UNUSED, 6: BYTE}
"""By GGUF's numbers of token types; other numbers say nothing."""

_ENDS: Final = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
                "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
                "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
                "<|ifm|im_end|>")  # fmt: skip
"""Texts of tokens that end a generation in some family of models."""
_FILL_IN: Final = {
    "prefix": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
               "<|prefix|>", "<|plamo:fim_prefix|>"),
    "suffix": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
               "<|suffix|>", "<|plamo:fim_suffix|>"),
    "middle": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
               "<|middle|>", "<|plamo:fim_middle|>"),
    "pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "sep": ("<|file_sep|>", "<|plamo:file_separator|>"),
}  # fmt: skip
"""Texts of the tokens for filling in the middle, by their role."""
_METADATA_NAMES: Final = {
    "prefix": ("fim_pre", "prefix"),
    "suffix": ("fim_suf", "suffix"),
    "middle": ("fim_mid", "middle"),
    "pad": ("fim_pad",),
    "rep": ("fim_rep",),
    "sep": ("fim_sep",),
}
_END_ROLES: Final = ("pad", "rep", "sep")
_SHOWN: Final = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""Marks of gpt-oss, which are part of its answers."""
_DEFAULTS: Final = {"gpt2": (11, 11), "llama": (1, 2), "bert": (101, None)}
"""The first and the end token of a kind of tokenizer whose file names none."""


class TokenTable(msgspec.Struct, frozen=True):
    """``attributes`` are the bits above, by token id; ``ends`` end a generation; ``named`` are the tokens of roles."""

    texts: list[str]
    attributes: list[int]
    ends: frozenset[int]
    named: dict[str, int]
    ids: dict[str, int]

    def with_attribute(self, wanted: int) -> Iterable[int]:
        """Return the tokens that have one of the bits ``wanted``."""
        return (token for token, bits in enumerate(self.attributes) if bits & wanted)


def token_table(facts: TokenizerFacts, *, has_default_bos: bool = True) -> TokenTable:
    """Return what each token is. ``has_default_bos``: a file that names no first token has the usual one."""
    ids = {text: token for token, text in enumerate(facts.texts)}
    attributes = [_KINDS.get(kind, 0) for kind in facts.types[: len(facts.texts)]]
    bos, eos = _DEFAULTS[facts.model]
    named = {
        "bos": facts.token("bos", bos if has_default_bos else None),
        "eos": facts.token("eos", eos),
        "eot": facts.token("eot"),
        "eom": facts.token("eom"),
    } | {role: _fill_in(facts, ids, role, attributes) for role in _FILL_IN}
    ends = {token for role in _END_ROLES if (token := named[role]) is not None}
    for text in _ENDS:
        if (token := ids.get(text)) is not None:
            ends.add(token)
            attributes[token] |= CONTROL
    for text in _SHOWN:
        if (token := ids.get(text)) is not None:
            attributes[token] = ADDED
    ends |= {token for role in ("eos", "eot", "eom") if (token := named[role]) is not None}
    _take_back(ends, attributes, {text: ids[text] for text in (*_ENDS, "<|plamo:eos|>") if ids.get(text) in ends})
    roles = {role: token for role, token in named.items() if token is not None}
    return TokenTable(facts.texts, attributes, frozenset(ends), roles, ids)


def _fill_in(facts: TokenizerFacts, ids: dict[str, int], role: str, attributes: list[int]) -> int | None:
    """Return the token of a role in filling in the middle; one that is found by its text becomes a control token."""
    named = [token for name in _METADATA_NAMES[role] if (token := facts.token(name)) is not None]
    if named:
        return named[-1]
    found = next((ids[text] for text in _FILL_IN[role] if text in ids), None)
    if found is not None:
        attributes[found] |= CONTROL
    return found


def _take_back(ends: set[int], attributes: list[int], found: dict[str, int]) -> None:
    """Take tokens that end nothing in the families that have certain others."""
    has_calls = "<|return|>" in found and ("<|call|>" in found or "<|calls|>" in found)
    has_flush = "<|flush|>" in found and ("<|call|>" in found or "<|calls|>" in found)
    if "<|end|>" in found and (has_calls or has_flush):
        ends.discard(found["<|end|>"])
        attributes[found["<|end|>"]] = ADDED
    if "</s>" in found and ("<|tool_response>" in found or "<|plamo:eos|>" in found):
        ends.discard(found["</s>"])
        attributes[found["</s>"]] = NORMAL
