"""For models without tool training: whether a tool is called, and which, follows from how near it is."""

import pytest

from antiphon.prompting.tool_calls.selection import ToolSelector, in_full, in_short
from antiphon.protocol.chat import ChatRequest, Message, Tool, ToolChoice

WEATHER = Tool(
    "getCurrentWeather",
    "Get the weather in a city.",
    {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}},
)
AREA = Tool(
    "area.of_circle",
    "Calculate the area of a circle.",
    {"type": "object", "properties": {"radius": {"type": "number"}}, "required": ["radius"]},
)


def chosen(message: str, vectors: list[list[float]] | None, *, required: bool = False) -> tuple[str, ...]:
    choice = ToolChoice("required" if required else "auto")
    request = ChatRequest(model="m", messages=(Message("user", message),), tools=(WEATHER, AREA), tool_choice=choice)
    question = ToolSelector().question(request)
    assert question is not None
    return tuple(tool.name for tool in ToolSelector().choose(question, vectors))


def test_tools_in_words() -> None:
    """A tool is compared by its name in words, its description, and its parameters."""
    assert in_short(WEATHER) == "get Current Weather: Get the weather in a city."
    assert in_full(WEATHER) == "get Current Weather: Get the weather in a city. city: Name of the city"


def test_nearest_tool_is_called() -> None:
    """The tool with the greatest similarity is called if it is near enough; otherwise the answer is text."""
    near, far = [0.6, 0.8], [0.0, 1.0]
    assert chosen("Sunny?", [[1.0, 0.0], near, near, far, far]) == ("getCurrentWeather",)
    assert chosen("Sunny?", [[1.0, 0.0], far, far, far, far]) == ()
    assert chosen("Five?", [[1.0, 0.0], far, far, [0.1, 1.0], far], required=True) == ("area.of_circle",)


@pytest.mark.parametrize(("message", "called"), [("The area?", ()), ("The area for 5?", ("area.of_circle",))])
def test_missing_number(message: str, called: tuple[str, ...]) -> None:
    """A tool that needs a number is not called when none was said."""
    near, far = [0.5, 0.866], [0.0, 1.0]
    assert chosen(message, [[1.0, 0.0], far, far, near, near]) == called


def test_without_embeddings() -> None:
    """Where there is no embedding model, common words decide."""
    assert chosen("What is the current weather in Rome, the city?", None) == ("getCurrentWeather",)
    assert chosen("Tell me a joke.", None) == ()


def test_nothing_said() -> None:
    """With nothing to go by, all tools stay open if one is required; otherwise the answer is text."""
    assert chosen("", None) == ()
    assert chosen("", None, required=True) == ("getCurrentWeather", "area.of_circle")
