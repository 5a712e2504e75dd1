"""OpenAI's words for what is wrong with a request: one function per kind of 400."""

from collections.abc import Sequence
from typing import Any, Literal

from antiphon.protocol.errors import ApiError

_NAMES: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    dict: "an object",
    list: "an array",
    type(None): "null",
}


def type_name(value: Any) -> str:
    """Name the JSON type of a decoded value, with its article."""
    return _NAMES[type(value)]


def listed(values: Sequence[str], conjunction: str) -> str:
    """Return ``'a', 'b', and 'c'``."""
    quoted = [f"'{value}'" for value in values]
    if len(quoted) < 3:  # noqa: PLR2004 - two need no comma
        return f" {conjunction} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {conjunction} {quoted[-1]}"


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400 with any message."""
    return ApiError(400, message, param=param, code=code)


def missing(path: str) -> ApiError:
    return bad_request(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")


def unknown(path: str, alike: Sequence[str]) -> ApiError:
    """``alike``: known parameters that may have been meant."""
    hint = f" Did you mean {listed(alike, 'or')}?" if alike else ""
    return bad_request(f"Unknown parameter: '{path}'.{hint}", path, "unknown_parameter")


def wrong_type(path: str, expected: str, value: Any) -> ApiError:
    return bad_request(
        f"Invalid type for '{path}': expected {expected}, but got {type_name(value)} instead.", path, "invalid_type"
    )


def not_in_enum(path: str, value: str, allowed: Sequence[str]) -> ApiError:
    return bad_request(
        f"Invalid value: '{value}'. Supported values are: {listed(allowed, 'and')}.", path, "invalid_value"
    )


def out_of_range(
    path: str, kind: Literal["decimal", "integer"], bound: float, value: float, *, above: bool
) -> ApiError:
    side, sign, bounded = ("above maximum", "<=", "above_max") if above else ("below minimum", ">=", "below_min")
    return bad_request(
        f"Invalid '{path}': {kind} {side} value. Expected a value {sign} {bound}, but got {value} instead.",
        path,
        f"{kind}_{bounded}_value",
    )


def wrong_length(path: str, kind: Literal["array", "string"], bound: int, length: int, *, above: bool) -> ApiError:
    """An empty array or string has its own code."""
    article = "an" if kind == "array" else "a"
    if length == 0:
        return bad_request(
            f"Invalid '{path}': empty {kind}. Expected {article} {kind} with minimum length {bound}, "
            f"but got an empty {kind} instead.",
            path,
            f"empty_{kind}",
        )
    side, word = ("long", "maximum") if above else ("short", "minimum")
    return bad_request(
        f"Invalid '{path}': {kind} too {side}. Expected {article} {kind} with {word} length {bound}, "
        f"but got {article} {kind} with length {length} instead.",
        path,
        f"{kind}_{'above_max' if above else 'below_min'}_length",
    )


def bad_pattern(path: str, pattern: str) -> ApiError:
    return bad_request(
        f"Invalid '{path}': string does not match pattern. Expected a string that matches the pattern '{pattern}'.",
        path,
        "invalid_value",
    )


def too_many_properties(path: str, limit: int, count: int) -> ApiError:
    return bad_request(
        f"Invalid '{path}': too many properties. Expected an object with at most {limit} properties, "
        f"but got an object with {count} properties instead.",
        path,
        "object_above_max_properties",
    )


def long_property_name(path: str, limit: int, name: str) -> ApiError:
    return bad_request(
        f"Invalid property name in '{path}': '{name[:3]}...{name[-3:]}' is too long. Expected a string with maximum "
        f"length {limit}, but got a string with length {len(name)} instead.",
        f"{path}.{name}",
        "property_name_above_max_length",
    )


def unsupported_parameter(path: str) -> ApiError:
    """400: the parameter exists, and nothing here can honour it."""
    return bad_request(
        f"Unsupported parameter: '{path}' is not supported with this model.", path, "unsupported_parameter"
    )


def unsupported_value(path: str, value: str, supported: Sequence[str]) -> ApiError:
    """400: the parameter is honoured, this value of it cannot be."""
    return bad_request(
        f"Unsupported value: '{path}' does not support {value} with this model. "
        f"Supported values are: {listed(supported, 'and')}.",
        path,
        "unsupported_value",
    )
