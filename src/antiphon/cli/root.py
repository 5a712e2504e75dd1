"""The root command: mounts the others, and reports every error in one line with its fix."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

from cyclopts import App, Parameter

from antiphon import __version__
from antiphon.cli.failures import explained
from antiphon.errors import AntiphonError
from antiphon.extras import missing_extra

# Named as text, so that a command loads only its own module; its description is here for the same reason.
COMMANDS = {
    "serve": ("antiphon.cli.serve:serve", "Serve the OpenAI API on this machine."),
    "models": ("antiphon.cli.models:app", "List, fetch, show and remove models."),
    "engine": ("antiphon.cli.engine:app", "Show the libraries that compute, or compile one here."),
    "keys": ("antiphon.cli.keys:app", "Create, list, revoke and rotate API keys."),
    "usage": ("antiphon.cli.usage:usage", "Show what was used and what it cost."),
    "chat": ("antiphon.cli.chat:chat", "Talk to a model in the terminal."),
    "ask": ("antiphon.cli.ask:ask", "Ask one question."),
    "log": ("antiphon.cli.log:app", "Show and search the questions and answers kept here."),
    "templates": ("antiphon.cli.templates:app", "List, show and remove templates of questions."),
    "tools": ("antiphon.cli.tools:tools", "List the tools of a Python file or an MCP server."),
    "extract": ("antiphon.cli.extract:extract", "Read an object of named fields from a text."),
    "embed": ("antiphon.cli.embed:embed", "Embed texts."),
    "search": ("antiphon.cli.search:search", "Index a folder, search it, ask it."),
    "cache": ("antiphon.cli.cache:app", "Show and clear the caches of embeddings and answers."),
    "bulk": ("antiphon.cli.bulk:bulk", "Run thousands of requests under limits; resumes."),
    "files": ("antiphon.cli.files:app", "Upload, list, show, download and delete files."),
    "batches": ("antiphon.cli.batches:app", "Start, list, show and cancel batches, and fetch their answers."),
    "launch": ("antiphon.cli.launch:launch", "Start Codex and other tools against this server."),
    "eval": ("antiphon.cli.evaluate:evaluate", "Measure models on your own cases; find what got worse."),
    "tokens": ("antiphon.cli.tokens:tokens", "Count the tokens of a text or a conversation."),
    "doctor": ("antiphon.cli.doctor:doctor", "Find what is wrong with key, URL, network or server."),
    "tour": ("antiphon.cli.tour:tour", "The whole guide to the API in ten steps."),
}


def application(chosen: str = "") -> App:
    """Return the command line. The ``chosen`` command shows its full help; the others only their line here."""
    app = App(
        name="antiphon",
        help="The OpenAI API on your own machine, and tools for the applications that call it.",
        version=f"antiphon {__version__}",
        default_parameter=Parameter(show_default=_shown_default),
    )
    for name, (target, line) in COMMANDS.items():
        app.command(target, name=name, help=None if name == chosen else line)
    return app


def main(tokens: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its status: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    words = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in words
    try:
        words = [word for word in words if word != "--debug"]
        with warnings.catch_warnings():
            if not debug:
                warnings.showwarning = partial(_show_warning, warnings.showwarning)
            status = application(next(iter(words), ""))(words)
    except BrokenPipeError:
        # The reader of our output has closed it (`antiphon ... | head`): not an error; keep the interpreter from flushing.
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


def _shown_default(value: Any) -> str | None:
    """Return a default as --help shows it; None for one that says nothing (no text, nothing in a list, a flag not given)."""
    return None if value is None or value is False or value in {"", ()} else str(value)


def _show_warning(
    show: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any, **more: Any
) -> None:
    """Print a warning of ours as errors are printed: in one line, without the line of code that it comes from."""
    if category.__module__.startswith("antiphon."):
        print(f"antiphon: {message}", file=sys.stderr)
    else:
        show(message, category, *where, **more)


def describe(error: BaseException) -> str:
    """Return an error in one line, its fix included."""
    if isinstance(error, BaseExceptionGroup):
        first: BaseException = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        return describe(first)
    if isinstance(error, ImportError) and (missing := missing_extra(error)) is not None:
        error = missing
    error = explained(error) or error
    if isinstance(error, AntiphonError):
        return f"antiphon: {error.message}" + (f" - {error.hint}" if error.hint else "")
    return f"antiphon: {type(error).__name__}: {error} - run again with --debug to see where it comes from"
