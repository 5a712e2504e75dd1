"""The root command: mounts the others, and says every error in one line with its fix."""

import os
import sys
from collections.abc import Sequence
from typing import cast

from cyclopts import App

from antiphon import __version__
from antiphon.errors import AntiphonError

app = App(
    name="antiphon",
    help="The OpenAI API on your own machine, and tools for the applications that call it.",
    version=f"antiphon {__version__}",
)

# Named as text, so that a command loads only its own module; what each does is said here for the same reason.
COMMANDS = {
    "serve": ("antiphon.cli.serve:serve", "Serve the OpenAI API on this machine."),
    "models": ("antiphon.cli.models:app", "List, fetch, show and remove models."),
    "keys": ("antiphon.cli.keys:app", "Create, list, revoke and rotate API keys."),
    "usage": ("antiphon.cli.usage:app", "Show what was used and what it cost."),
    "chat": ("antiphon.cli.chat:chat", "Talk to a model in the terminal."),
    "ask": ("antiphon.cli.ask:app", "Ask one question."),
    "extract": ("antiphon.cli.extract:app", "Read an object of named fields from a text."),
    "embed": ("antiphon.cli.embed:app", "Embed texts."),
    "search": ("antiphon.cli.search:app", "Index a folder, search it, ask it."),
    "bulk": ("antiphon.cli.bulk:app", "Run thousands of requests under limits; resumes."),
    "tokens": ("antiphon.cli.tokens:app", "Count the tokens of a text or a conversation."),
    "doctor": ("antiphon.cli.doctor:app", "Find what is wrong with key, URL, network or server."),
    "tour": ("antiphon.cli.tour:app", "The whole guide to the API in ten steps."),
}
for _name, (_target, _help) in COMMANDS.items():
    app.command(_target, name=_name, help=_help)


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its status: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in words
    try:
        status = app([word for word in words if word != "--debug"])
    except BrokenPipeError:
        # The reader of our output has left (`antiphon ... | head`): not an error; keep the interpreter from flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        print(describe(error), file=sys.stderr)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def describe(error: BaseException) -> str:
    """Return an error in one line, its fix included."""
    if isinstance(error, BaseExceptionGroup):
        first: BaseException = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        return describe(first)
    if isinstance(error, AntiphonError):
        return f"antiphon: {error.message}" + (f" - {error.hint}" if error.hint else "")
    return f"antiphon: {type(error).__name__}: {error} - run again with --debug to see where it comes from"
