"""``antiphon extract``: text in, JSON of a given shape out."""

from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field, create_model

from antiphon.cli.connection import Server, text_of
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError
from antiphon.toolkit.structured.extract import extract as extract_object
from antiphon.toolkit.structured.extract import extract_many

_TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list[str]": list[str],
    "list[int]": list[int],
    "list[float]": list[float],
}


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

    The model cannot answer with anything else: the shape is enforced while it generates.
    """
    shape: type[Any] = create_model("Extracted", **_fields(field))
    source = text_of(text)
    with (server or Server()).client() as client:
        if many:
            found: list[Any] = extract_many(shape, source, client=client, model=model).parsed
        else:
            found = [extract_object(shape, source, client=client, model=model).parsed]
    for item in found:
        print_json(item.model_dump(by_alias=True))
    return 0


def _fields(specs: list[str]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for name, kind in map(_field, specs):
        if name in kinds:
            raise AntiphonError(f"the field {name!r} is named twice", hint="give each field a name of its own")
        kinds[name] = kind
    # By alias, since names such as json and _id mean something else to a pydantic model.
    return {f"field_{number}": (kind, Field(alias=name)) for number, (name, kind) in enumerate(kinds.items())}


def _field(spec: str) -> tuple[str, Any]:
    """Return a field's name and its type."""
    name, _, kind = spec.partition(":")
    is_optional = spec.endswith("?")
    kind = kind.removesuffix("?") or "str"
    name = name.removesuffix("?")
    if not name.isidentifier() or kind not in _TYPES:
        raise AntiphonError(
            f"cannot read the field {spec!r}", hint=f"write NAME:TYPE with a type of {', '.join(_TYPES)}"
        )
    return name, _TYPES[kind] | None if is_optional else _TYPES[kind]
