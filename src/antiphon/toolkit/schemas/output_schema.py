"""The type of an answer: the schema that is sent, and the reading of what comes back."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, PydanticUserError, RootModel, TypeAdapter, create_model
from pydantic_core import from_json

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.schemas.json_schema import strict_schema

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")


@dataclass(frozen=True, slots=True)
class OutputSchema(Generic[T]):
    """A type that an answer is validated against.

    The API requires an object at the root, so any type but a pydantic model with fields is wrapped as ``{"value": ...}``.
    """

    name: str
    schema: dict[str, Any]
    adapter: TypeAdapter[T]
    is_wrapped: bool

    @property
    def response_format(self) -> dict[str, Any]:
        described = {"name": self.name, "schema": self.schema, "strict": True}
        return {"type": "json_schema", "json_schema": described}

    def read(self, text: str) -> T:
        """Return the validated value; raises ValueError for what is not JSON, pydantic.ValidationError otherwise."""
        return self.adapter.validate_json(json.dumps(self._unwrap(from_json(text))))

    def partial(self, text: str) -> Any:
        """Return what the beginning of an answer says so far, not validated; None while that is nothing, or not JSON."""
        if not text.strip():
            return None
        try:
            return self._unwrap(from_json(text, allow_partial="trailing-strings"))
        except ValueError:
            # Whether the whole answer is JSON is for its own validation to say.
            return None

    def _unwrap(self, value: Any) -> Any:
        return cast("dict[str, Any]", value).get("value") if self.is_wrapped and isinstance(value, dict) else value


def describe_output(output: TypeForm[T]) -> OutputSchema[T]:
    """Describe ``output``: a pydantic model, a dataclass, a TypedDict, ``list[...]``, a Literal, ``int``, ...

    Raises SchemaError for what a strict schema cannot express.
    """
    try:
        return cast("OutputSchema[T]", _described(output))
    except TypeError:
        # A type whose annotations cannot be hashed; it is described anew each time.
        return cast("OutputSchema[T]", _described.__wrapped__(output))


@functools.lru_cache(maxsize=256)
def _described(output: Any) -> OutputSchema[Any]:
    name = _NOT_IN_NAMES.sub("_", getattr(output, "__name__", "Answer"))[:64]
    model_class = _fields_model(output)
    try:
        model = model_class or create_model(name, __config__=ConfigDict(extra="forbid"), value=(output, ...))
    except PydanticUserError as error:
        raise SchemaError(f"The type {name!r} cannot be validated: {error.message}") from error
    return OutputSchema(name, strict_schema(model, f"The type {name!r}"), TypeAdapter(output), model_class is None)


def _fields_model(output: object) -> type[BaseModel] | None:
    """Return ``output`` if it is a pydantic model whose schema is an object; a RootModel may be anything."""
    is_model = isinstance(output, type) and issubclass(output, BaseModel) and not issubclass(output, RootModel)
    return cast("type[BaseModel]", output) if is_model else None
