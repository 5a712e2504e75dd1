"""Refuses stop strings that would end every tool call before its arguments."""

from collections.abc import Iterator, Sequence

from antiphon.prompting.tool_calls.syntax import ToolSyntax
from antiphon.protocol.chat import Tool
from antiphon.protocol.errors import ApiError


def check_stops(stops: Sequence[str], syntax: ToolSyntax, tools: Sequence[Tool], model: str) -> None:
    """Raise ``ApiError`` 400 for a stop string that occurs between a call's first character and its arguments.

    The call would end before it can be recognised as one. In arguments and in text a stop string ends the answer.
    """
    for stop in stops:
        if any(stop in text for tool in tools for text in _ways_to_arguments(syntax, tool.name)):
            raise ApiError(
                400,
                f"Unsupported value: 'stop' does not support {stop!r} with these tools: the model `{model}` writes it at the "
                "beginning of a call, so the call would end there. Use another one, or set 'tool_choice' to 'none'.",
                param="stop",
                code="unsupported_value",
            )


def _ways_to_arguments(syntax: ToolSyntax, name: str) -> Iterator[str]:
    """Yield the literal text of a call between its variable parts: ids, numbers, arguments."""
    text = syntax.lead
    for slot in syntax.slots:
        if slot.kind == "name":
            text += name
        else:
            yield text
            text = ""
        text += slot.after
    yield text
