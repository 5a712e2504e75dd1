"""Grammars are compiled in processes that may die."""

import contextvars
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import PATIENCE_S, wait_until

from antiphon.prompting.grammars import trial, trial_pool
from antiphon.prompting.grammars.trial import problem_in_trial, problem_of_form, schema_error
from antiphon.prompting.grammars.trial_pool import Cancellation, TrialCancelledError
from antiphon.prompting.schemas.compile import check_request, check_schema
from antiphon.protocol.chat import ChatRequest, Message, Tool, ToolChoice
from antiphon.protocol.errors import ApiError

SOUND = "start: /a/\n"
ENDLESS = "start: B\nB: " + " & ".join(f"/((?s:.){{{prime}}})*/" for prime in (2, 3, 5, 7, 11, 13, 17)) + "\n"


def hostile_schema(number: int) -> dict[str, Any]:
    """A schema of 40 KB that the compiler needs a minute for."""
    return {
        "type": "object",
        "patternProperties": {f"^a{n}(b|c)*d{n}{number}$": {"type": "string"} for n in range(1000)},
    }


@pytest.fixture(autouse=True)
def _no_processes_are_left() -> Any:
    yield
    for lane in trial_pool._LANES:
        assert lane._num_busy == 0


def replace_process(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    for lane in trial_pool._LANES:
        lane.end()
    monkeypatch.setattr(trial_pool, "_COMMAND", tuple(command))


def test_a_compiler_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that fits a text of 510,510 characters first is looked at until the processor time is used up."""
    monkeypatch.setattr(trial, "MAX_CPU_S", 0.5)
    assert problem_in_trial({"A": SOUND, "B": ENDLESS}) == "B takes more than 0.5 seconds to compile."
    assert problem_in_trial({"A": SOUND}) is None


@pytest.mark.parametrize("signal_name", ["KILL", "SEGV", "ABRT"])
def test_a_compiler_that_dies(monkeypatch: pytest.MonkeyPatch, signal_name: str) -> None:
    """The grammar that was being compiled when the process died is to blame."""
    replace_process(monkeypatch, ["bash", "-c", f"read; echo '[\"\", 0]'; kill -{signal_name} $$"])
    assert problem_in_trial({"A": SOUND, "B": SOUND}) == "B brings its compiler down."


def test_a_process_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not do its work is our own defect, and no grammar's."""
    replace_process(monkeypatch, ["false"])
    with pytest.raises(RuntimeError, match="ended with status 1"):
        problem_in_trial({"A": SOUND})


def test_the_first_that_fails_is_named() -> None:
    """Each grammar is tried by itself, and the whole after the terminals."""
    empty = "start: A\nA: /a/ & /b/\n"
    assert problem_in_trial({"A": SOUND, "B": empty}, SOUND) == "B matches no text at all."
    assert problem_in_trial({"A": SOUND}, empty) == "it matches no text at all."
    assert problem_in_trial({"A": SOUND}, SOUND) is None
    assert "Expected" in (problem_of_form("start: (") or "")


def test_processes_stay_warm() -> None:
    """A process that did its work does the next one too."""
    schema_error("start: /a/")
    (before,) = trial_pool._LANES[0]._idle
    schema_error("start: /b/")
    assert trial_pool._LANES[0]._idle == [before]


def in_threads(*functions: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=contextvars.copy_context().run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def test_a_client_that_leaves_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled compilations end at once, those that run and those that wait, and others are served."""
    monkeypatch.setattr(trial, "MAX_SCHEMA_CPU_S", 600)
    monkeypatch.setattr(trial_pool, "QUICK_CPU_S", 600)
    ended: list[str] = []
    cancellations = [Cancellation() for _ in range(2 * trial_pool.NUM_PROCESSES)]

    def compile_it(cancellation: Cancellation, number: int) -> None:
        with cancellation.as_current():
            try:
                check_schema(hostile_schema(number), what="x", param="x")
            except TrialCancelledError:
                ended.append("cancelled")

    threads = in_threads(*(lambda c=c, n=n: compile_it(c, n) for n, c in enumerate(cancellations)))
    wait_until(lambda: trial_pool._LANES[0]._num_busy == trial_pool.NUM_PROCESSES)
    for cancellation in cancellations:
        cancellation.cancel()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert ended == ["cancelled"] * len(cancellations)
    check_schema({"type": "object", "properties": {"a": {"type": "integer"}}}, what="x", param="x")


def test_quick_ones_do_not_queue_behind_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """While every place for long compilations is taken, ordinary schemas are compiled."""
    monkeypatch.setattr(trial, "MAX_SCHEMA_CPU_S", 600)
    monkeypatch.setattr(trial_pool, "QUICK_CPU_S", 0.05)
    cancellation = Cancellation()

    def compile_it(number: int) -> None:
        with cancellation.as_current(), pytest.raises(TrialCancelledError):
            schema_error(f"start: %json {hostile_schema(number)}".replace("'", '"'))

    threads = in_threads(*(lambda n=n: compile_it(n) for n in range(trial_pool.NUM_PROCESSES + 2)))
    try:
        wait_until(lambda: trial_pool._LANES[1]._num_busy == trial_pool.NUM_PROCESSES)
        check_schema({"type": "object", "properties": {"quick": {"type": "integer"}}}, what="x", param="x")
        assert trial_pool._LANES[1]._num_busy == trial_pool.NUM_PROCESSES
    finally:
        cancellation.cancel()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_a_schema_without_end_is_refused() -> None:
    """A schema that takes too long to compile is refused with the limit."""
    with pytest.raises(ApiError, match="takes more than 2 seconds to compile"):
        check_schema(hostile_schema(0), what="x", param="x")


def test_the_schemas_of_a_request_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many schemas, each just within the limit, are refused together: the engine compiles them all."""
    monkeypatch.setattr("antiphon.prompting.schemas.compile._problem_of", lambda _: (None, 0.9))
    tools = tuple(Tool(f"t{n}", parameters={"type": "object", "properties": {}}) for n in range(3))
    asked = ChatRequest(model="m", messages=(Message("user", "Hi"),), tools=tools, tool_choice=ToolChoice("auto"))
    with pytest.raises(ApiError, match=r"'t2'.* seconds to compile together") as caught:
        check_request(asked)
    assert caught.value.param == "tools[2].function.parameters"


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """However the server ends, no compiler is left behind, not even one at work."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, threading\n"
        "from antiphon.prompting.grammars import trial_pool\n"
        "trial_pool.warm_up()\n"
        "print(trial_pool._LANES[0]._idle[0].pid, flush=True)\n"
        "threading.Event().wait()\n"
    )
    import sys  # noqa: PLC0415 - for this test alone

    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())
