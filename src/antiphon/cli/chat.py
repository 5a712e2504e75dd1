"""``antiphon chat``: talk to a model in the terminal."""

import sys
from typing import Annotated

import openai
from cyclopts import Parameter
from openai.types.chat import ChatCompletionMessageParam
from rich.console import Console
from rich.markup import escape

from antiphon.cli.connection import Server

HELP = "Commands: /reset forgets the conversation, /system TEXT sets the system message, /quit ends."


def chat(
    *,
    model: Annotated[str, Parameter(help="Model to talk to.")] = "gpt-4o-mini",
    system: Annotated[str, Parameter(help="System message.")] = "",
    temperature: Annotated[float | None, Parameter(help="0 to 2; the API's default if not given.")] = None,
    server: Server | None = None,
) -> None:
    """Talk to a model: each line is a message, the answer streams. Ctrl-C stops an answer, Ctrl-D ends."""
    console = Console()
    server = server or Server()
    if sys.stdin.isatty():
        console.print(f"[dim]{escape(f'{model} at {server.base_url}. {HELP}')}[/dim]")
    with server.client() as client:
        conversation = Conversation(server, client, model, system, temperature)
        while (line := _read_line(console)) is not None:
            if line.startswith("/"):
                if not _command(console, conversation, line):
                    return
            elif line.strip():
                conversation.ask(line)


class Conversation:
    """The messages so far, and the client that sends them."""

    def __init__(
        self, server: Server, client: openai.OpenAI, model: str, system: str, temperature: float | None
    ) -> None:
        self._server = server
        self._client = client
        self._model = model
        self._temperature = temperature
        self.messages: list[ChatCompletionMessageParam] = []
        self.reset(system)

    def reset(self, system: str) -> None:
        """Forget everything but the system message."""
        self.system = system
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, text: str) -> None:
        """Send one message and print the answer as it comes; Ctrl-C keeps what was said so far.

        An error is printed and the message taken back. Raises openai.APIConnectionError when there is no server.
        """
        self.messages.append({"role": "user", "content": text})
        said: list[str] = []
        try:
            self._stream(said)
        except KeyboardInterrupt:
            print(" [stopped]")
        except openai.APIError as error:
            self.messages.pop()
            if isinstance(error, openai.APIConnectionError):
                raise
            explained = self._server.explained(error, self._client)
            print(f"antiphon: {explained.message} - {explained.hint}", file=sys.stderr)
            return
        self.messages.append({"role": "assistant", "content": "".join(said)})

    def _stream(self, said: list[str]) -> None:
        temperature = openai.omit if self._temperature is None else self._temperature
        with self._client.chat.completions.create(
            model=self._model, messages=self.messages, temperature=temperature, stream=True
        ) as stream:
            for chunk in stream:
                delta = chunk.choices[0].delta.content if chunk.choices else None
                if delta:
                    said.append(delta)
                    print(delta, end="", flush=True)
        print()


def _read_line(console: Console) -> str | None:
    try:
        return console.input("[bold]> [/bold]") if sys.stdin.isatty() else input()
    except EOFError:
        return None


def _command(console: Console, conversation: Conversation, line: str) -> bool:
    word, _, rest = line.partition(" ")
    match word:
        case "/quit" | "/exit":
            return False
        case "/reset":
            conversation.reset(conversation.system)
        case "/system":
            conversation.reset(rest.strip())
        case _:
            console.print(HELP)
    return True
