"""Running the calls that a model asks for: in parallel, with time limits, and with a result for every call.

Whatever goes wrong becomes a result that says to the model how to do better: no such tool, arguments that are not valid,
an exception, no result in time, a person's refusal. A tool that ends the program (SystemExit, KeyboardInterrupt) ends it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import anyio.to_thread
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from antiphon.toolkit import observing
from antiphon.toolkit.observing import span
from antiphon.toolkit.record import ToolCall
from antiphon.toolkit.tools.invoke import StopIterationInToolError
from antiphon.toolkit.tools.large_results import bounded
from antiphon.toolkit.tools.toolbox import Toolbox

Outcome = Literal["ok", "failed", "timed out", "refused", "unknown tool", "invalid arguments"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a call: ``content`` is for the model, ``value`` the function's own, None unless ``outcome`` is "ok"."""

    call: ToolCall
    outcome: Outcome
    content: str
    seconds: float
    value: Any = None

    def as_message(self) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.call.id, "content": self.content}


Approval = bool | str
# Asked before a call runs: True lets it, False or a reason (text, for the model) refuses it. May be async.
Approve = Callable[[ToolCall], Approval | Awaitable[Approval]]


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Bounds on one answer: requests to the model, seconds for one call of a tool, calls run at a time."""

    rounds: int = 8
    timeout_s: float = 60.0
    parallel: int = 8

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.parallel < 1 or not self.timeout_s > 0:
            raise ValueError(f"limits must be positive, got {self!r}")


async def run_tools(
    toolbox: Toolbox, calls: Sequence[ToolCall], *, limits: ToolLimits, approve: Approve | None
) -> list[ToolResult]:
    """Run ``calls`` and return their results in the same order; cancelling cancels async tools.

    A plain function runs in a worker thread; one that is past its time limit is left to end there by itself. Raises what
    ``approve`` raises, and what a tool raises to end the program (SystemExit and others that are not an ``Exception``).
    """
    results: dict[int, ToolResult] = {}
    ended_by: list[BaseException] = []
    gate = anyio.Semaphore(limits.parallel)

    async def run(index: int, call: ToolCall) -> None:
        async with gate:
            begun = time.perf_counter()
            try:
                outcome, content, value = await _run_observed(toolbox, call, limits, approve)
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001 - raised below as it is; a task group would wrap it
                ended_by.append(error)
                group.cancel_scope.cancel()
                return
            shown = _shown(toolbox, call, _encodable(content))
            results[index] = ToolResult(call, outcome, shown, time.perf_counter() - begun, value)

    async with anyio.create_task_group() as group:
        for index, call in enumerate(calls):
            group.start_soon(run, index, call)
    if ended_by:
        raise ended_by[0]
    return [results[index] for index in range(len(calls))]


async def _run_observed(
    toolbox: Toolbox, call: ToolCall, limits: ToolLimits, approve: Approve | None
) -> tuple[Outcome, str, Any]:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.name,
        "gen_ai.tool.call.id": call.id,
        "gen_ai.tool.type": "custom" if call.is_custom else "function",
    }
    asked = {"gen_ai.tool.call.arguments": call.arguments}
    with span(f"execute_tool {call.name}", attributes, asked) as note:
        outcome, content, value = await _run_one(toolbox, call, limits, approve)
        note({"antiphon.tool.outcome": outcome, "error.type": None if outcome == "ok" else outcome})
        note(observing.content({"gen_ai.tool.call.result": content}))
    return outcome, content, value


async def _run_one(
    toolbox: Toolbox, call: ToolCall, limits: ToolLimits, approve: Approve | None
) -> tuple[Outcome, str, Any]:
    tool = toolbox.tools.get(call.name)
    if tool is None:
        known = ", ".join(toolbox.tools) or "none"
        return "unknown tool", f"Error: there is no tool {call.name!r}. There are: {known}.", None
    try:
        arguments = tool.arguments(call.arguments)
    except ValueError as error:
        why = explain_invalid(error) if isinstance(error, ValidationError) else str(error)
        return "invalid arguments", f"Error: {call.name!r} was not called: {why}", None
    if approve is not None and (refusal := await _ask(approve, call)) is not None:
        return "refused", refusal, None
    timeout_s = tool.options.timeout_s or limits.timeout_s
    with anyio.move_on_after(timeout_s):
        try:
            value = await tool.call(arguments)
            return "ok", _as_text(value), value
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return "failed", _failure(call.name, error), None
    return "timed out", f"Error: {call.name!r} did not finish within {timeout_s:g} s.", None


def _shown(toolbox: Toolbox, call: ToolCall, content: str) -> str:
    """Return what the model gets of a result, within the bound of its tool."""
    tool = toolbox.tools.get(call.name)
    return content if tool is None else bounded(content, tool.options, toolbox.kept)


def _is_cancelled() -> bool:
    """Tell whether somebody cancels this task; a tool may raise CancelledError by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(name: str, error: BaseException) -> str:
    kind = "StopIteration" if isinstance(error, StopIterationInToolError) else type(error).__name__
    try:
        why = str(error)
    except Exception:  # noqa: BLE001 - an exception's own text may fail
        why = "(its text cannot be read)"
    return f"Error: {name!r} failed with {kind}: {why}"


async def _ask(approve: Approve, call: ToolCall) -> str | None:
    if inspect.iscoroutinefunction(approve):
        approval: Approval = await approve(call)
    else:
        given = await anyio.to_thread.run_sync(lambda: approve(call))
        approval = await given if inspect.isawaitable(given) else given
    if approval is True:
        return None
    return f"Refused: {approval or 'the user did not allow this call'}."


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return to_json(value).decode()
    except (PydanticSerializationError, UnicodeError) as error:
        try:
            # Texts with lone surrogates, such as names of files that are not UTF-8, are valid JSON only as escapes.
            return json.dumps(to_jsonable_python(value))
        except (PydanticSerializationError, UnicodeError, ValueError, TypeError):
            raise TypeError(f"its result is not JSON: {error}") from error


def _encodable(text: str) -> str:
    """Return ``text`` with lone surrogates as escapes, since no request can carry them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def explain_invalid(error: ValidationError) -> str:
    """Return, for a model, what was not valid: field, reason and value of each problem."""
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"]) or "the whole"
        given = problem["input"]
        shown = given if isinstance(given, str) else json.dumps(given, default=str)
        lines.append(f"{where}: {problem['msg']} (got {shown[:200]})")
    return "; ".join(lines)
