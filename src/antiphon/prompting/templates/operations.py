"""Computes how large the result of each template operation may become, before it is made.

The filters are Jinja's, the methods those of Python's strings and numbers. An operation that is not named here has a result no larger
than its arguments.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.prompting.errors import TemplateBrokenError
from antiphon.prompting.templates.budget import NODE, Budget

MAX_NUMBER = 1_000_000
"""The largest number that an operation takes as a width, a count or a precision."""
MAX_NUMBER_BITS = 4096
MAX_SLOW_CHARS = 100_000
"""Characters for filters whose time is not linear in them; chat templates have no use for these."""
_MAX_DEPTH = 1000
_MAX_ESCAPE = 6
"""Characters that one becomes in JSON, HTML or a URL at most."""
_FIELD_WIDTH = re.compile(r"\d+")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")

UNMEASURED = frozenset(
    {"length", "count", "default", "d", "first", "last", "safe", "abs", "float", "int", "string", "attr", "random"}
)
"""Filters that make nothing, so that even a long list costs nothing each time; ``string`` is measured as a conversion."""
_OF_LETTERS = frozenset(
    {
        "list",
        "sort",
        "unique",
        "batch",
        "slice",
        "groupby",
        "map",
        "select",
        "reject",
        "selectattr",
        "rejectattr",
        "reverse",
        "items",
        "join",
    }
)
"""Filters that make a list of a string's characters."""
_OF_TEXT = frozenset({"trim", "upper", "lower", "capitalize"})
"""Common filters of a text: some letters become three in capitals."""
_SLOW = frozenset(
    {"urlize", "pprint", "xmlattr", "striptags", "wordwrap", "title", "wordcount", "truncate", "dictsort"}
)

Arguments = tuple[Sequence[Any], Mapping[str, Any]]


def filter_cost(  # noqa: C901 - a table of filters
    budget: Budget, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> int:
    """Return the most characters that a filter makes of its arguments. Raises ``TemplateBrokenError`` for uses that no template needs."""
    if name in _OF_TEXT and len(args) == 1 and not kwargs and isinstance(args[0], str):
        return 3 * len(args[0])
    check_numbers(args[1:], kwargs.values())
    size = budget.size(args[0]) if args else 0
    given = sum(map(budget.size, (*args[1:], *kwargs.values())))
    if name in _SLOW and size > MAX_SLOW_CHARS:
        raise TemplateBrokenError(
            f"The chat template uses the filter {name!r} on a value of more than {MAX_SLOW_CHARS} characters."
        )
    text = args[0] if args and isinstance(args[0], str) else ""
    numbers = _largest(args[1:], kwargs.values())
    match name:
        case "replace":
            cost = max(size, _replaced(text or str(args[0]), *_texts(args[1:3], kwargs, ("old", "new"))))
        case "join":
            cost = size * (NODE if text else 1) + (given + 1) * _length(args[0])
        case "indent":
            cost = size + (text.count("\n") + 1) * (numbers + given)
        case "center" | "batch" | "slice":
            cost = (size if name == "center" else NODE * max(size, 1)) + numbers * (
                1 if name == "center" else NODE + given
            )
        case "format":
            cost = formatted(budget, text, (args[1:], kwargs))
        case "tojson":
            cost = size * _MAX_ESCAPE + (size // NODE + 1) * (numbers + given) * _depth(args[0]) * bool(
                numbers or given
            )
        case "escape" | "e" | "forceescape" | "urlencode" | "urlize" | "xmlattr" | "pprint":
            cost = size * _MAX_ESCAPE + given
        case "sum":
            cost = size * (1 if not given else _length(args[0]) + 1)
        case "wordwrap":
            cost = size + size * (given + 1)
        case _:
            cost = size * (NODE if text and name in _OF_LETTERS else 1) + given
    return cost


def method_cost(budget: Budget, method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the most characters that a method of a value makes, or a function of the environment."""
    check_numbers(args, kwargs.values())
    owner: Any = getattr(method, "__self__", None)
    if isinstance(owner, (bytes, bytearray, memoryview)) or (isinstance(owner, str) and method.__name__ == "encode"):
        raise TemplateBrokenError("The chat template works on bytes, which none needs.")
    if isinstance(owner, str):
        return _string_cost(budget, owner, method.__name__, args, kwargs)
    if isinstance(owner, int):
        return _largest(args, kwargs.values())
    if method is dict or getattr(method, "__name__", "") in {"copy", "fromkeys"}:
        return sum(map(budget.size, (owner, *args, *kwargs.values())))
    return 0


def _string_cost(budget: Budget, text: str, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    match name:
        case "join":
            cost = sum(map(budget.size, args)) + len(text) * sum(map(_length, args))
        case "replace":
            cost = _replaced(text, *_texts(args[:2], kwargs, ("old", "new")))
        case "split" | "rsplit":
            (separator,) = _texts(args[:1], kwargs, ("sep",))
            parts = text.count(separator) if separator else sum(map(text.count, " \t\n\r\v\f"))
            cost = len(text) + NODE * (parts + 1)
        case "splitlines":
            cost = len(text) + NODE * (sum(map(text.count, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")) + 1)
        case "center" | "ljust" | "rjust" | "zfill":
            cost = len(text) + _largest(args, ())
        case "expandtabs":
            cost = len(text) + text.count("\t") * (_largest(args, kwargs.values()) or 8)
        case "translate":
            longest = max((budget.size(value) for table in args if isinstance(table, Mapping)
                           for value in cast("Mapping[Any, Any]", table).values()), default=0)  # fmt: skip
            cost = len(text) * (1 + longest)
        case "format" | "format_map":
            cost = formatted(budget, text, (args, kwargs), is_percent=False)
        case "upper" | "lower" | "title" | "capitalize" | "casefold" | "swapcase":
            cost = 3 * len(text)
        case _:
            cost = 0
    return cost


def formatted(budget: Budget, text: str, arguments: Arguments, *, is_percent: bool = True) -> int:
    """Return the most characters of a formatted string: each field may be its width and all arguments together."""
    if _NESTED_FIELD.search(text.replace("{{", "")) or (is_percent and "*" in text):
        raise TemplateBrokenError("The chat template formats with widths that are not fixed, which none needs.")
    widths = [
        int(width) if len(width) < len(str(MAX_NUMBER)) else MAX_NUMBER + 1 for width in _FIELD_WIDTH.findall(text)
    ]
    if max(widths, default=0) > MAX_NUMBER // 10:
        raise TemplateBrokenError("The chat template formats a string beyond its bounds.")
    args, kwargs = arguments
    fields = text.count("%" if is_percent else "{")
    return len(text) + sum(widths) + fields * (350 + _MAX_ESCAPE * sum(map(budget.size, (*args, *kwargs.values()))))


def check_numbers(*groups: Any) -> None:
    """Refuse numbers that ask for a huge string, list or power. Raises ``TemplateBrokenError``."""
    if any(isinstance(arg, int) and abs(arg) > MAX_NUMBER for group in groups for arg in group):
        raise TemplateBrokenError("The chat template asks for a string or list beyond its bounds.")


def _replaced(text: str, old: str, new: str) -> int:
    places = text.count(old) if old else len(text) + 1
    return len(text) + places * len(new)


def _texts(args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    given = [*args, *(kwargs.get(name, "") for name in names[len(args) :])]
    return [value if isinstance(value, str) else "" if value is None else str(value) for value in given]


def _length(value: Any) -> int:
    return len(cast("list[Any]", value)) if isinstance(value, (str, list, tuple, dict, set, frozenset)) else 1


def _largest(*groups: Any) -> int:
    return max((abs(arg) for group in groups for arg in group if isinstance(arg, int)), default=0)


def _depth(value: Any) -> int:
    """Return how deep lists and mappings are nested, at most ``_MAX_DEPTH``: JSON of more is refused by its writer."""
    depth = 0
    level: list[Any] = [value]
    while level and depth < _MAX_DEPTH:
        depth += 1
        level = [part for container in level for part in _entries(container) if isinstance(part, (dict, list, tuple))]
    return depth


def _entries(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return list(cast("dict[Any, Any]", container).values())
    return list(cast("list[Any]", container)) if isinstance(container, (list, tuple)) else []
