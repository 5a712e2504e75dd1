"""What a JSON value may be, declared: the tables of the endpoints are made of these.

A spec answers three questions. ``is_type``: does the value have this JSON type? ``check``: is it valid, else which of
OpenAI's errors? ``refuse``: valid as it is, can this server honour it? All values are checked before the first is
refused, because OpenAI checks last what a model supports. ``schema`` is the same spec as JSON Schema, for the OpenAPI
document. Specs that contain others are in ``shapes.py``. ``path`` is the value's place as OpenAI writes it: ``messages[0].content[1].type``.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from antiphon.protocol import problems

Schema = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Anything at all. ``nullable``: null means that the parameter is absent.

    ``can_refuse`` is False where ``refuse`` never does, so that it need not be asked.
    """

    nullable: bool = False
    note: str = ""
    can_refuse: ClassVar[bool] = True

    @property
    def noun(self) -> str:
        """What error messages call it, without article."""
        return "value"

    @property
    def expected(self) -> str:
        """What error messages call it, with article."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    def is_type(self, value: Any) -> bool:  # noqa: ARG002 - anything will do
        return True

    def check(self, value: Any, path: str) -> None:
        """Raise ``ApiError`` 400 unless the value is valid. Null is checked by the caller."""
        if not self.is_type(value):
            raise problems.wrong_type(path, self.expected, value)

    def refuse(self, value: Any, path: str) -> None:
        """Raise ``ApiError`` 400 when the (valid) value asks for what this server cannot do."""

    def schema(self) -> Schema:
        return {}


def check(spec: Spec, value: Any, path: str) -> None:
    """Check a value that may be null."""
    if not (value is None and spec.nullable):
        spec.check(value, path)


def schema_of(spec: Spec) -> Schema:
    """Return the JSON Schema, null included where it is allowed."""
    schema = spec.schema()
    if spec.nullable:
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema | ({"description": spec.note} if spec.note else {})


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # In Python ``$`` also matches before a newline at the end; in JSON Schema it does not.
    return re.compile(pattern.replace("$", r"\Z"))


@dataclass(frozen=True, kw_only=True)
class String(Spec):
    """A string; ``pattern`` is searched, anchors are its own."""

    can_refuse: ClassVar[bool] = False

    min_length: int = 0
    max_length: int | None = None
    pattern: str | None = None

    @property
    def noun(self) -> str:
        return "string"

    def is_type(self, value: Any) -> bool:
        return type(value) is str

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if len(value) < self.min_length:
            raise problems.wrong_length(path, "string", self.min_length, len(value), above=False)
        if self.max_length is not None and len(value) > self.max_length:
            raise problems.wrong_length(path, "string", self.max_length, len(value), above=True)
        if self.pattern is not None and not _compiled(self.pattern).search(value):
            raise problems.bad_pattern(path, self.pattern)

    def schema(self) -> Schema:
        bounds = {"minLength": self.min_length or None, "maxLength": self.max_length, "pattern": self.pattern}
        return {"type": "string"} | {key: bound for key, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, kw_only=True)
class Flag(Spec):
    """A boolean."""

    can_refuse: ClassVar[bool] = False

    @property
    def noun(self) -> str:
        return "boolean"

    def is_type(self, value: Any) -> bool:
        return type(value) is bool

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, kw_only=True)
class Number(Spec):
    """A number, whole or not. JSON has no NaN and no infinity."""

    can_refuse: ClassVar[bool] = False

    minimum: float | None = None
    maximum: float | None = None
    _kind: ClassVar[Literal["decimal", "integer"]] = "decimal"

    @property
    def noun(self) -> str:
        return "decimal"

    def is_type(self, value: Any) -> bool:
        return type(value) in {int, float}

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if self.minimum is not None and value < self.minimum:
            raise problems.out_of_range(path, self._kind, self.minimum, value, above=False)
        if self.maximum is not None and value > self.maximum:
            raise problems.out_of_range(path, self._kind, self.maximum, value, above=True)

    def schema(self) -> Schema:
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {"type": "number"} | {key: bound for key, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, kw_only=True)
class Integer(Number):
    """A whole number written as one: ``1.0`` is a decimal and ``true`` is a boolean."""

    _kind: ClassVar[Literal["decimal", "integer"]] = "integer"

    @property
    def noun(self) -> str:
        return "integer"

    def is_type(self, value: Any) -> bool:
        return type(value) is int

    def schema(self) -> Schema:
        return super().schema() | {"type": "integer"}


@dataclass(frozen=True)
class Enumeration(Spec):
    """One string of a closed set; ``supported`` are those that this server honours (default: all)."""

    values: tuple[str, ...]
    supported: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        return f"one of {problems.listed(self.values, 'or')}"

    @property
    def expected(self) -> str:
        return self.noun

    def is_type(self, value: Any) -> bool:
        return type(value) is str

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if value not in self.values:
            raise problems.not_in_enum(path, value, self.values)

    def refuse(self, value: Any, path: str) -> None:
        if self.supported and value not in self.supported:
            raise problems.unsupported_value(path, f"'{value}'", self.supported)

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.supported or self.values)}
