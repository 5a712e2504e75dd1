"""Compiles grammars one after the other and says what is wrong with the first that cannot be followed; see ``trial.py``.

Run as a script, with nothing of this package, so that it starts in a twentieth of a second.
"""

import json
import resource
import sys
from typing import Any

import llguidance

_llguidance: Any = llguidance

MAX_FORCED = 50_000
"""Bytes that a terminal begins with, whatever is chosen: they come of nested repetitions, and no model's context holds them."""


def main(max_cpu_s: int) -> None:
    """Read a JSON list of grammars, each with whether it is a terminal; write for each that was tried a line in JSON: its problem, or ""."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (max_cpu_s, max_cpu_s + 1))
    tokenizer = _llguidance.LLTokenizer("byte")
    for grammar, is_terminal in json.load(sys.stdin):
        problem = _problem(_llguidance.LLMatcher(tokenizer, grammar, log_level=0), is_terminal=is_terminal)
        print(json.dumps(problem), flush=True)  # noqa: T201 - the parent reads it
        if problem:
            return


def _problem(matcher: Any, *, is_terminal: bool) -> str:
    if matcher.is_error():
        return f"cannot be compiled: {matcher.get_error()}"
    matcher.compute_logit_bias()
    error = matcher.get_error()
    if "NoExtension" in error or (not error and matcher.is_stopped() and not matcher.is_accepting()):
        return "matches no text at all."
    # Between terminals, looking ahead may have no end: see ``lark.of_user``.
    if is_terminal and not error and len(matcher.compute_ff_bytes()) > MAX_FORCED:
        return f"asks for more than {MAX_FORCED} characters."
    return f"cannot be followed: {error}" if error else ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
