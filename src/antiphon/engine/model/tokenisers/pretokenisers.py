"""How byte-level BPE vocabularies cut a text into words before they merge bytes: a rule for each ``tokenizer.ggml.pre``.

The rules are those of the models' own tokenizers, in the form that llama.cpp gives them: it tells capitals from small letters in
ASCII only. Patterns apply one after another, each within the parts that the ones before have left.
"""

from typing import Final

import msgspec

from antiphon.engine.model.tokenisers.facts import UnknownTokenizerError


class Pretokeniser(msgspec.Struct, frozen=True):
    """``patterns`` cut; ``keeps_words``: a word that is a token needs no merges. ``adds_bos`` where the file says nothing.

    ``has_default_bos``: there is a first token where the file names none. ``adds_separator`` between two texts, likewise.
    """

    patterns: tuple[str, ...]
    keeps_words: bool = False
    adds_bos: bool = False
    has_default_bos: bool = True
    adds_separator: bool = False


_ENDINGS: Final = "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SMALL: Final = r"(?=\p{L})[^A-Z]"
_CAPITAL: Final = r"(?=\p{L})[^a-z]"
_START: Final = r"[^\r\n\p{L}\p{N}]?"
_OTHER: Final = r" ?[^\s\p{L}\p{N}]+"
_ASCII_MARKS: Final = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_LATIN: Final = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛ"
    "ὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
"""The letters with two cases, as the tokenizers of DeepSeek list them."""


def _letters_and_digits(digits: str, *, line_ends: str = r"[\r\n]*", letters: str = r"\p{L}") -> str:
    """Return the pattern of the family of cl100k: endings of English verbs, words, numbers, other characters, spaces."""
    marks = letters.strip("[]").replace(r"\p{L}", "")
    other = rf" ?[^\s\p{{L}}{marks}\p{{N}}]+"
    return f"(?:{_ENDINGS})|{_START}{letters}+|{digits}|{other}{line_ends}|{_SPACES}"


def _by_case(digits: str, endings: str) -> str:
    """Return the pattern of the family of o200k: words change where a small letter comes before a capital."""
    return (
        f"{_START}(?:{_CAPITAL})*(?:{_SMALL})+{endings}|{_START}(?:{_CAPITAL})+(?:{_SMALL})*{endings}"
        rf"|{digits}|{_OTHER}[\r\n/]*|{_SPACES}"
    )


_GPT2: Final = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_OTHER}|\s+(?!\S)"
_DIGIT: Final = r"\p{N}"
_THREE_DIGITS: Final = r"\p{N}{1,3}"
_DEEPSEEK_WORDS: Final = (
    rf"{_ASCII_MARKS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_IDEOGRAPHS: Final = "[一-龥\u0800-一가-\ud7ff&&[^\\s]]+"
_SENTENCES: Final = " ?[^(\\s|.,!?…。，、।۔،)]+"

_PLAIN: Final = Pretokeniser((_GPT2,))
_DIGITS_APART: Final = Pretokeniser((_DIGIT, _GPT2))
_LLAMA3: Final = Pretokeniser((_letters_and_digits(_THREE_DIGITS),), keeps_words=True, adds_bos=True)
_LLAMA3_WORDS: Final = Pretokeniser((_letters_and_digits(_THREE_DIGITS),))
_QWEN2: Final = Pretokeniser((_letters_and_digits(_DIGIT),))
_O200K: Final = Pretokeniser((_by_case(_THREE_DIGITS, f"(?:{_ENDINGS})?"),))
_DEEPSEEK3: Final = Pretokeniser((_THREE_DIGITS, "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK_WORDS))
_GLM4: Final = Pretokeniser((_letters_and_digits(_THREE_DIGITS),), keeps_words=True, has_default_bos=False)

_RULES: Final = {
    "default": Pretokeniser((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    **dict.fromkeys(("gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "a.x-4.0", "mellum", "modern-bert",
                     "exaone4", "mpt", "olmo", "jais", "trillion", "granite-docling"), _PLAIN),
    **dict.fromkeys(("jina-v1-en", "roberta-bpe"), Pretokeniser((_GPT2,), adds_separator=True)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
                    _DIGITS_APART),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
                     "jina-v5-nano"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _LLAMA3_WORDS),
    "chatglm-bpe": msgspec.structs.replace(_GLM4, keeps_words=False),
    **dict.fromkeys(("glm4", "glm5"), _GLM4),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open",
                     "grok-2"), _QWEN2),
    "qwen35": Pretokeniser((_letters_and_digits(_DIGIT, letters=r"[\p{L}\p{M}]"),)),
    "seed-coder": Pretokeniser((_letters_and_digits(_DIGIT, line_ends=""),)),
    "minicpm5": Pretokeniser((_THREE_DIGITS, _letters_and_digits(r"\p{N}+")), keeps_words=True),
    "tekken": Pretokeniser((_by_case(_DIGIT, ""),), keeps_words=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), _O200K),
    "deepseek-llm": Pretokeniser(("[\r\n]", rf"\s?[{_LATIN}]+", "\\s?[!-/:-~！-／：-～‘-‟、-。]+", r"\s+$", _IDEOGRAPHS,
                                  r"\p{N}+")),
    "deepseek-coder": Pretokeniser(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _IDEOGRAPHS, _DIGIT)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"), _DEEPSEEK3),
    "falcon": Pretokeniser((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), Pretokeniser((_SENTENCES,))),
    "viking": Pretokeniser((_SENTENCES, _DIGIT)),
}  # fmt: skip
KNOWN: Final = tuple(_RULES)
"""The names that have a rule."""


def pretokeniser(name: str) -> Pretokeniser:
    """Return the rule of a ``tokenizer.ggml.pre``; a file without one has the default.

    Raises:
        UnknownTokenizerError: there is no rule for the name.
    """
    rule = _RULES.get(name or "default")
    if rule is None:
        raise UnknownTokenizerError(f"the pre-tokeniser {name!r} has no rule here")
    return rule
