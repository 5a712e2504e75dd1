"""Tries grammars in a process of their own, which may die: llguidance does not come back from some, nor survive all.

It compiles within limits, but for the first state of a terminal: for ``/(..)*/ & /(...)*/ & ...`` it looks for a text that fits all parts
however long that takes, and a thread that waits for it could not be ended.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from antiphon.prompting.grammars.lark import in_one_line

MAX_CPU_S = 5
"""Processor time, not time: a busy machine makes no grammar worse."""
_COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("trial_process.py")), str(MAX_CPU_S))


def problem_in_trial(terminals: Mapping[str, str], whole: str | None = None) -> str | None:
    """Compile each grammar and take a step in it; say what is wrong with the first that fails, None if all are well.

    ``terminals`` are grammars of one terminal, by what they are called in the message; ``whole`` is one of several. Takes a tenth of a
    second, or ``MAX_CPU_S`` at most.
    """
    names = [*terminals, "it"]
    grammars = [(grammar, True) for grammar in terminals.values()] + ([] if whole is None else [(whole, False)])
    tried = subprocess.run(  # noqa: S603 - our own module
        _COMMAND, input=json.dumps(grammars), capture_output=True, text=True, check=False
    )
    problems = [json.loads(line) for line in tried.stdout.splitlines()]
    for name, problem in zip(names, problems, strict=False):
        if problem:
            return f"{name} {in_one_line(problem)}"
    if len(problems) == len(grammars):
        return None
    name = names[len(problems)]
    if tried.returncode == -signal.SIGXCPU:
        return f"{name} takes more than {MAX_CPU_S} seconds to compile."
    if tried.returncode < 0:
        return f"{name} brings its compiler down."
    raise RuntimeError(f"grammars could not be tried: {tried.stderr[-500:]}")
