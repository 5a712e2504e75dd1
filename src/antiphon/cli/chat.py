"""``antiphon chat``: talk to a model in the terminal."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import openai
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from antiphon.cli import log_file
from antiphon.cli.connection import Server, dollars
from antiphon.cli.markdown import Printer
from antiphon.cli.offered import OfferedTools
from antiphon.errors import AntiphonError
from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.chat.chat_state import ChatOptions
from antiphon.toolkit.chat.history import read_chat
from antiphon.toolkit.chat.reply import TextDelta
from antiphon.toolkit.clients import DEFAULT_MODEL
from antiphon.toolkit.tools.tool import Tool
from antiphon.toolkit.usage import Usage

HELP = """\
/save FILE, /load FILE   write the conversation, go on with one
/undo                    forget the last message and its answer
/model NAME              go on with another model
/system TEXT             set the system message, and forget the conversation
/reset                   forget the conversation
/tokens, /cost           what the next request has, what the answers took
/quit                    end; so does Ctrl-D. Ctrl-C stops an answer. \""" begins and ends a message of several lines."""
_QUOTES = '"""'


def chat(
    *,
    model: Annotated[
        str | None, Parameter(help=f"Model to talk to. [default: the conversation's, {DEFAULT_MODEL} for a new one]")
    ] = None,
    system: Annotated[str, Parameter(help="System message.")] = "",
    temperature: Annotated[float | None, Parameter(help="0 to 2; the API's default if not given.")] = None,
    continue_: Annotated[
        bool, Parameter(name=["--continue", "-c"], negative="", help="Continue the latest conversation of the log.")
    ] = False,
    plain: Annotated[bool, Parameter(negative="", help="Do not render Markdown at a terminal.")] = False,
    offered: OfferedTools | None = None,
    server: Server | None = None,
) -> None:
    """Talk to a model: each line is a message, the answer streams. Ctrl-C stops an answer, Ctrl-D ends.

    The conversation is kept within the model's context. /help lists the commands.
    """
    server, offered = server or Server(), offered or OfferedTools()
    if continue_:
        log_file.require_no_system(system)
    options: ChatOptions = {}
    if model is not None:
        options["model"] = model
    if temperature is not None:
        options["temperature"] = temperature
    with server.client() as client, offered.opened() as tools:
        conversation = Conversation(server, client, options, tools, offered, is_plain=plain)
        conversation.reset(system)
        if continue_:
            conversation.go_on()
        if sys.stdin.isatty():
            _greet(f"{conversation.chat.model} at {server.base_url}. /help lists the commands.")
        while (line := _read_message()) is not None:
            if line.startswith("/"):
                if not conversation.command(line):
                    return
            elif line.strip():
                conversation.ask(line)


class Conversation:
    """A chat of the toolkit, which keeps within the model's context, printed while its answers stream."""

    def __init__(
        self,
        server: Server,
        client: openai.OpenAI,
        options: ChatOptions,
        tools: Sequence[Tool],
        offered: OfferedTools,
        *,
        is_plain: bool,
    ) -> None:
        self._server = server
        self._client = client
        self._options: ChatOptions = {**options}
        if tools:
            self._options["tools"] = tools
            self._options["approve"] = offered.approve(tools)
        self._is_plain = is_plain
        self._logged: str | None = None
        self._model = DEFAULT_MODEL
        self.reset("")

    def reset(self, system: str) -> None:
        """Forget everything but the system message."""
        self.system = system
        self._logged = None
        options: ChatOptions = {"model": self._model, **self._options}
        self.chat = Chat(system or None, client=self._client, **options)

    def go_on(self) -> None:
        """Continue the latest conversation of the log."""
        with log_file.Log.opened() as log:
            self._logged, saved = log.conversation()
        self._take_up(saved)

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

    def command(self, line: str) -> bool:
        """Carry out a line that begins with a slash; returns False to end."""
        word, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "/reset": lambda _: self.reset(self.system),
            "/system": self.reset,
            "/save": self._save,
            "/load": self._load,
            "/undo": lambda _: self.chat.undo(),
            "/model": self._use_model,
            "/tokens": lambda _: print(self.chat.count_tokens()),
            "/cost": lambda _: print(f"{_tokens(self.chat.usage)}, {dollars(self.chat.cost)}"),
        }
        if word in {"/quit", "/exit"}:
            return False
        try:
            commands.get(word, lambda _: print(HELP))(rest.strip())
        except (AntiphonError, OSError) as error:
            print(f"antiphon: {error}", file=sys.stderr)
        return True

    def _stream(self, text: str, said: list[str]) -> None:
        with Printer(markdown=False if self._is_plain else None) as printer, self.chat.stream(text) as stream:
            for event in stream.events():
                if isinstance(event, TextDelta):
                    said.append(event.text)
                printer.show(event)
            printer.end()
        if stream.reply.is_truncated:
            print("antiphon: the answer was cut at the token limit", file=sys.stderr)
        if log_file.is_on():
            with log_file.Log.opened() as log:
                self._logged = log.add(self._logged, text, stream.reply, self.chat.to_json())

    def _save(self, path: str) -> None:
        self.chat.save(_named(path))
        print(f"antiphon: wrote {path}", file=sys.stderr)

    def _load(self, path: str) -> None:
        self._take_up(read_chat(_named(path)))
        self._logged = None

    def _take_up(self, saved: Mapping[str, Any]) -> None:
        """Go on with a saved conversation, and with its model unless the user named one."""
        self.chat = Chat.from_json(saved, client=self._client, **self._options)
        self._model = self.chat.model
        self.system = str(saved.get("system") or "")

    def _use_model(self, name: str) -> None:
        if not name:
            raise AntiphonError("no model named", hint="/model NAME")
        self._options["model"] = name
        self.chat = Chat.from_json(self.chat.to_json(), client=self._client, **self._options)


def _tokens(usage: Usage | None) -> str:
    return "tokens unknown" if usage is None else f"{usage.prompt_tokens} + {usage.completion_tokens} tokens"


def _greet(text: str) -> None:
    Console().print(f"[dim]{escape(text)}[/dim]")
    # With it input() edits the line and knows the earlier ones.
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")  # not on every platform


def _named(path: str) -> Path:
    if not path:
        raise AntiphonError("no file named", hint="/save FILE, /load FILE")
    return Path(path).expanduser()


def _read_message() -> str | None:
    line = _read_line("> ")
    if line is None or not line.startswith(_QUOTES):
        return line
    lines = [line.removeprefix(_QUOTES)]
    while not lines[-1].endswith(_QUOTES) and (line := _read_line(". ")) is not None:
        lines.append(line)
    return "\n".join(lines).removesuffix(_QUOTES)


def _read_line(prompt: str) -> str | None:
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        # At the prompt it clears the line, as in a shell.
        print()
        return ""
