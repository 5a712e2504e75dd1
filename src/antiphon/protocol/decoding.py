"""From the bytes of a request's body to a JSON value, refusing all that JSON libraries disagree about."""

import json
from typing import Any, NoReturn, cast

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError

MAX_DEPTH = 128
"""Levels of arrays and objects; every walk over a request may recurse this deep."""

_HINT = (
    "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
    "correctly. The API expects a JSON payload, but what was sent was not valid JSON: {}.)"
)


class _UnparsableError(ValueError):
    """Carries the reason out of the decoder's hooks."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _UnparsableError(f"an object has the key {repeated!r} more than once")
    return value


def _no_constant(name: str) -> NoReturn:
    raise _UnparsableError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise _UnparsableError(f"the number {text[:40]} is too large")
    return number


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)


def decode_json(body: bytes, content_type: str | None) -> Any:
    """Return the JSON value in ``body``.

    Raises ``ApiError`` 415 unless ``content_type`` says JSON (a web page can send anything else across origins without
    asking first), and 400 for what is not JSON in UTF-8, a repeated key, NaN, a number beyond float64, a lone surrogate,
    or more than ``MAX_DEPTH`` levels.
    """
    check_content_type(content_type)
    try:
        text = body.decode("utf-8")
        if text.startswith("\ufeff"):
            raise _UnparsableError("it begins with a byte order mark")
        value = _decoder.decode(text)
        if "\\u" in text:
            _check_surrogates(value)
    except UnicodeDecodeError as error:
        raise unparsable(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise unparsable("a string has a lone surrogate") from None
    except RecursionError:
        raise unparsable(f"it is nested more than {MAX_DEPTH} levels deep") from None
    except json.JSONDecodeError as error:
        raise unparsable(f"{error.msg}, line {error.lineno} column {error.colno}") from None
    except ValueError as error:
        raise unparsable(
            str(error) if isinstance(error, _UnparsableError) else "a number has too many digits"
        ) from None
    _check_depth(text, value)
    return value


def check_content_type(content_type: str | None) -> None:
    """Raise ``ApiError`` 415 unless a request says that its body is JSON in UTF-8."""
    kind, _, parameters = (content_type or "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() == "application/json" and charset in {"", "utf-8", "utf8"}:
        return
    raise ApiError(
        415,
        f"Unsupported content type: '{content_type or ''}'. This API method only accepts 'application/json' requests, "
        f"but you specified the header 'Content-Type: {content_type or ''}'. "
        "Please try again with a supported content type.",
        code="unsupported_content_type",
    )


def unparsable(reason: str) -> ApiError:
    """400 for a body that cannot be read as a request at all."""
    return problems.bad_request(_HINT.format(reason))


def _check_surrogates(value: Any) -> None:
    """Only escapes can make one; a string that has one cannot be written as UTF-8."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            _check_surrogates(item)
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            name.encode()
            _check_surrogates(item)


def _check_depth(text: str, value: Any) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in _children(parent) if isinstance(item, (list, dict))]
        if not level:
            return
    raise unparsable(f"it is nested more than {MAX_DEPTH} levels deep")


def _children(value: Any) -> Any:
    return cast("dict[str, Any]", value).values() if isinstance(value, dict) else value
