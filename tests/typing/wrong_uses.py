"""What type checkers should refuse; each line marked ``wrong`` must have an error, and no other line."""

from openai import AsyncOpenAI

from antiphon import Chat, tool


@tool
def plain(city: str) -> str:
    return city


plain(3)  # wrong: not a str
plain("Oslo", "more")  # wrong: too many arguments
Chat("s", temprature=0.5)  # wrong: no such option
Chat("s", model=3)  # wrong: not a name
Chat("s", client=AsyncOpenAI())  # wrong: belongs to another loop
Chat("s").send(3)  # wrong: not content
