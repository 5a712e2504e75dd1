"""Checks the grammars that requests give for custom tools, and refuses those that no finite text satisfies.

The compiler takes ``start: start`` and ``start: "a" start``, which no finite text satisfies, and notices while a model writes that a
terminal like ``/a/ & /b/`` matches nothing. Here both are found before a model begins.
"""

from antiphon.prompting.grammars.lark import of_user, regex_literal
from antiphon.prompting.grammars.lark_rules import LarkRules, UncheckedLarkError, lark_tokens, num_definitions
from antiphon.prompting.grammars.trial import problem_in_trial, problem_of_form
from antiphon.prompting.remembered import remembered

MAX_CHARS = 50_000
MAX_RULES = 500
"""Rules and terminals: half of what fills a usual stack when each leads to the next."""


def problem_of_grammar(syntax: str, definition: str) -> str | None:
    """Say why a grammar cannot be enforced, None if it can. ``syntax`` is lark or regex.

    Takes about a tenth of a second, and some seconds at most (``trial.MAX_CPU_S``); results are remembered.
    """
    if len(definition) > MAX_CHARS:
        return f"it has {len(definition)} characters, which exceeds the limit of {MAX_CHARS}."
    return _problem_of_regex(definition) if syntax == "regex" else _problem_of_lark(definition)


@remembered
def _problem_of_regex(pattern: str) -> str | None:
    lark = f"start: {regex_literal(pattern)}\n"
    return problem_of_form(lark) or problem_in_trial({"it": lark})


@remembered
def _problem_of_lark(definition: str) -> str | None:
    tokens = list(lark_tokens(definition))
    num_rules = num_definitions(tokens)
    if num_rules > MAX_RULES:
        return f"it has {num_rules} rules, which exceeds the limit of {MAX_RULES}."
    if any(token.kind == "schema" for token in tokens):
        return "'%json' is not permitted; use a function with a schema."
    problem = problem_of_form(definition)
    if problem:
        return problem
    try:
        rules = LarkRules(tokens)
    except UncheckedLarkError as unchecked:
        return str(unchecked)
    name = rules.endless()
    if name is not None:
        return f"the rule '{name}' never comes to an end: it leads back to itself without a way out."
    terminals = {f"the terminal {terminal}": rules.alone(terminal) for terminal in rules.terminals}
    return problem_in_trial(terminals, of_user(definition))
