"""``antiphon tokens``: how many tokens is this?"""

from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError

from antiphon.cli.connection import Server, text_of
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.tokens.count import count_tokens


def tokens(
    *text: Annotated[str, Parameter(help="The text; without it, what is piped in.")],
    model: Annotated[str, Parameter(help="Model whose tokenizer counts.")] = "gpt-4o-mini",
    messages: Annotated[bool, Parameter(negative="", help="The text is a JSON list of chat messages.")] = False,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON object.")] = False,
    server: Server | None = None,
) -> int:
    """Count the tokens of a text or of chat messages, and say how exact the count is.

    For example ``cat prompt.txt | antiphon tokens``
    """
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
        return TypeAdapter(list[dict[str, Any]]).validate_json(text)
    except ValidationError as error:
        hint = 'for example: [{"role": "user", "content": "Hello"}]'
        raise AntiphonError(
            f"the text is not a JSON list of messages: {error.errors()[0]['msg']}", hint=hint
        ) from error
