"""A function's signature and docstring as a pydantic model, which validates the arguments that a language model sends."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, create_model
from pydantic.fields import FieldInfo

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.schemas.json_schema import strict_schema


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter: its name in Python, and its default.

    ``default`` None: it has none, or Python's own applies when the argument is left out. A default that is written with
    ``Field`` has to be passed, since Python sees the ``Field`` itself.
    """

    name: str
    has_default: bool
    default: Callable[[], Any] | None


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """A function's parameters as a pydantic model, and its description.

    The model's fields are ``arg_0``, ``arg_1``, ... with the parameters' names (or the aliases of their ``Field``) as
    aliases, since a parameter may have the name of an attribute of pydantic models.
    """

    model: type[BaseModel]
    parameters: tuple[Parameter, ...]
    description: str

    @classmethod
    def of(cls, function: Callable[..., Any], name: str) -> ToolSignature:
        """Read ``function``; raises SchemaError, naming the parameter, for what a model could not give."""
        target = definition_of(function)
        documented = _read_docstring(target)
        about = {parameter.arg_name: parameter.description for parameter in documented.params}
        hints = _hints(target, name)
        fields: dict[str, tuple[Any, FieldInfo]] = {}
        parameters: list[Parameter] = []
        for parameter in _free_parameters(function, name):
            field, made = _field(parameter, hints, about.get(parameter.name), name)
            fields[f"arg_{len(parameters)}"] = field
            parameters.append(made)
        texts = (documented.short_description, documented.long_description)
        given: dict[str, Any] = dict(fields)
        try:
            model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), **given)
        except (PydanticUserError, NameError, TypeError, ImportError) as error:
            raise SchemaError(f"A parameter of {name!r} cannot be validated: {error}") from error
        return cls(model, tuple(parameters), "\n\n".join(text for text in texts if text))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def definition(self, name: str, *, strict: bool) -> dict[str, Any]:
        """Return the entry of ``tools=``; raises SchemaError if strict schemas cannot express it."""
        schema = strict_schema(self.model, f"The signature of {name!r}", is_strict=strict)
        function = {"name": name, "description": self.description, "parameters": schema, "strict": strict}
        return {"type": "function", "function": function}

    def arguments(self, text: str) -> dict[str, Any]:
        """Return keyword arguments; null is a parameter's default. Raises pydantic.ValidationError."""
        values = self.model.model_validate_json(text or "{}")
        given: dict[str, Any] = {}
        for index, parameter in enumerate(self.parameters):
            value = getattr(values, f"arg_{index}")
            if value is not None or not parameter.has_default:
                given[parameter.name] = value
            elif parameter.default is not None:
                given[parameter.name] = parameter.default()
        return given


def definition_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return where ``function`` is defined: behind ``functools.partial``, or the ``__call__`` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__


def _read_docstring(target: Callable[..., Any]) -> docstring_parser.Docstring:
    """Parse the docstring; one that cannot be parsed is a description as a whole."""
    text = inspect.getdoc(target) or ""
    first, _, rest = text.partition("\n")
    is_section = first.endswith(":") and bool(rest)
    if is_section:
        # The parser takes a first line for the summary, and ``getdoc`` takes away the indentation below it.
        rest = rest if rest[0].isspace() else textwrap.indent(rest, "    ")
        text = f"Summary.\n\n{first}\n{rest}"
    try:
        documented = docstring_parser.parse(text)
    except docstring_parser.ParseError:
        documented = docstring_parser.Docstring()
        documented.short_description = text
    if is_section and documented.params:
        documented.short_description = None
    return documented


def _hints(target: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise SchemaError(
            f"An annotation of {name!r} cannot be read: {error}", hint="define its type at the top of the module"
        ) from error


def _free_parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """Return the parameters that are still to be given: what a ``partial`` has bound is not the model's to choose."""
    is_partial = isinstance(function, functools.partial)
    bound: Mapping[str, Any] = cast("functools.partial[Any]", function).keywords if is_partial else {}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise SchemaError(f"The signature of {name!r} cannot be read: {error}") from error
    return [parameter for parameter in parameters if parameter.name not in bound]


def _field(
    parameter: inspect.Parameter, hints: Mapping[str, Any], about: str | None, name: str
) -> tuple[tuple[Any, FieldInfo], Parameter]:
    if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
        raise SchemaError(
            f"{name!r} takes {parameter.kind.description} parameters ({parameter}), which a model cannot give by name",
            hint="give it named parameters only",
        )
    if parameter.name not in hints:
        raise SchemaError(f"The parameter {parameter.name!r} of {name!r} has no annotation")
    hint, has_own_default = hints[parameter.name], parameter.default is not parameter.empty
    info = (
        FieldInfo.from_annotated_attribute(hint, parameter.default)
        if has_own_default
        else FieldInfo.from_annotation(hint)
    )
    if info.default_factory_takes_validated_data:
        raise SchemaError(f"The default of {parameter.name!r} of {name!r} depends on other parameters")
    annotation = _annotation(info)
    texts = [note for note in info.metadata if isinstance(note, str)]
    description = info.description or " ".join(texts) or about
    default: Any = ...
    if not info.is_required():
        annotation, default = annotation | None, None
        description = _with_default(description, info)
    is_of_field = isinstance(parameter.default, FieldInfo) or not has_own_default
    made = Parameter(
        parameter.name,
        has_default=not info.is_required(),
        default=functools.partial(info.get_default, call_default_factory=True) if is_of_field else None,
    )
    field = Field(
        default,
        alias=info.alias or parameter.name,
        description=description,
        examples=info.examples,
        json_schema_extra=info.json_schema_extra,
    )
    return (annotation, field), made


def _annotation(info: FieldInfo) -> Any:
    """Return the type with its constraints; texts describe it (``Annotated[str, "a city"]``) and are read elsewhere."""
    annotation: Any = info.annotation
    for note in info.metadata:
        if not isinstance(note, str):
            annotation = Annotated[annotation, note]
    if info.discriminator is not None:
        annotation = Annotated[annotation, Field(discriminator=info.discriminator)]
    return annotation


def _with_default(description: str | None, info: FieldInfo) -> str | None:
    if info.default_factory is None and info.default is None:
        return description
    meaning = repr(info.default) if info.default_factory is None else "the default"
    return f"{(description or '').rstrip('.')}{'. ' if description else ''}Null means {meaning}."
