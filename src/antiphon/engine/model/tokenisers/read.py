"""Builds the vocabulary of a file: which tokenizer, which special tokens, which first and last tokens."""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from antiphon.engine.ipc.messages import PairFrame
from antiphon.engine.model.tokenisers import byte_level, sentencepiece
from antiphon.engine.model.tokenisers.byte_level import ByteLevel
from antiphon.engine.model.tokenisers.facts import TokenizerFacts, UnknownTokenizerError
from antiphon.engine.model.tokenisers.pretokenisers import pretokeniser
from antiphon.engine.model.tokenisers.sentencepiece import SentencePiece
from antiphon.engine.model.tokenisers.special_tokens import SpecialToken, SpecialTokens
from antiphon.engine.model.tokenisers.token_table import ADDED, CONTROL, UNKNOWN, TokenTable, token_table
from antiphon.engine.model.tokenisers.word_piece import WordPiece
from antiphon.engine.model.vocabulary import Vocabulary, VocabularyEntry, pair_frame

_NAMED: Final = ("bos", "eos", "prefix", "suffix", "middle")
_SEPARATOR_DEFAULT: Final = 102


class _Frame(msgspec.Struct, frozen=True):
    """The tokens that a model wants before and after a text, and around a pair of texts."""

    before: list[int]
    after: list[int]
    adds_bos: bool
    pair: PairFrame


def build_vocabulary(facts: TokenizerFacts) -> Vocabulary:
    """Return the vocabulary of a file.

    Raises:
        UnknownTokenizerError: its tokenizer is of a kind that only llama.cpp knows.
    """
    match facts.model:
        case "gpt2":
            return _byte_level(facts)
        case "llama":
            return _sentencepiece(facts)
        case "bert":
            return _word_piece(facts)
        case model:
            raise UnknownTokenizerError(f"a tokenizer of the kind {model!r} is not built here")


def _byte_level(facts: TokenizerFacts) -> Vocabulary:
    rule = pretokeniser(facts.text("pre"))
    table = token_table(facts, has_default_bos=rule.has_default_bos)
    special = _special_tokens(facts, table)
    plain = ByteLevel(facts, rule)
    frame = _frame(facts, table, adds_bos=rule.adds_bos, adds_separator=rule.adds_separator)

    def tokenize(text: str, in_template: bool, whole: bool) -> list[int]:
        return _enclosed(_ids(special.split(text, in_template=in_template), plain), frame if whole else None)

    return _vocabulary(table, byte_level.piece, tokenize, frame, keeps_text=not special.strips)


def _sentencepiece(facts: TokenizerFacts) -> Vocabulary:
    table = token_table(facts)
    special = _special_tokens(facts, table)
    plain = SentencePiece(facts)
    frame = _frame(facts, table, adds_bos=True)
    prefix = " " if facts.flag("add_space_prefix", True) else ""

    def tokenize(text: str, in_template: bool, whole: bool) -> list[int]:
        ids: list[int] = []
        follows_special = True
        for part in special.split(text, in_template=in_template):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += plain(prefix + part if follows_special else part)
            follows_special = isinstance(part, int)
        return _enclosed(ids, frame if whole else None)

    return _vocabulary(table, sentencepiece.piece, tokenize, frame, keeps_text=not special.strips)


def _word_piece(facts: TokenizerFacts) -> Vocabulary:
    table = token_table(facts)
    special = _special_tokens(facts, table)
    plain = WordPiece(facts)
    frame = _frame(facts, table, adds_bos=True, adds_separator=True, separator=_SEPARATOR_DEFAULT)

    def tokenize(text: str, in_template: bool, whole: bool) -> list[int]:
        return _enclosed(_ids(special.split(text, in_template=in_template), plain), frame if whole else None)

    return _vocabulary(table, sentencepiece.piece, tokenize, frame, keeps_text=False)


def _frame(
    facts: TokenizerFacts,
    table: TokenTable,
    *,
    adds_bos: bool,
    adds_separator: bool = False,
    separator: int | None = None,
) -> _Frame:
    """Return the tokens around texts. The arguments are what holds where the file says nothing."""
    adds_bos, adds_eos = facts.flag("add_bos_token", adds_bos), facts.flag("add_eos_token", False)
    named_separator = facts.token("seperator", separator)  # GGUF's spelling
    if facts.model == "bert":
        first, last = table.named.get("bos"), named_separator  # always, whatever the file says
    else:
        first, last = table.named.get("bos") if adds_bos else None, table.named.get("eos") if adds_eos else None
    before, after = ([] if token is None else [token] for token in (first, last))
    pair = pair_frame(
        before + after,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        separator=named_separator if facts.flag("add_sep_token", adds_separator) else None,
    )
    return _Frame(before, after, adds_bos, pair)


def _ids(parts: list[str | int], plain: Callable[[str], list[int]]) -> list[int]:
    return [token for part in parts for token in ([part] if isinstance(part, int) else plain(part))]


def _enclosed(ids: list[int], frame: _Frame | None) -> list[int]:
    return ids if frame is None else [*frame.before, *ids, *frame.after]


def _special_tokens(facts: TokenizerFacts, table: TokenTable) -> SpecialTokens:
    left, right = _stripping(facts, table)
    return SpecialTokens(
        SpecialToken(
            table.texts[token],
            token,
            is_always=not table.attributes[token] & (CONTROL | UNKNOWN),
            strips_left=token in left,
            strips_right=token in right,
        )
        for token in table.with_attribute(CONTROL | ADDED | UNKNOWN)
    )


def _stripping(facts: TokenizerFacts, table: TokenTable) -> tuple[frozenset[int], frozenset[int]]:
    """Return the special tokens that take spaces before, and behind them, away. Files do not say; llama.cpp knows by names."""
    pre, name = facts.text("pre"), str(facts.metadata.get("general.name", "")).lower()
    architecture = str(facts.metadata.get("general.architecture", ""))
    if any(part in pre for part in ("jina-v2-de", "jina-v2-es", "jina-v2-code")) or architecture == "jina-bert-v3":
        return frozenset(_present(table, "<mask>")), frozenset()
    if "phi-3" in name or "phi3" in name:
        every = {*table.with_attribute(CONTROL | ADDED | UNKNOWN), *_present(table, "</s>")}
        return frozenset(), frozenset(every - {*_present(table, "<unk>", "<s>", "<|endoftext|>")})
    if "modern-bert" in name:
        return frozenset(_present(table, "[MASK]")), frozenset()
    return frozenset(), frozenset()


def _present(table: TokenTable, *texts: str) -> Iterator[int]:
    return (table.ids[text] for text in texts if text in table.ids)


def _vocabulary(
    table: TokenTable,
    piece: Callable[[TokenTable, int], bytes],
    tokenize: Callable[[str, bool, bool], list[int]],
    frame: _Frame,
    *,
    keeps_text: bool,
) -> Vocabulary:
    entries = [
        VocabularyEntry(
            piece(table, token),
            is_control=bool(bits & CONTROL),
            is_end=token in table.ends,
            is_added=bool(bits & ADDED),
        )
        for token, bits in enumerate(table.attributes)
    ]
    return Vocabulary(
        tokenize,
        entries,
        {role: token for role, token in table.named.items() if role in _NAMED},
        adds_bos=frame.adds_bos,
        keeps_text=keeps_text,
        pair=frame.pair,
    )
