"""LangChain with `use_responses_api=True`: text, a tool, a stream, a typed output."""

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

model = ChatOpenAI(model="gpt-4o-mini", use_responses_api=True)


@tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"12 degrees in {city}"


class Weather(BaseModel):
    city: str
    degrees: int


asking = model.bind_tools([get_weather])
question = HumanMessage("the weather in Oslo?")
called = asking.invoke([question])
result = ToolMessage("12 degrees", tool_call_id=called.tool_calls[0]["id"])
print("tool:", asking.invoke([question, called, result]).text)
print("stream:", "".join(chunk.text for chunk in model.stream("one two three")))
print("typed:", model.with_structured_output(Weather).invoke("as an object"))
