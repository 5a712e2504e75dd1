"""``antiphon tokens``: how many tokens is this?"""

import json as jsonlib
from typing import Annotated, Any

from cyclopts import App, Parameter

from antiphon.cli.connection import Server, text_of
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.tokens import count_tokens

app = App(name="tokens", help="Count the tokens of a text or of chat messages, and say how exact the count is.")


@app.default
def tokens(
    *text: str,
    model: Annotated[str, Parameter(help="Model whose tokenizer counts.")] = "gpt-4o-mini",
    messages: Annotated[bool, Parameter(negative="", help="The text is a JSON list of chat messages.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object.")] = False,
    server: Server | None = None,
) -> int:
    """Count the arguments, or what is piped in: ``cat prompt.txt | antiphon tokens``."""
    source = text_of(text)
    content: str | list[dict[str, Any]] = _messages(source) if messages else source
    with (server or Server()).client() as client:
        count = count_tokens(content, model=model, client=client)
    if json:
        print_json(count)
    else:
        print(count)
    return 0


def _messages(text: str) -> list[dict[str, Any]]:
    try:
        return list(jsonlib.loads(text))
    except (ValueError, TypeError) as error:
        hint = 'for example: [{"role": "user", "content": "Hello"}]'
        raise AntiphonError(f"the text is no JSON list of messages: {error}", hint=hint) from error
