"""Writes schemas with numbers of many digits as rules of a grammar, since the compiler takes them for the nearest double.

These are integers beyond 2^53, ends of ranges that the compiler has no rule for, and constants like 0.30000000000000004.
Only what leads to such a number is written so: objects, lists, alternatives and references on the way; every other part is
left to the compiler as ``%json``. The layout of the output is the compiler's.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from antiphon.prompting.schemas.compiler_limits import is_misread, is_number
from antiphon.prompting.schemas.traversal import Schema, schemas_in
from antiphon.protocol.json_pointer import resolve_pointer

_RANGE = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_TOO_FAR = 10**18
"""The compiler has no rule for a range that begins beyond."""
_MOST_BITS = 1023
"""An integer of more may exceed every double."""
_NOTES = frozenset(
    {
        "title",
        "description",
        "default",
        "examples",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
    }
)


class InexactError(ValueError):
    """A number of many digits cannot be enforced exactly together with some keyword, which the message names."""


def has_inexact(root: Any) -> bool:
    """Whether a schema holds a number that the compiler would take for another one."""
    return any(_holds_inexact(schema) for schema in schemas_in(root))


def exact_rules(name: str, root: Schema, text_of: Callable[[Schema], str]) -> list[str]:
    """Return Lark rules of which ``name`` matches the JSON that satisfies ``root``. Raises ``InexactError``.

    ``text_of`` writes a schema as ``%json`` takes it.
    """
    return _Writer(name, root, text_of).rules()


class _Writer:
    def __init__(self, name: str, root: Schema, text_of: Callable[[Schema], str]) -> None:
        self._name = name
        self._root = root
        self._text_of = text_of
        self._rules: list[str] = []
        self._of_references: dict[str, str] = {}

    def rules(self) -> list[str]:
        return [f"{self._name}: {self._expression(self._root)}", *self._rules]

    def _new_rule(self, body: str) -> str:
        # The number is taken once the rules within the body have theirs.
        rule = f"{self._name}_part_{len(self._rules)}"
        self._rules.append(f"{rule}: {body}")
        return rule

    def _expression(self, schema: Any) -> str:  # noqa: PLR0911 - one for each kind of schema
        if not self._leads_to_inexact(schema):
            return self._new_rule(f"%json {self._text_of(self._with_definitions(schema))}")
        keys = set(schema) - _NOTES
        if "$ref" in keys:
            self._only(keys, "$ref")
            return self._reference(schema["$ref"])
        if keys & {"const", "enum"}:
            self._only(keys, "const", "enum", "type")
            return self._values(schema)
        if "anyOf" in keys:
            self._only(keys, "anyOf")
            return f"({' | '.join(map(self._expression, schema['anyOf']))})"
        match schema.get("type"):
            case [*kinds]:
                return f"({' | '.join(self._expression(_of_type(schema, kind)) for kind in kinds)})"
            case "integer":
                self._only(keys, "type", *_RANGE)
                return f"/{_integers(*_ends(schema))}/"
            case "number":
                self._only(keys, "type", "minimum", "maximum")
                return f"/{_numbers(schema.get('minimum'), schema.get('maximum'))}/"
            case "object":
                self._only(keys, "type", "properties", "required", "additionalProperties")
                return self._object(schema)
            case "array":
                self._only(keys, "type", "items", "minItems", "maxItems")
                return self._array(schema)
            case _:
                raise InexactError("a number of so many digits can be enforced only where 'type' is 'integer'.")

    def _only(self, keys: set[str], *known: str) -> None:
        other = min(keys - set(known), default=None)
        if other is not None:
            raise InexactError(f"a number of so many digits cannot be enforced together with '{other}'.")

    def _reference(self, reference: str) -> str:
        if reference not in self._of_references:
            rule = self._of_references[reference] = f"{self._name}_of_{len(self._of_references)}"
            self._rules.append(f"{rule}: {self._expression(resolve_pointer(self._root, reference))}")
        return self._of_references[reference]

    def _values(self, schema: Schema) -> str:
        values = cast("list[Any]", schema["enum"]) if "enum" in schema else [schema["const"]]
        values = [value for value in values if schema.get("const", value) == value and _is_of_type(value, schema)]
        if not values:
            raise InexactError("a number of so many digits is not of its 'type', and no other value is left.")
        return (
            f"({' | '.join(json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False) for value in values)})"
        )

    def _object(self, schema: Schema) -> str:
        if schema.get("additionalProperties", False) is not False:
            raise InexactError("a number of so many digits cannot be enforced together with 'additionalProperties'.")
        properties = cast("dict[str, Any]", schema.get("properties") or {})
        required = set(cast("list[str]", schema.get("required") or []))
        if required - set(properties):
            raise InexactError(
                "a number of so many digits cannot be enforced together with undeclared 'required' keys."
            )
        # What may follow from each property on: once a property was written, and while none was.
        later = first = self._new_rule('""')
        for name, part in reversed(properties.items()):
            key, value = json.dumps(name, ensure_ascii=False) + ": ", self._expression(part)
            skips = ("", "") if name in required else (f" | {later}", f" | {first}")
            first = self._new_rule(f"{_literal(key)} {value} {later}{skips[1]}")
            later = self._new_rule(f"{_literal(', ' + key)} {value} {later}{skips[0]}")
        return f'"{{" {first} "}}"'

    def _array(self, schema: Schema) -> str:
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        item = self._expression(schema.get("items", {}))
        if most is not None and most < max(least, 1):
            if least > most:
                raise InexactError("'minItems' exceeds 'maxItems'.")
            return '"[]"'
        more = f'(", " {item}){{{max(least - 1, 0)},{"" if most is None else int(most) - 1}}}'
        return f'"[" {item} {more} "]"' if least else f'"[" ({item} {more})? "]"'

    def _with_definitions(self, schema: Any) -> Schema:
        made: Schema = cast("Schema", schema) if isinstance(schema, dict) else {} if schema else {"enum": []}
        if any("$ref" in part for part in schemas_in(made)):
            made = {key: self._root[key] for key in ("$defs", "definitions") if key in self._root} | made
        return made

    def _leads_to_inexact(self, schema: Any) -> bool:
        """Whether a schema, or what its references lead to, holds a number that the compiler would take for another one."""
        followed: set[str] = set()
        waiting = [schema]
        while waiting:
            for part in _parts(waiting.pop()):
                if _holds_inexact(part):
                    return True
                reference = part.get("$ref")
                if isinstance(reference, str) and reference not in followed:
                    followed.add(reference)
                    waiting.append(resolve_pointer(self._root, reference))
        return False


def _parts(schema: Any) -> list[Schema]:
    """Return the schemas in a schema, but for its definitions: they count only where a reference leads to them."""
    if not isinstance(schema, dict):
        return []
    known = cast("Schema", schema)
    return schemas_in({key: value for key, value in known.items() if key not in {"$defs", "definitions"}})


def _of_type(schema: Schema, kind: Any) -> Schema:
    """Return what a schema says of values of one of its types."""
    is_numeric = kind in {"integer", "number"}
    return {key: value for key, value in schema.items() if is_numeric or key not in _RANGE} | {"type": kind}


def _is_of_type(value: Any, schema: Schema) -> bool:
    kinds = _kinds(schema)
    of_python: dict[type[object], tuple[str, ...]] = {
        bool: ("boolean",),
        int: ("integer", "number"),
        float: ("number",),
        str: ("string",),
        list: ("array",),
        dict: ("object",),
    }
    return not kinds or bool(set(of_python.get(cast("type[object]", type(value)), ("null",))) & set(kinds))


def _kinds(schema: Mapping[str, Any]) -> list[Any]:
    given: Any = schema.get("type")
    return [given] if isinstance(given, str) else cast("list[Any]", given or [])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _holds_inexact(schema: Mapping[str, Any]) -> bool:
    if any(is_misread(schema.get(key)) or _has_no_double(schema.get(key)) for key in ("const", "enum")):
        return True
    is_integer = "integer" in _kinds(schema)
    return any(_is_inexact_end(schema.get(key), key, is_integer=is_integer) for key in _RANGE)


def _is_inexact_end(end: Any, keyword: str, *, is_integer: bool) -> bool:
    """Whether the compiler would move an end of a range, or not take it at all."""
    if not is_number(end) or abs(end) < 2**53:
        return False
    is_moved = is_integer and keyword.startswith("exclusive")  # the next integer is not a double
    return is_moved or _has_no_double(end) or abs(end) >= _TOO_FAR


def _has_no_double(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_no_double, cast("list[Any]", value)))
    if isinstance(value, dict):
        return any(map(_has_no_double, cast("Schema", value).values()))
    if not isinstance(value, int) or abs(value) <= 2**53:
        return False
    return value.bit_length() > _MOST_BITS or int(float(value)) != value


def _ends(schema: Schema) -> tuple[int | None, int | None]:
    """Return the least and the greatest integer of a range."""
    lows: list[int] = []
    highs: list[int] = []
    for key, ends, step in (
        ("minimum", lows, 0),
        ("exclusiveMinimum", lows, 1),
        ("maximum", highs, 0),
        ("exclusiveMaximum", highs, -1),
    ):
        end = schema.get(key)
        if not is_number(end):
            continue
        whole = int(end // 1) if step >= 0 else int(-(-end // 1))
        is_whole = whole == end
        if key == "minimum":
            ends.append(whole if is_whole else whole + 1)
        elif key == "maximum":
            ends.append(int(end // 1))
        else:
            ends.append(whole + step)
    return max(lows, default=None), min(highs, default=None)


def _integers(least: int | None, most: int | None) -> str:
    """Return a regular expression for the integers of a range, written as JSON has them."""
    if least is not None and most is not None and least > most:
        raise InexactError("no integer lies in its range.")
    choices: list[str] = []
    if least is None or least < 0:
        ends = (max(1, -most) if most is not None else 1, None if least is None else -least)
        choices.append(f"-(?:{_naturals(*ends)})")
    if most is None or most >= 0:
        choices.append(_naturals(max(0, least or 0), most))
    return f"(?:{'|'.join(choices)})"


def _numbers(least: Any, most: Any) -> str:
    """Return a regular expression for the numbers between two whole ends, written without an exponent."""
    if any(end is not None and end != end // 1 for end in (least, most)):
        raise InexactError("a number of so many digits cannot be enforced together with an end that is not whole.")
    low, high = (None if end is None else int(end) for end in (least, most))
    choices = [_integers(low, high)]
    fraction = "[.][0-9]+"
    if high is None or high > 0:
        start = max(0, low or 0)
        if high is None or start < high:
            choices.append(f"(?:{_naturals(start, None if high is None else high - 1)}){fraction}")
    if low is None or low < 0:
        start = max(0, -(high or 0)) if high is not None else 0
        if low is None or start < -low:
            choices.append(f"-(?:{_naturals(start, None if low is None else -low - 1)}){fraction}")
    return f"(?:{'|'.join(choices)})"


def _naturals(least: int, most: int | None) -> str:
    longest = len(str(least)) if most is None else len(str(most))
    choices: list[str] = []
    for length in range(len(str(least)), longest + 1):
        low, high = max(least, 10 ** (length - 1) if length > 1 else 0), 10**length - 1
        choices.append(_of_one_length(str(low), str(high if most is None else min(most, high))))
    if most is None:
        choices.append(f"[1-9][0-9]{{{longest},}}")
    return "|".join(choices)


def _of_one_length(low: str, high: str) -> str:
    """Return an expression for the numbers between two of one length."""
    if not low:
        return ""
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}"
    if low[0] == high[0]:
        return low[0] + _of_one_length(low[1:], high[1:])
    rest = len(low) - 1
    choices = [low[0] + _of_one_length(low[1:], "9" * rest)]
    if int(high[0]) - int(low[0]) > 1:
        choices.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}]" + (f"[0-9]{{{rest}}}" if rest else ""))
    choices.append(high[0] + _of_one_length("0" * rest, high[1:]))
    return f"(?:{'|'.join(choices)})"
