"""A function's signature and docstring, read into a model that validates what a language model sends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, create_model
from pydantic.fields import FieldInfo

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.schemas.json_schema import strict_schema


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """A function's parameters as a pydantic model, its description, and which parameters have a default.

    The model's fields are ``arg_0``, ``arg_1``, ... with the parameters' names as aliases, since a parameter may be
    called what a pydantic model's own attributes are called.
    """

    model: type[BaseModel]
    names: tuple[str, ...]
    description: str
    with_default: frozenset[str]

    @classmethod
    def of(cls, function: Callable[..., Any], name: str) -> ToolSignature:
        """Read ``function``; raises SchemaError for parameters that a model could not give."""
        documented = docstring_parser.parse(inspect.getdoc(function) or "")
        about = {parameter.arg_name: parameter.description for parameter in documented.params}
        try:
            hints = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise SchemaError(
                f"An annotation of {name!r} cannot be read: {error}", hint="define its type at the top of the module"
            ) from error
        parameters = inspect.signature(function).parameters
        fields: dict[str, Any] = {
            f"arg_{index}": _field(parameter, hints, about.get(parameter.name), name)
            for index, parameter in enumerate(parameters.values())
        }
        texts = (documented.short_description, documented.long_description)
        try:
            model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        except PydanticUserError as error:
            raise SchemaError(f"A parameter of {name!r} cannot be validated: {error}") from error
        with_default = frozenset(key for key, value in parameters.items() if value.default is not value.empty)
        return cls(model, tuple(parameters), "\n\n".join(text for text in texts if text), with_default)

    def definition(self, name: str, *, strict: bool) -> dict[str, Any]:
        """Return the entry of ``tools=``; raises SchemaError if strict schemas cannot say it."""
        schema = strict_schema(self.model, f"The signature of {name!r}", allow_free_keys=not strict)
        function = {"name": name, "description": self.description, "parameters": schema, "strict": strict}
        return {"type": "function", "function": function}

    def arguments(self, text: str) -> dict[str, Any]:
        """Return keyword arguments; null stands for a parameter's default. Raises pydantic.ValidationError."""
        values = self.model.model_validate_json(text or "{}")
        given = {name: getattr(values, f"arg_{index}") for index, name in enumerate(self.names)}
        return {name: value for name, value in given.items() if not (name in self.with_default and value is None)}


def _field(
    parameter: inspect.Parameter, hints: Mapping[str, Any], about: str | None, name: str
) -> tuple[Any, FieldInfo]:
    if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
        raise SchemaError(
            f"{name!r} takes {parameter.kind.description} parameters ({parameter}), which a model cannot give by name",
            hint="give it named parameters only",
        )
    if parameter.name not in hints:
        raise SchemaError(f"The parameter {parameter.name!r} of {name!r} has no annotation")
    annotation, description = _split_annotation(hints[parameter.name])
    default: Any = ...
    if parameter.default is not parameter.empty:
        annotation, default = annotation | None, None
        description = _with_default(description or about, parameter.default)
    return annotation, Field(default, alias=parameter.name, description=description or about)


def _split_annotation(annotation: Any) -> tuple[Any, str | None]:
    # Annotated[str, "a city"] describes; Annotated[int, Field(ge=0)] is pydantic's own.
    if get_origin(annotation) is not Annotated:
        return annotation, None
    inner, *notes = get_args(annotation)
    texts = [note for note in notes if isinstance(note, str)]
    for note in notes:
        if isinstance(note, FieldInfo) and note.description:
            texts.append(note.description)
        if not isinstance(note, str):
            inner = Annotated[inner, note]
    return inner, " ".join(texts) or None


def _with_default(description: str | None, default: Any) -> str | None:
    if default is None:
        return description
    return f"{(description or '').rstrip('.')}{'. ' if description else ''}Null means {default!r}."
