"""``antiphon tour``: the guide, step by step: its code, its output, what to look at.

The steps are those of ``tour.md`` in this folder, which is also the page ``docs/tour.md``.
"""

import contextlib
import io
import json as jsonlib
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated

import openai
from cyclopts import Parameter
from rich.console import Console
from rich.markdown import Markdown
from rich.syntax import Syntax

from antiphon.cli.connection import Server
from antiphon.errors import AntiphonError

_STEP = re.compile(r"^## (\d+)\. (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```(python|text)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One step: what it is about, its code, and what to look at in its output."""

    number: int
    title: str
    about: str
    code: str
    look_at: str


def tour(
    *,
    steps: Annotated[str | None, Parameter(help="Show only these, as 3 or 3-5; those before them run unseen.")] = None,
    pause: Annotated[bool, Parameter(help="Wait for Enter between steps, at a terminal.")] = True,
    json: Annotated[bool, Parameter(negative="", help="Print each step and its output as a line of JSON.")] = False,
    server: Server | None = None,
) -> int:
    """Walk through the whole guide in ten steps against your server, each run before your eyes."""
    chosen = server or Server()
    all_steps = read_steps()
    shown = _chosen(steps, all_steps)
    with chosen.client() as client:
        client.with_options(max_retries=0).models.list()
    console = Console(highlight=False)
    session: dict[str, object] = {"__name__": "__main__"}
    with _at(chosen), tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), chosen.client():
        for step in all_steps[: shown[-1].number]:
            is_shown = step in shown
            if is_shown and not json:
                _introduce(console, step)
            output = _run(step, session)
            if is_shown and json:
                print(jsonlib.dumps({"step": step.number, "title": step.title, "code": step.code, "output": output}))
            elif is_shown:
                _conclude(console, step, output)
                if pause and sys.stdin.isatty() and step is not shown[-1]:
                    console.input("[dim]Enter for the next step, Ctrl-C to leave [/dim]")
    return 0


def read_steps() -> list[Step]:
    """Read the steps of the page."""
    text = files("antiphon.cli").joinpath("tour.md").read_text(encoding="utf-8")
    found = list(_STEP.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    return [_step(int(match[1]), match[2], text[match.end() : end]) for match, end in zip(found, ends, strict=True)]


def _step(number: int, title: str, body: str) -> Step:
    fences = list(_FENCE.finditer(body))
    about, look_at = body[: fences[0].start()], body[fences[-1].end() :]
    return Step(number, title, about.strip(), fences[0][2], look_at.strip())


def _chosen(steps: str | None, all_steps: Sequence[Step]) -> list[Step]:
    first, _, last = (steps or f"1-{len(all_steps)}").partition("-")
    try:
        numbers = range(int(first), int(last or first) + 1)
    except ValueError:
        numbers = range(0)
    found = [step for step in all_steps if step.number in numbers]
    if not found or len(found) < len(numbers):
        raise AntiphonError(
            f"no such steps: {steps!r}", hint=f"name one from 1 to {len(all_steps)}, or a range: --steps 3-5"
        )
    return found


@contextlib.contextmanager
def _at(server: Server):  # noqa: ANN202 # a context manager without a value
    """Point the official client's environment at the server while the steps run."""
    before = dict(os.environ)
    os.environ |= {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": server.api_key}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(step: Step, session: dict[str, object]) -> str:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(step.code, f"<step {step.number}>", "exec"), session)  # noqa: S102 # our own page
    except (openai.APIError, AntiphonError):
        raise
    except Exception as error:
        raise AntiphonError(
            f"step {step.number} ({step.title}) failed: {type(error).__name__}: {error}",
            hint="does the model do what the step asks? antiphon doctor --model gpt-4o-mini",
        ) from error
    return printed.getvalue()


def _introduce(console: Console, step: Step) -> None:
    console.rule(f"[bold]{step.number}. {step.title}", align="left")
    console.print(Markdown(step.about))
    console.print(Syntax(step.code, "python", background_color="default", word_wrap=True))


def _conclude(console: Console, step: Step, output: str) -> None:
    console.print("[dim]prints[/dim]")
    console.print(output.rstrip(), markup=False)
    console.print()
    console.print(Markdown(step.look_at))
    console.print()
