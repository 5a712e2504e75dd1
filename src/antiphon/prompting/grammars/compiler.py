"""The way to llguidance's compiler, which is imported on first use: a gateway without local models runs without it."""

from functools import cache
from typing import Any


def compile_error(grammar: str) -> str:
    """Compile a grammar in llguidance's form over bytes; return the compiler's message, empty if it has none."""
    from llguidance import LLMatcher  # noqa: PLC0415 - see above

    return LLMatcher(_tokenizer(), grammar, log_level=0).get_error()


def validation_error(lark: str) -> str:
    """Return what the compiler finds wrong with the form of a grammar in Lark, empty if nothing."""
    from llguidance import LLMatcher  # noqa: PLC0415 - see above

    return LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark))


@cache
def _tokenizer() -> Any:
    from llguidance import LLTokenizer  # noqa: PLC0415 - see above

    return LLTokenizer("byte")
