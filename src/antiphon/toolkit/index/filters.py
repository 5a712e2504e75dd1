"""Metadata filters: a small, closed language, compiled to SQL with parameters.

``{"section": "library"}`` equals; ``{"year": {"$gte": 2020, "$lt": 2024}}`` compares; several keys must all hold;
``{"$or": [filter, filter]}`` wants one of them. A key that a document lacks satisfies only ``{"$exists": False}``
and ``{"key": None}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.toolkit.errors import FilterError

_COMPARISONS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = [*_COMPARISONS, "$in", "$exists"]

Where = Mapping[str, Any]


def compile_filter(where: Where, column: str) -> tuple[str, list[Any]]:
    """Return an SQL condition on the JSON in ``column``, and its parameters. Raises FilterError for what it does not know."""
    parts: list[str] = []
    values: list[Any] = []
    for key, wanted in where.items():
        sql, found = _any_of(wanted, column) if key == "$or" else _key(key, wanted, column)
        parts.append(sql)
        values += found
    return " AND ".join(parts) or "1", values


def _any_of(alternatives: Any, column: str) -> tuple[str, list[Any]]:
    if not isinstance(alternatives, Sequence) or isinstance(alternatives, str) or not alternatives:
        raise FilterError(f"'$or' wants a list of filters, not {alternatives!r}")
    compiled = [compile_filter(alternative, column) for alternative in cast("Sequence[Where]", alternatives)]
    return "(" + " OR ".join(f"({sql})" for sql, _ in compiled) + ")", [
        value for _, found in compiled for value in found
    ]


def _key(key: str, wanted: Any, column: str) -> tuple[str, list[Any]]:
    if key.startswith("$"):
        raise FilterError(
            f"Unknown operator {key!r}", hint="at the top level only '$or' and keys of the metadata stand"
        )
    tests: Mapping[str, Any] = cast("Mapping[str, Any]", wanted) if isinstance(wanted, Mapping) else {"$eq": wanted}
    # The path is a parameter too: a key may hold any character.
    if '"' in key:
        raise FilterError(f"A key to filter by cannot hold a quotation mark: {key!r}")
    path = f'$."{key}"'
    parts: list[str] = []
    values: list[Any] = []
    for operator, value in tests.items():
        sql, found = _test(key, operator, value)
        parts.append(sql.format(value=f"json_extract({column}, ?)", kind=f"json_type({column}, ?)"))
        values += [path, *found]
    return " AND ".join(parts) or "1", values


def _test(key: str, operator: str, value: Any) -> tuple[str, list[Any]]:
    if operator == "$exists":
        return ("{kind} IS NOT NULL" if value else "{kind} IS NULL"), []
    if operator == "$in":
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise FilterError(f"'$in' on {key!r} wants a list of values, not {value!r}")
        values = [_scalar(key, item) for item in cast("Sequence[Any]", value)]
        return "{value} IN (" + ",".join("?" * len(values)) + ")", values
    if operator not in _COMPARISONS:
        raise FilterError(f"Unknown operator {operator!r} on {key!r}", hint=f"one of {', '.join(_OPERATORS)}")
    if value is None and operator == "$eq":
        return "{value} IS NULL", []
    return f"{{value}} {_COMPARISONS[operator]} ?", [_scalar(key, value)]


def _scalar(key: str, value: Any) -> str | float | int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    raise FilterError(f"{key!r} can be compared with a string, a number or a truth value, not with {value!r}")
