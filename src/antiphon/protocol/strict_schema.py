"""OpenAI's strict subset of JSON Schema, checked with OpenAI's errors.

Follows the "Supported schemas" section of the Structured Outputs guide: the root is an object, every property is
required, nothing additional is admitted, and keywords outside the subset are refused by name.
"""

from collections.abc import Callable
from typing import Any, cast

from antiphon.protocol import problems
from antiphon.protocol.chat import Tool
from antiphon.protocol.errors import ApiError
from antiphon.protocol.json_pointer import resolve_pointer

MAX_PROPERTIES = 5_000
MAX_LEVELS = 10
MAX_ENUM_VALUES = 1_000
MAX_NAME_CHARACTERS = 120_000

_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"}
_CORE = {"$schema", "$id", "$comment", "$ref", "$defs", "definitions"}
_SHAPE = {"type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"}
_BOUNDS = {"pattern", "format", "minLength", "maxLength", "minItems", "maxItems"}
_NUMERIC = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
KEYWORDS = frozenset(_ANNOTATIONS | _CORE | _SHAPE | _BOUNDS | _NUMERIC)
TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})

Context = tuple[str, ...]
Json = dict[str, Any]


def check_response_schema(name: str, schema: Json) -> None:
    """Raise ``ApiError`` 400 unless ``schema`` is of the strict subset."""
    _check(
        schema,
        lambda text: problems.bad_request(f"Invalid schema for response_format '{name}': {text}", "response_format"),
    )


def check_function_parameters(tool: Tool, path: str) -> None:
    """Raise ``ApiError`` 400 unless the tool's parameters describe an object, in the strict subset if it is strict."""
    if tool.parameters is None:
        return

    def fail(text: str) -> ApiError:
        message = f"Invalid schema for function '{tool.name}': {text}"
        return problems.bad_request(message, path, "invalid_function_parameters")

    if tool.strict:
        _check(tool.parameters, fail)
    else:
        _check_root(tool.parameters, fail)


Fail = Callable[[str], ApiError]


def _check(schema: Json, fail: Fail) -> None:
    _check_root(schema, fail)
    _StrictCheck(schema, fail).run()


def _check_root(schema: Json, fail: Fail) -> None:
    if schema.get("type") != "object":
        raise fail(f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'.")
    if any(keyword in schema for keyword in ("anyOf", "oneOf", "allOf", "enum", "not")):
        raise fail("schema must have type 'object' and not have 'oneOf'/'anyOf'/'allOf'/'enum'/'not' at the top level.")


class _StrictCheck:
    """One walk over a schema, counting what the subset limits. Does not follow references: they may be recursive."""

    def __init__(self, root: Json, fail: Fail) -> None:
        self.root = root
        self.fail = fail
        self.num_properties = 0
        self.num_enum_values = 0
        self.name_characters = 0
        self.levels = 0

    def run(self) -> None:
        self._schema(self.root, (), 0)
        totals = (
            (self.levels, MAX_LEVELS, "levels of nesting"),
            (self.num_properties, MAX_PROPERTIES, "properties in total"),
            (self.num_enum_values, MAX_ENUM_VALUES, "enum values in total"),
            (
                self.name_characters,
                MAX_NAME_CHARACTERS,
                "characters of property names, definition names and enum values",
            ),
        )
        for count, limit, what in totals:
            if count > limit:
                raise self.fail(f"{count} {what} exceeds limit of {limit}.")

    def _error(self, context: Context, text: str) -> ApiError:
        return self.fail(f"In context={context}, {text}")

    def _schema(self, schema: Any, context: Context, level: int) -> None:
        if not isinstance(schema, dict):
            raise self._error(context, f"expected a schema object, but got {problems.type_name(schema)}.")
        node = cast("Json", schema)
        for keyword in node:
            if keyword not in KEYWORDS:
                raise self._error(context, f"'{keyword}' is not permitted.")
        if not any(key in node for key in ("type", "$ref", "anyOf", "enum", "const")):
            raise self._error(context, "schema must have a 'type' key.")
        types = self._types(node, context)
        self._reference(node, context)
        self._values(node, context)
        if "array" in types and "items" not in node:
            raise self._error(context, "array schema missing items.")
        if "object" in types or "properties" in node:
            level += 1
            self.levels = max(self.levels, level)
            self._object(node, context, level)
        self._parts(node, context, level)

    def _parts(self, node: Json, context: Context, level: int) -> None:
        if "items" in node:
            self._schema(node["items"], (*context, "items"), level)
        for index, option in enumerate(self._list(node, "anyOf", context)):
            self._schema(option, (*context, "anyOf", str(index)), level)
        for key in ("$defs", "definitions"):
            for name, definition in self._dict(node, key, context).items():
                self.name_characters += len(name)
                self._schema(definition, (*context, key, name), 0)

    def _types(self, node: Json, context: Context) -> tuple[str, ...]:
        given = node.get("type")
        types: list[Any] = cast("list[Any]", given) if isinstance(given, list) else [given]
        for name in types if "type" in node else ():
            if name not in TYPES:
                raise self._error(context, f"{name!r} is not a valid type.")
        return tuple(types)

    def _object(self, node: Json, context: Context, level: int) -> None:
        properties = self._dict(node, "properties", context)
        self.num_properties += len(properties)
        self.name_characters += sum(map(len, properties))
        if node.get("additionalProperties") is not False:
            raise self._error(context, "'additionalProperties' is required to be supplied and to be false.")
        rule = "'required' is required to be supplied and to be an array including every key in properties."
        required = self._list(node, "required", context)
        for name in properties:
            if name not in required:
                raise self._error(context, f"{rule} Missing '{name}'.")
        for name in required:
            if not isinstance(name, str) or name not in properties:
                raise self._error(context, f"{rule} Extra required key '{name}' supplied.")
        for name, value in properties.items():
            self._schema(value, (*context, "properties", name), level)

    def _values(self, node: Json, context: Context) -> None:
        values = self._list(node, "enum", context)
        self.num_enum_values += len(values)
        texts = [value for value in (*values, node.get("const")) if isinstance(value, str)]
        self.name_characters += sum(map(len, texts))
        if "enum" in node and not values:
            raise self._error(context, "'enum' must have at least one value.")
        if "format" in node and not (isinstance(node["format"], str) and node["format"] in FORMATS):
            raise self._error(context, f"{node['format']!r} is not a valid format.")

    def _reference(self, node: Json, context: Context) -> None:
        if "$ref" not in node:
            return
        ref = node["$ref"]
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise self._error(context, f"reference {ref!r} does not point into this schema.")
        if not isinstance(resolve_pointer(self.root, ref), dict):
            raise self._error(context, f"reference to component '{ref}' which was not found in the schema.")

    def _list(self, node: Json, key: str, context: Context) -> list[Any]:
        value = node.get(key, [])
        if not isinstance(value, list):
            raise self._error(context, f"'{key}' must be an array.")
        return cast("list[Any]", value)

    def _dict(self, node: Json, key: str, context: Context) -> Json:
        value = node.get(key, {})
        if not isinstance(value, dict):
            raise self._error(context, f"'{key}' must be an object.")
        return cast("Json", value)
