"""Running the calls that a model asks for: in parallel, with time limits, and with an answer for every call.

Whatever goes wrong becomes a result that tells the model what to do better: no such tool, arguments that are not valid,
an exception, no result in time, a person's refusal.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import anyio
import anyio.to_thread
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError, to_json

from antiphon.toolkit.tools.tool import Tool, Toolbox

Outcome = Literal["ok", "failed", "timed out", "refused", "unknown tool", "invalid arguments"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for; ``arguments`` is its unchanged JSON."""

    id: str
    name: str
    arguments: str

    def as_message(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model gets about a call; ``value`` is the function's own result, None unless ``outcome`` is "ok"."""

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

    A plain function runs in a worker thread; one that is past its time limit is left to end there by itself.
    """
    results: dict[int, ToolResult] = {}
    gate = anyio.Semaphore(limits.parallel)

    async def run(index: int, call: ToolCall) -> None:
        async with gate:
            begun = time.perf_counter()
            outcome, content, value = await _run_one(toolbox, call, limits, approve)
            results[index] = ToolResult(call, outcome, content, time.perf_counter() - begun, value)

    async with anyio.create_task_group() as group:
        for index, call in enumerate(calls):
            group.start_soon(run, index, call)
    return [results[index] for index in range(len(calls))]


async def _run_one(
    toolbox: Toolbox, call: ToolCall, limits: ToolLimits, approve: Approve | None
) -> tuple[Outcome, str, Any]:
    tool = toolbox.tools.get(call.name)
    if tool is None:
        known = ", ".join(toolbox.tools) or "none"
        return "unknown tool", f"Error: there is no tool {call.name!r}. There are: {known}.", None
    try:
        arguments = tool.arguments(call.arguments)
    except ValidationError as error:
        return "invalid arguments", f"Error: {call.name!r} was not called: {explain_invalid(error)}", None
    if approve is not None and (refusal := await _ask(approve, call)) is not None:
        return "refused", refusal, None
    timeout_s = tool.options.timeout_s or limits.timeout_s
    with anyio.move_on_after(timeout_s):
        try:
            value = await _invoke(tool, arguments)
            return "ok", _as_text(value), value
        except Exception as error:  # noqa: BLE001 - the model gets what went wrong, whatever it was
            return "failed", f"Error: {call.name!r} failed with {type(error).__name__}: {error}", None
    return "timed out", f"Error: {call.name!r} did not finish within {timeout_s:g} s.", None


async def _invoke(tool: Tool[..., Any], arguments: dict[str, Any]) -> Any:
    if tool.is_async:
        return await cast("Awaitable[Any]", tool.function(**arguments))
    result = await anyio.to_thread.run_sync(lambda: tool.function(**arguments), abandon_on_cancel=True)
    return await result if inspect.isawaitable(result) else result


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
    except PydanticSerializationError as error:
        raise TypeError(f"its result is not JSON: {error}") from error


def explain_invalid(error: ValidationError) -> str:
    """Say in one line per field, for a model, what was not valid."""
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        where = ".".join(str(step) for step in problem["loc"]) or "the whole"
        given = problem["input"]
        shown = given if isinstance(given, str) else json.dumps(given, default=str)
        lines.append(f"{where}: {problem['msg']} (got {shown[:200]})")
    return "; ".join(lines)
