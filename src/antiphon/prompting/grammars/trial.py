"""Asks the compiler what is wrong with a grammar, in a process that may die; see ``trial_pool.py``."""

from collections.abc import Mapping, Sequence

from antiphon.prompting.grammars.lark import in_one_line
from antiphon.prompting.grammars.trial_pool import Job, run_trial

MAX_CPU_S = 5
"""Processor time, not elapsed time: a busy machine makes no grammar worse."""
MAX_SCHEMA_CPU_S = 2
"""The same for a JSON Schema, which the engine compiles again while others wait for their tokens."""

UNSATISFIABLE = "unsatisfiable"
"""The message for a schema that compiles and that no text satisfies; ``trial_process.py`` writes it."""


def problem_of_form(lark: str) -> str | None:
    """Return why a text is not a grammar in Lark, None if it is one."""
    return _problem(["it"], [("form", lark)])


def problem_in_trial(terminals: Mapping[str, str], whole: str | None = None) -> str | None:
    """Compile each grammar and take a step in it; return what is wrong with the first that fails, None if nothing is.

    ``terminals`` are grammars of one terminal, by what they are called in the message; ``whole`` is one of several. Takes
    milliseconds, or ``MAX_CPU_S`` at most.
    """
    jobs: list[Job] = [("terminal", grammar) for grammar in terminals.values()]
    if whole is not None:
        jobs.append(("whole", whole))
    return _problem([*terminals, "it"], jobs)


def schema_error(grammar: str) -> tuple[str, float]:
    """Compile a grammar that is one JSON Schema; return the compiler's message, empty if none, and the processor seconds."""
    trial = run_trial([("schema", grammar)], MAX_SCHEMA_CPU_S)
    match trial.death:
        case None:
            return trial.problems[0], trial.cpu_s
        case "time":
            return f"it takes more than {MAX_SCHEMA_CPU_S} seconds to compile.", MAX_SCHEMA_CPU_S
        case "crash":
            return "it brings its compiler down.", trial.cpu_s


def _problem(names: Sequence[str], jobs: Sequence[Job]) -> str | None:
    trial = run_trial(jobs, MAX_CPU_S)
    if trial.problems and trial.problems[-1]:
        problem = in_one_line(trial.problems[-1])
        return problem if jobs[0][0] == "form" else f"{names[len(trial.problems) - 1]} {problem}"
    if trial.death is None:
        return None
    name = names[len(trial.problems)]
    if trial.death == "time":
        return f"{name} takes more than {MAX_CPU_S} seconds to compile."
    return f"{name} brings its compiler down."
