"""Specs that hold other specs: lists, objects, and one of several. See ``fields.py`` for what a spec is."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from antiphon.protocol import problems
from antiphon.protocol.client_fields import ClientField
from antiphon.protocol.errors import ApiError
from antiphon.protocol.fields import Enumeration, Schema, Spec, check, schema_of

_ALIKE = 0.75
_LONGEST_MISSPELT = 64
"""Characters of a name that is compared with the known ones."""


@dataclass(frozen=True)
class Array(Spec):
    """A list of like things; ``plural`` names them in error messages."""

    item: Spec
    plural: str
    min_length: int = 0
    max_length: int | None = None

    @property
    def noun(self) -> str:
        return f"array of {self.plural}"

    def is_type(self, value: Any) -> bool:
        return type(value) is list

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if len(value) < self.min_length:
            raise problems.wrong_length(path, "array", self.min_length, len(value), above=False)
        if self.max_length is not None and len(value) > self.max_length:
            raise problems.wrong_length(path, "array", self.max_length, len(value), above=True)
        for index, item in enumerate(value):
            check(self.item, item, f"{path}[{index}]")

    def refuse(self, value: Any, path: str) -> None:
        for index, item in enumerate(value):
            if item is not None:
                self.item.refuse(item, f"{path}[{index}]")

    def schema(self) -> Schema:
        bounds = {"minItems": self.min_length or None, "maxItems": self.max_length}
        return {"type": "array", "items": schema_of(self.item)} | {k: v for k, v in bounds.items() if v is not None}


@dataclass(frozen=True)
class Object(Spec):
    """Named fields, checked in the order of this table: first all required, then unknown, then each."""

    fields: dict[str, Spec] = field(default_factory=dict[str, Spec])
    required: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        return "object"

    def is_type(self, value: Any) -> bool:
        return type(value) is dict

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        # Nearly every object is right, and then the order of looking does not matter: only what was given is looked at.
        try:
            is_right = self._is_right(value, path)
        except ApiError:
            is_right = False
        if not is_right:
            self._check_in_order(value, f"{path}." if path else "")

    def _is_right(self, value: dict[str, Any], path: str) -> bool:
        for name, item in value.items():
            spec = self.fields.get(name)
            if spec is None:
                return False
            if not (item is None and spec.nullable):
                spec.check(item, f"{path}.{name}" if path else name)
        return all(name in value for name in self.required)

    def _check_in_order(self, value: dict[str, Any], prefix: str) -> None:
        for name in self.required:
            if name not in value:
                raise problems.missing(prefix + name)
        for name in value:
            if name not in self.fields:
                raise problems.unknown(prefix + name, self._alike(name, value))
        for name, spec in self.fields.items():
            if name in value:
                check(spec, value[name], prefix + name)

    def _alike(self, name: str, value: dict[str, Any]) -> list[str]:
        """Return the fields that the caller may have meant and has not given."""
        if len(name) > _LONGEST_MISSPELT:
            return []
        absent = [
            field for field, spec in self.fields.items() if field not in value and not isinstance(spec, ClientField)
        ]
        return sorted(get_close_matches(name, absent, cutoff=_ALIKE))

    def refuse(self, value: Any, path: str) -> None:
        prefix = f"{path}." if path else ""
        for name, item in value.items():
            spec = self.fields[name]
            if spec.can_refuse and item is not None:
                spec.refuse(item, prefix + name)

    def schema(self) -> Schema:
        shown = {name: schema_of(spec) for name, spec in self.fields.items() if not isinstance(spec, Unsupported)}
        schema: Schema = {"type": "object", "properties": shown, "additionalProperties": False}
        return schema | ({"required": list(self.required)} if self.required else {})


@dataclass(frozen=True, kw_only=True)
class JsonObject(Spec):
    """An object that this module does not look into: a JSON Schema, say."""

    @property
    def noun(self) -> str:
        return "object"

    def is_type(self, value: Any) -> bool:
        return type(value) is dict

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": True}


@dataclass(frozen=True)
class Mapping(Spec):
    """An object with free names and like values."""

    value: Spec
    max_properties: int | None = None
    max_name_length: int | None = None
    called: str = "object"

    @property
    def noun(self) -> str:
        return self.called

    def is_type(self, value: Any) -> bool:
        return type(value) is dict

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if self.max_properties is not None and len(value) > self.max_properties:
            raise problems.too_many_properties(path, self.max_properties, len(value))
        for name, item in value.items():
            if self.max_name_length is not None and len(name) > self.max_name_length:
                raise problems.long_property_name(path, self.max_name_length, name)
            check(self.value, item, f"{path}.{name}")

    def schema(self) -> Schema:
        schema: Schema = {"type": "object", "additionalProperties": schema_of(self.value)}
        return schema | ({"maxProperties": self.max_properties} if self.max_properties is not None else {})


@dataclass(frozen=True)
class Tagged(Spec):
    """An object whose field ``tag`` says which of several it is."""

    tag: str
    variants: dict[str, Object]

    @property
    def noun(self) -> str:
        return "object"

    def is_type(self, value: Any) -> bool:
        return type(value) is dict

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if self.tag not in value:
            raise problems.missing(f"{path}.{self.tag}")
        tag = value[self.tag]
        if type(tag) is not str or tag not in self.variants:
            Enumeration(tuple(self.variants)).check(tag, f"{path}.{self.tag}")
        self.variants[tag].check(value, path)

    def refuse(self, value: Any, path: str) -> None:
        self.variants[value[self.tag]].refuse(value, path)

    def schema(self) -> Schema:
        return {"oneOf": [self._variant(tag) for tag, spec in self.variants.items() if not _is_refused(spec, self.tag)]}

    def _variant(self, tag: str) -> Schema:
        schema = self.variants[tag].schema()
        schema["properties"] |= {self.tag: {"type": "string", "enum": [tag]}}
        return schema


def _is_refused(spec: Object, tag: str) -> bool:
    return isinstance(spec.fields[tag], Unsupported)


@dataclass(frozen=True)
class Either(Spec):
    """One of several specs, chosen by JSON type; ``Enumeration`` goes before ``String``."""

    specs: tuple[Spec, ...]

    @property
    def noun(self) -> str:
        return f"{' or '.join(spec.noun for spec in self.specs)}"

    @property
    def expected(self) -> str:
        rest = " or ".join(spec.noun for spec in self.specs[1:])
        return f"one of {self.specs[0].expected} or {rest}"

    def _pick(self, value: Any) -> Spec | None:
        for spec in self.specs:
            if spec.is_type(value):
                return spec
        return None

    def is_type(self, value: Any) -> bool:
        return self._pick(value) is not None

    def check(self, value: Any, path: str) -> None:
        spec = self._pick(value)
        if spec is None:
            raise problems.wrong_type(path, self.expected, value)
        spec.check(value, path)

    def refuse(self, value: Any, path: str) -> None:
        spec = self._pick(value)
        assert spec is not None
        spec.refuse(value, path)

    def schema(self) -> Schema:
        return {"anyOf": [schema_of(spec) for spec in self.specs]}


@dataclass(frozen=True)
class Unsupported(Spec):
    """Checked like ``inner``, then refused: the parameter exists and this server cannot honour it.

    ``message`` replaces the usual words.
    """

    inner: Spec
    message: str = ""

    @property
    def noun(self) -> str:
        return self.inner.noun

    @property
    def expected(self) -> str:
        return self.inner.expected

    def is_type(self, value: Any) -> bool:
        return self.inner.is_type(value)

    def check(self, value: Any, path: str) -> None:
        self.inner.check(value, path)

    def refuse(self, value: Any, path: str) -> None:  # noqa: ARG002 - whatever it is
        if self.message:
            raise problems.bad_request(self.message, path)
        raise problems.unsupported_parameter(path)
