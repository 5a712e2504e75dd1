"""JSON schemas of pydantic models, in the subset of JSON Schema that the API's strict mode accepts.

Source: "Supported schemas" in OpenAI's Structured Outputs guide. A schema is walked by position: a property may have the
name of a keyword. What strict mode cannot express is loosened where pydantic's own validation still enforces it (unknown
formats, unique items, the order of a tuple's types), and refused by place and name where nothing would.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pydantic import BaseModel, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import DecimalSchema

from antiphon.toolkit.errors import SchemaError

Json = dict[str, Any]

# Pydantic's titles repeat the names, which costs tokens in every request. A default is not permitted in strict mode.
_DROPPED = {"title", "default", "discriminator", "uniqueItems", "contentMediaType", "contentEncoding", "contentSchema"}
_PERMITTED = {
    *("$defs", "$ref", "description", "examples", "deprecated", "readOnly", "writeOnly"),
    *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"),
    *("pattern", "format", "minLength", "maxLength", "minItems", "maxItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Assertions that pydantic makes only from ``json_schema_extra``, so that no validation of its own backs them.
_ASSERTIONS = {
    *("not", "if", "then", "else", "contains", "minContains", "maxContains", "dependentRequired", "dependentSchemas"),
    *("unevaluatedProperties", "unevaluatedItems", "patternProperties", "propertyNames", "minProperties"),
    "maxProperties",
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_LOOKAROUND = ("(?=", "(?!", "(?<")
_DECIMAL = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$"
_TYPING = ("type", "anyOf", "$ref", "enum", "const")


def strict_schema(model: type[BaseModel], what: str, *, is_strict: bool = True) -> Json:
    """Return the schema of ``model`` with every property required, no further keys, no titles and no defaults.

    ``is_strict`` False keeps what only ordinary schemas can express, such as an object with free keys. Raises SchemaError,
    which names ``what`` and the place, for a type without a schema or one that strict mode cannot express.
    """
    try:
        made = model.model_json_schema(schema_generator=_Generator)
    except (PydanticUserError, TypeError, ValueError) as error:
        raise SchemaError(
            f"{what} has no JSON schema: {str(error).splitlines()[0]}",
            hint="give a pydantic model, a dataclass or another definite type, all of whose names are defined",
        ) from error
    return _Normaliser(made, what, is_strict=is_strict).root()


class _Generator(GenerateJsonSchema):
    """Pydantic's own, except that a decimal number in a text is a number: its pattern looks ahead, or there is none."""

    def decimal_schema(self, schema: DecimalSchema) -> Json:
        made = super().decimal_schema(schema)
        for option in made.get("anyOf", ()):
            if option.get("type") == "string":
                option["pattern"] = _DECIMAL
        return made


class _Normaliser:
    """One walk over a schema; makes a new one."""

    def __init__(self, schema: Json, what: str, *, is_strict: bool) -> None:
        self._schema = schema
        self._definitions: Json = schema.get("$defs", {})
        self._what = what
        self._is_strict = is_strict

    def root(self) -> Json:
        # A recursive model is a reference to its own definition; the API wants the object itself at the root.
        whole = {key: value for key, value in self._schema.items() if key != "$defs"}
        made = self._node(self._resolved(whole) if "$ref" in whole else whole, "")
        if self._definitions:
            made["$defs"] = {name: self._node(node, f"/$defs/{name}") for name, node in self._definitions.items()}
        return made

    def _node(self, given: Json, where: str) -> Json:
        node = self._resolved(given) if "$ref" in given and len(given) > 1 else given
        node = self._with_one_of(node, where)
        made = {key: value for key, value in node.items() if key not in _DROPPED}
        if self._is_strict:
            self._require_expressible(made, where)
            made = {key: value for key, value in made.items() if key in _PERMITTED or key == "prefixItems"}
            _loosen_text(made)
            self._array(made, where)
        if "properties" in made or made.get("type") == "object":
            self._object(made, where)
        if "items" in made and isinstance(made["items"], dict):
            made["items"] = self._node(cast("Json", made["items"]), f"{where}/items")
        if "prefixItems" in made:
            made["prefixItems"] = [self._node(i, f"{where}/prefixItems/{n}") for n, i in enumerate(made["prefixItems"])]
        if "anyOf" in made:
            made["anyOf"] = [self._node(option, f"{where}/anyOf/{n}") for n, option in enumerate(made["anyOf"])]
        if "additionalProperties" in made and isinstance(made["additionalProperties"], dict):
            made["additionalProperties"] = self._node(
                cast("Json", made["additionalProperties"]), f"{where}/additionalProperties"
            )
        return made

    def _resolved(self, node: Json) -> Json:
        """Put a definition in place of the reference to it; what is written with the reference has precedence."""
        name = str(node["$ref"]).removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
        definition = cast("Json", self._definitions.get(name, {}))
        own = {key: value for key, value in node.items() if key != "$ref"}
        merged = {**definition, **own}
        return self._resolved(merged) if "$ref" in merged else merged

    def _with_one_of(self, node: Json, where: str) -> Json:
        """Write ``oneOf`` as ``anyOf`` (pydantic makes it of unions with a discriminator), and an ``allOf`` of one plainly."""
        if not self._is_strict:
            return node
        if "oneOf" in node:
            rest = {key: value for key, value in node.items() if key != "oneOf"}
            node = {**rest, "anyOf": [*rest.get("anyOf", ()), *node["oneOf"]]}
        if "allOf" in node:
            parts = cast("list[Json]", node["allOf"])
            if len(parts) != 1:
                self._refuse(where, "needs several schemas at once ('allOf')")
            node = {**parts[0], **{key: value for key, value in node.items() if key != "allOf"}}
            node = self._resolved(node) if "$ref" in node and len(node) > 1 else node
        return node

    def _require_expressible(self, node: Json, where: str) -> None:
        if node.get("additionalProperties", False) is not False:
            self._refuse(where, "allows free keys")
        if found := next((key for key in node if key in _ASSERTIONS), None):
            self._refuse(where, f"uses {found!r}")
        if not any(key in node for key in _TYPING):
            self._refuse(where, "allows any type")

    def _array(self, node: Json, where: str) -> None:
        if node.get("type") != "array":
            node.pop("prefixItems", None)
            return
        prefix = cast("list[Json]", node.pop("prefixItems", []))
        if prefix:
            # A tuple: the length is kept and each item has one of the types; pydantic checks which goes where.
            kinds = [part for index, part in enumerate(prefix) if part not in prefix[:index]]
            node["items"] = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            node.setdefault("minItems", len(prefix))
            node.setdefault("maxItems", len(prefix))
            if len(kinds) > 1:
                _describe(node, f"In this order: {', '.join(_kind(part) for part in prefix)}.")
        elif node.get("items", True) is True:
            if node.get("maxItems") != 0:
                self._refuse(f"{where}/items", "allows any type")
            node["items"] = {"type": "null"}

    def _object(self, node: Json, where: str) -> None:
        properties: Mapping[str, Any] = node.get("properties", {})
        if not properties and node.get("additionalProperties", False) is not False:
            return
        node.setdefault("additionalProperties", False)
        node["properties"] = {name: self._node(part, f"{where}/properties/{name}") for name, part in properties.items()}
        node["required"] = list(properties)

    def _refuse(self, where: str, how: str) -> None:
        raise SchemaError(
            f"{self._what} {how} at {where or '/'!r}, which strict schemas cannot express",
            hint="give it a pydantic model, a dataclass or another definite type; a tool may be @tool(strict=False)",
        )


def _loosen_text(node: Json) -> None:
    """Take out formats and patterns that strict mode refuses; the description names the format for the model."""
    if "format" in node and node["format"] not in _FORMATS:
        _describe(node, f"Format: {node.pop('format')}.")
    if any(sign in str(node.get("pattern", "")) for sign in _LOOKAROUND):
        del node["pattern"]


def _describe(node: Json, sentence: str) -> None:
    given = str(node.get("description", "")).strip()
    node["description"] = f"{given} {sentence}".strip()


def _kind(node: Json) -> str:
    return str(node.get("type") or node.get("$ref", "value").rsplit("/", 1)[-1])
