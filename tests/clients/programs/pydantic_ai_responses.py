"""pydantic-ai with the model prefix `openai:`: a tool, a typed output, a history."""

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModel

model = OpenAIResponsesModel("gpt-4o-mini")
agent = Agent(model)


@agent.tool_plain
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"12 degrees in {city}"


class Weather(BaseModel):
    city: str
    degrees: int


first = agent.run_sync("the weather in Oslo?")
print("tool:", first.output)
print("typed:", Agent(model, output_type=NativeOutput(Weather)).run_sync("as an object").output)
print("history:", agent.run_sync("and now?", message_history=first.all_messages()).output)
