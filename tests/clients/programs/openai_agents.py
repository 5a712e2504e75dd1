"""openai-agents with its default settings: a tool, a hand-off, a conversation session, a stream."""

import asyncio

from agents import Agent, OpenAIConversationsSession, Runner, function_tool

MODEL = "gpt-4o-mini"


@function_tool
def get_weather(city: str) -> str:
    """Return the weather of a city."""
    return f"12 degrees in {city}"


async def main() -> None:
    agent = Agent(name="asker", instructions="Help.", tools=[get_weather], model=MODEL)
    print("tool:", (await Runner.run(agent, "the weather in Oslo?")).final_output)
    helper = Agent(name="helper", instructions="Help.", handoff_description="helps", model=MODEL)
    moved = await Runner.run(Agent(name="front", handoffs=[helper], model=MODEL), "transfer me")
    print("hand-off:", moved.last_agent.name)
    session = OpenAIConversationsSession()
    await Runner.run(agent, "hello", session=session)
    await Runner.run(agent, "again", session=session)
    print("session:", len(await session.get_items()))
    streamed = Runner.run_streamed(agent, "the weather in Oslo?")
    kinds = {event.type async for event in streamed.stream_events()}
    print("stream:", "raw_response_event" in kinds, streamed.final_output)


asyncio.run(main())
