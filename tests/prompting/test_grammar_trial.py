"""Grammars are tried in a process that may die."""

import signal
import subprocess
from typing import Any

import pytest

from antiphon.prompting.grammars import trial
from antiphon.prompting.grammars.trial import problem_in_trial

SOUND = "start: /a/\n"


def test_a_compiler_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that fits a text of 510,510 characters first is looked at until the processor time is used up."""
    monkeypatch.setattr(trial, "_COMMAND", (*trial._COMMAND[:-1], "1"))
    parts = " & ".join(f"/((?s:.){{{prime}}})*/" for prime in (2, 3, 5, 7, 11, 13, 17))
    assert problem_in_trial({"A": SOUND, "B": f"start: B\nB: {parts}\n"}) == "B takes more than 5 seconds to compile."


@pytest.mark.parametrize(
    ("status", "reason"),
    [(-signal.SIGKILL, "brings its compiler down."), (-signal.SIGSEGV, "brings its compiler down.")],
)
def test_a_compiler_that_dies(monkeypatch: pytest.MonkeyPatch, status: int, reason: str) -> None:
    """What the process was at when it died is to blame."""
    died = subprocess.CompletedProcess[str]([], status, stdout='""\n', stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: died)
    assert problem_in_trial({"A": SOUND, "B": SOUND}) == f"B {reason}"


def test_a_process_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not do its work is our own defect, and no grammar's."""
    command: Any = (*trial._COMMAND[:2], "/no/such/script")
    monkeypatch.setattr(trial, "_COMMAND", command)
    with pytest.raises(RuntimeError, match="could not be tried"):
        problem_in_trial({"A": SOUND})


def test_the_first_that_fails_is_named() -> None:
    """Each grammar is tried by itself, and the whole after the terminals."""
    empty = "start: A\nA: /a/ & /b/\n"
    assert problem_in_trial({"A": SOUND, "B": empty}, SOUND) == "B matches no text at all."
    assert problem_in_trial({"A": SOUND}, empty) == "it matches no text at all."
    assert problem_in_trial({"A": SOUND}, SOUND) is None
