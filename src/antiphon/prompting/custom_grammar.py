"""The grammars that users bring for their custom tools: refused where they cannot be followed to an end.

The compiler takes ``start: start`` and ``start: "a" start``, which no finite text satisfies, and notices while a model writes that a
terminal like ``/a/ & /b/`` matches nothing. Here both are found before a model begins.
"""

from collections.abc import Iterator
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from antiphon.prompting.lark import in_one_line, regex_literal
from antiphon.prompting.lark_rules import LarkRules, UncheckedLarkError

MAX_CHARS = 50_000
MAX_RULES = 500
"""Half of what fills a usual stack when each rule leads to the next."""
MAX_FORCED = 50_000
"""Bytes that a terminal begins with, whatever is chosen: they come of nested repetitions, and no model's context holds them."""


def problem_of_grammar(syntax: str, definition: str) -> str | None:
    """Say why a grammar cannot be enforced, None if it can. ``syntax`` is lark or regex.

    Takes up to a second or two for a grammar at the limits, in native code; results are remembered.
    """
    if len(definition) > MAX_CHARS:
        return f"it has {len(definition)} characters, which exceeds the limit of {MAX_CHARS}."
    return _problem_of_regex(definition) if syntax == "regex" else _problem_of_lark(definition)


@lru_cache(maxsize=64)
def _problem_of_regex(pattern: str) -> str | None:
    lark = f"start: {regex_literal(pattern)}\n"
    error = LLMatcher.validate_grammar(lark)
    return in_one_line(error) if error else _problem_of_terminal("it", lark)


@lru_cache(maxsize=64)
def _problem_of_lark(definition: str) -> str | None:
    rules = sum(":" in line for line in definition.splitlines())
    if rules > MAX_RULES:
        return f"it has {rules} rules, which exceeds the limit of {MAX_RULES}."
    if "%json" in definition:
        return "'%json' is not permitted; use a function with a schema."
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(definition))
    if error:
        return in_one_line(error)
    try:
        return next(_problems(LarkRules(definition)), None)
    except UncheckedLarkError as unchecked:
        return str(unchecked)


def _problems(rules: LarkRules) -> Iterator[str]:
    name = rules.endless()
    if name is not None:
        yield f"the rule '{name}' never comes to an end: it leads back to itself without a way out."
    for terminal in rules.terminals:
        problem = _problem_of_terminal(f"the terminal {terminal}", rules.alone(terminal))
        if problem:
            yield problem


def _problem_of_terminal(name: str, lark: str) -> str | None:
    matcher = LLMatcher(LLTokenizer("byte"), lark, log_level=0)
    matcher.compute_logit_bias()
    if matcher.is_error() or (matcher.is_stopped() and not matcher.is_accepting()):
        return f"{name} matches no text at all."
    if len(matcher.compute_ff_bytes()) > MAX_FORCED:
        return f"{name} asks for more than {MAX_FORCED} characters."
    return None
