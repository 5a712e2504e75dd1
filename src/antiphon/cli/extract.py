"""``antiphon extract``: text in, JSON of a given shape out."""

from typing import Annotated, Any

from cyclopts import Parameter

from antiphon.cli.connection import Server, text_of
from antiphon.cli.fields import model_of
from antiphon.cli.output import print_json
from antiphon.toolkit.structured.extract import extract as extract_object
from antiphon.toolkit.structured.extract import extract_many


def extract(
    *text: Annotated[str, Parameter(help="The text; without it, what is piped in.")],
    field: Annotated[
        list[str],
        Parameter(
            help="NAME or NAME:TYPE; repeat it for each field. Add ? for a field that may be absent.", negative=""
        ),
    ],
    many: Annotated[bool, Parameter(negative="", help="Find every such object and print one per line.")] = False,
    model: Annotated[str, Parameter(help="Model to ask.")] = "gpt-4o-mini",
    server: Server | None = None,
) -> int:
    """Read an object of the fields you name from a text, and print it as JSON.

    For example ``cat review.txt | antiphon extract --field product --field stars:int --field pros:list[str]``

    The server keeps the model to this shape while it writes; an answer of another one is an error.
    """
    shape: type[Any] = model_of(field)
    source = text_of(text)
    with (server or Server()).client() as client:
        if many:
            found: list[Any] = extract_many(shape, source, client=client, model=model).parsed
        else:
            found = [extract_object(shape, source, client=client, model=model).parsed]
    for item in found:
        print_json(item.model_dump(by_alias=True))
    return 0
