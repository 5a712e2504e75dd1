"""``antiphon log``: the questions and answers that were kept on this machine."""

import sys
import time
from typing import Annotated

from cyclopts import App, Parameter

from antiphon.cli import log_file
from antiphon.cli.connection import dollars
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError

app = App(name="log", help="Show and search the questions and answers kept on this machine.")
_MAX_PROMPT = 200


@app.default
def show(
    *,
    search: Annotated[str | None, Parameter(help="Only those that have all these words.")] = None,
    limit: Annotated[int, Parameter(help="How many, newest first.")] = 10,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object a line.")] = False,
) -> None:
    """Show the latest questions and answers, with model, tokens and cost.

    Nothing is kept before `antiphon log on`.
    """
    if limit < 1:
        raise AntiphonError(f"--limit must be at least 1, not {limit}")
    with log_file.Log.opened() as log:
        found = log.answers(search=search, limit=limit)
        if not found:
            told = "nothing is logged yet" if search is None else f"no answer has all words of {search!r}"
            print(f"antiphon: {told}", file=sys.stderr)
        for kept in found:
            if json:
                print_json(kept)
                continue
            at = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept.at))
            tokens = (
                f"{kept.prompt_tokens} + {kept.completion_tokens} tokens"
                if kept.prompt_tokens is not None
                else "tokens unknown"
            )
            cost = dollars(None if kept.cost_usd is None else float(kept.cost_usd))
            print(f"## {at}  {kept.model}  {tokens}, {cost}  conversation {kept.conversation}")
            print(f"> {kept.prompt[:_MAX_PROMPT]}{'...' if len(kept.prompt) > _MAX_PROMPT else ''}\n\n{kept.answer}\n")


@app.command
def on() -> None:
    """Keep questions and answers from now on, in a file that only you can read."""
    print(f"questions and answers are kept in {log_file.turn_on()}")


@app.command
def off() -> None:
    """Remove what was kept, and keep nothing from now on."""
    log_file.remove()
    print("the log is removed, and nothing is kept")
