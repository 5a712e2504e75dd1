"""Compiles grammars that may hang or crash the compiler, in a process of its own; see ``trial_pool.py``.

Reads jobs from standard input, one a line in JSON, until its parent closes it: ``[cpu_s, [[kind, grammar], ...]]``.
Writes for each grammar a line in JSON: what is wrong with it, or "", and the processor seconds that it took; a job ends at
the first that has a problem. The
kinds are ``form`` (is it a grammar at all), ``terminal`` and ``whole`` (can it be followed) and ``schema`` (can it be
compiled; the message is the compiler's own). A job that uses more than ``cpu_s`` of processor time kills the process.

Run as a script, with nothing of this package, so that it starts in a twentieth of a second.
"""

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import llguidance

_llguidance: Any = llguidance

MAX_FORCED = 50_000
"""The most bytes that a terminal may force at its beginning. More come from nested repetitions, and no context holds them."""
MAX_MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Work until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    os.nice(5)  # a request that waits for its tokens goes first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    tokenizer = _llguidance.LLTokenizer("byte")
    for line in sys.stdin:
        cpu_s, grammars = json.loads(line)
        # Its signal ends the process: native code would not let Python handle one.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        for kind, grammar in grammars:
            began_s = time.process_time()
            problem = _problem(tokenizer, kind, grammar)
            print(json.dumps([problem, time.process_time() - began_s]), flush=True)  # noqa: T201 - the parent reads it
            if problem:
                break
        signal.setitimer(signal.ITIMER_PROF, 0)


def _problem(tokenizer: Any, kind: str, grammar: str) -> str:
    if kind == "form":
        return _llguidance.LLMatcher.validate_grammar(_llguidance.LLMatcher.grammar_from_lark(grammar))
    matcher = _llguidance.LLMatcher(tokenizer, grammar, log_level=0)
    if kind == "schema":
        return matcher.get_error() or ("unsatisfiable" if _is_empty(matcher) else "")
    if matcher.is_error():
        return f"cannot be compiled: {matcher.get_error()}"
    if _is_empty(matcher):
        return "matches no text at all."
    error = matcher.get_error()
    # Between terminals, looking ahead may have no end: see ``lark.of_user``.
    if kind == "terminal" and not error and len(matcher.compute_ff_bytes()) > MAX_FORCED:
        return f"asks for more than {MAX_FORCED} characters."
    return f"cannot be followed: {error}" if error else ""


def _is_empty(matcher: Any) -> bool:
    """Take a step and return whether there is none to take."""
    matcher.compute_logit_bias()
    error = matcher.get_error()
    return "NoExtension" in error or (not error and matcher.is_stopped() and not matcher.is_accepting())


if __name__ == "__main__":
    main()
