"""``antiphon chat``: talk to a model in the terminal."""

import sys
from typing import Annotated

import openai
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from antiphon.cli.connection import Server
from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.reply import TextDelta

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
    """A chat of the toolkit, which keeps within the model's context, printed while its answers stream."""

    def __init__(
        self, server: Server, client: openai.OpenAI, model: str, system: str, temperature: float | None
    ) -> None:
        self._server = server
        self._client = client
        self._options: ChatOptions = {"model": model}
        if temperature is not None:
            self._options["temperature"] = temperature
        self.reset(system)

    def reset(self, system: str) -> None:
        """Forget everything but the system message."""
        self.system = system
        self.chat = Chat(system or None, client=self._client, **self._options)

    def ask(self, text: str) -> None:
        """Send one message and print the answer while it streams; Ctrl-C keeps the part that was printed.

        An error is printed and the message taken back. Raises openai.APIConnectionError when there is no server.
        """
        said: list[str] = []
        try:
            self._stream(text, said)
        except KeyboardInterrupt:
            print(" [stopped]")
            self.chat.remember(text, "".join(said), pin=False)
        except openai.APIConnectionError:
            raise
        except (openai.APIError, AntiphonError) as error:
            explained = self._server.explained(error, self._client) if isinstance(error, openai.APIError) else error
            print(f"antiphon: {explained.message} - {explained.hint}", file=sys.stderr)

    def _stream(self, text: str, said: list[str]) -> None:
        with self.chat.stream(text) as stream:
            for event in stream.events():
                if isinstance(event, TextDelta):
                    said.append(event.text)
                    print(event.text, end="", flush=True)
        print()
        if stream.reply.is_truncated:
            print("antiphon: the answer was cut at the token limit", file=sys.stderr)


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
