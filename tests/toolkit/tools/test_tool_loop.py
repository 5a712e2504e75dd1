"""Running what a model asks for."""

import threading
from typing import Any

import anyio
import pytest
from tests.waiting import PATIENCE_S

from antiphon.toolkit.record import ToolCall
from antiphon.toolkit.tools.tool import tool
from antiphon.toolkit.tools.tool_loop import ToolLimits, ToolResult, run_tools
from antiphon.toolkit.tools.toolbox import Toolbox

pytestmark = pytest.mark.anyio


async def run(functions: list[Any], *calls: tuple[str, str], approve: Any = None, **limits: Any) -> list[ToolResult]:
    asked = [ToolCall(f"c{index}", name, arguments) for index, (name, arguments) in enumerate(calls)]
    return await run_tools(Toolbox.of(functions), asked, limits=ToolLimits(**limits), approve=approve)


def double(number: int) -> int:
    return 2 * number


async def test_results_come_in_the_order_of_the_calls_as_json() -> None:
    """Text stays text, anything else is JSON."""

    def name(number: int) -> str:
        return f"n{number}"

    results = await run([double, name], ("double", '{"number": 2}'), ("name", '{"number": 3}'))
    assert [(result.content, result.value) for result in results] == [("4", 4), ("n3", "n3")]
    assert results[0].as_message() == {"role": "tool", "tool_call_id": "c0", "content": "4"}


async def test_calls_run_side_by_side() -> None:
    """Two that wait for each other both end, plain and async alike."""
    barrier = threading.Barrier(2, timeout=PATIENCE_S)
    first, second = anyio.Event(), anyio.Event()

    def meet(a: int) -> str:
        barrier.wait()
        return "met"

    async def one(a: int) -> str:
        first.set()
        await second.wait()
        return "one"

    async def two(a: int) -> str:
        second.set()
        await first.wait()
        return "two"

    calls = [(name, '{"a": 1}') for name in ("meet", "meet", "one", "two")]
    results = await run([meet, one, two], *calls)
    assert [result.content for result in results] == ["met", "met", "one", "two"]


async def test_no_more_run_at_a_time_than_allowed() -> None:
    """parallel=1 runs one after the other."""
    running, most = 0, 0

    async def watch(a: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1

    await run([watch], *[("watch", '{"a": 1}')] * 5, parallel=1)
    assert most == 1


async def test_an_exception_is_told_to_the_model() -> None:
    """With its type and text; the other calls go on."""

    def fail(a: int) -> None:
        raise LookupError("no such city")

    results = await run([fail, double], ("fail", '{"a": 1}'), ("double", '{"number": 1}'))
    assert [result.outcome for result in results] == ["failed", "ok"]
    assert results[0].content == "Error: 'fail' failed with LookupError: no such city"


async def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    """The model may choose again."""
    (result,) = await run([double], ("triple", "{}"))
    assert (result.outcome, result.content) == ("unknown tool", "Error: there is no tool 'triple'. There are: double.")


@pytest.mark.parametrize("arguments", ["{", '{"number": "x"}', "{}", '{"number": 1, "more": 2}'])
async def test_invalid_arguments_are_refused_with_what_is_wrong(arguments: str) -> None:
    """The function is not called."""
    (result,) = await run([double], ("double", arguments))
    assert result.outcome == "invalid arguments"
    assert result.content.startswith("Error: 'double' was not called: ")


async def test_a_call_that_takes_too_long_is_given_up() -> None:
    """An async tool is cancelled; a plain one is left in its thread."""
    cancelled, left = anyio.Event(), threading.Event()

    async def endless(a: int) -> None:
        try:
            await anyio.Event().wait()
        finally:
            cancelled.set()

    def stuck(a: int) -> None:
        left.wait(PATIENCE_S)

    results = await run(
        [tool(timeout_s=0.01)(endless), tool(timeout_s=0.01)(stuck)], ("endless", '{"a": 1}'), ("stuck", '{"a": 1}')
    )
    left.set()
    assert [result.outcome for result in results] == ["timed out", "timed out"]
    assert cancelled.is_set()
    assert "did not finish within 0.01 s" in results[1].content


async def test_a_tools_own_timeout_error_is_a_failure_of_the_tool() -> None:
    """It is not taken for the time limit."""

    def slow_service(a: int) -> None:
        raise TimeoutError("the service")

    (result,) = await run([slow_service], ("slow_service", '{"a": 1}'))
    assert result.outcome == "failed"


@pytest.mark.parametrize(
    ("verdict", "content"),
    [(False, "Refused: the user did not allow this call."), ("too dear", "Refused: too dear."), (True, "4")],
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_person_may_refuse_a_call(verdict: Any, content: str, is_async: bool) -> None:
    """With a reason or without; the hook may be async."""
    seen: list[ToolCall] = []

    def approve(call: ToolCall) -> Any:
        seen.append(call)
        return verdict

    async def approve_async(call: ToolCall) -> Any:
        return approve(call)

    (result,) = await run([double], ("double", '{"number": 2}'), approve=approve_async if is_async else approve)
    assert result.content == content
    assert seen[0].name == "double"


async def test_a_result_that_is_not_json_is_a_failure() -> None:
    """Nothing is turned into text by guesswork."""

    def strange(a: int) -> object:
        return object()

    (result,) = await run([strange], ("strange", '{"a": 1}'))
    assert result.outcome == "failed"
    assert "not JSON" in result.content


def test_limits_that_make_no_sense_are_refused() -> None:
    """They are validated where they are made."""
    with pytest.raises(ValueError, match="positive"):
        ToolLimits(rounds=0)
