"""Metadata filters: a small, closed language, compiled to SQL with parameters.

``{"section": "library"}`` equals; ``{"year": {"$gte": 2020, "$lt": 2024}}`` compares; several keys must all hold;
``{"$or": [filter, filter]}`` wants one of them. A key that a document lacks satisfies only ``{"$exists": False}``
and ``{"key": None}``.

Types do not mix: a truth value equals no number, and texts and numbers are compared only with their like. ``$ne`` holds for
a value of another type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from antiphon.search.json_path import NOT_IN_PATHS, path_of_key
from antiphon.toolkit.errors import FilterError

_COMPARISONS = {"$eq": "=", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = [*_COMPARISONS, "$in", "$exists"]
# The types of SQLite's JSON functions.
_NUMBERS, _TEXT, _TRUTH = "('integer', 'real')", "('text')", "('true', 'false')"
_LARGEST = 2**63 - 1
_MARKS = re.compile(r"\{path\}|\?")

Where = Mapping[str, Any]
Compiled = tuple[str, list[Any]]


def compile_filter(where: Where, column: str) -> Compiled:
    """Return an SQL condition on the JSON in ``column``, and its parameters.

    Raises FilterError, with the place, for what it does not know. An empty filter holds for every document.
    """
    return _Compiler(column).filter(where, "where")


class _Compiler:
    """Places in messages are written like the filter: ``where['year']['$gte']``."""

    def __init__(self, column: str) -> None:
        self._column = column

    def filter(self, where: object, place: str) -> Compiled:
        if not isinstance(where, Mapping):
            raise _error(place, f"a filter is a mapping of keys, not {where!r}")
        parts: list[str] = []
        values: list[Any] = []
        for key, wanted in cast("Mapping[Any, Any]", where).items():
            inner = f"{place}[{key!r}]"
            sql, found = self._any_of(wanted, inner) if key == "$or" else self._key(key, wanted, inner)
            parts.append(sql)
            values += found
        return " AND ".join(parts) or "1", values

    def _any_of(self, alternatives: Any, place: str) -> Compiled:
        if not isinstance(alternatives, Sequence) or isinstance(alternatives, str) or not alternatives:
            raise _error(place, f"'$or' wants a list of filters, not {alternatives!r}")
        items = list(enumerate(cast("Sequence[Any]", alternatives)))
        for number, alternative in items:
            if not alternative:
                raise _error(f"{place}[{number}]", "an empty alternative would hold for every document")
        compiled = [self.filter(alternative, f"{place}[{number}]") for number, alternative in items]
        condition = "(" + " OR ".join(f"({sql})" for sql, _ in compiled) + ")"
        return condition, [value for _, found in compiled for value in found]

    def _key(self, key: object, wanted: Any, place: str) -> Compiled:
        if not isinstance(key, str):
            raise _error(place, f"a key is a text, not {key!r}")
        if key.startswith("$"):
            raise _error(
                place, f"Unknown operator {key!r}; at the top level there are '$or' and the keys of the metadata"
            )
        path = path_of_key(key)  # a parameter too
        if path is None:
            raise _error(place, f"a key to filter by cannot hold {NOT_IN_PATHS}")
        if not _is_encodable(key):
            raise _error(place, "the key holds lone surrogates, which no stored key can")
        tests = cast("Mapping[Any, Any]", wanted) if isinstance(wanted, Mapping) else {"$eq": wanted}
        if not tests:
            raise _error(place, f"no test is given; one of {', '.join(_OPERATORS)}")
        parts: list[str] = []
        values: list[Any] = []
        for operator, value in tests.items():
            inner = f"{place}[{operator!r}]" if isinstance(wanted, Mapping) else place
            sql, found = self._test(operator, value, inner)
            # Each mention of the value or its type takes the path once more.
            marks = sql.replace("{value}", f"json_extract({self._column}, {{path}})")
            marks = marks.replace("{kind}", f"json_type({self._column}, {{path}})")
            given = iter(found)
            values += [path if piece == "{path}" else next(given) for piece in _MARKS.findall(marks)]
            parts.append(marks.replace("{path}", "?"))
        return " AND ".join(f"({part})" for part in parts), values

    def _test(self, operator: Any, value: Any, place: str) -> Compiled:
        if operator == "$exists":
            if not isinstance(value, bool):
                raise _error(place, f"'$exists' wants True or False, not {value!r}")
            return ("{kind} IS NOT NULL" if value else "{kind} IS NULL"), []
        if operator == "$in":
            if not isinstance(value, Sequence) or isinstance(value, str | bytes):
                raise _error(place, f"'$in' wants a list of values, not {value!r}")
            items = cast("Sequence[Any]", value)
            tests = [self._compare("$eq", item, f"{place}[{number}]") for number, item in enumerate(items)]
            return " OR ".join(sql for sql, _ in tests) or "0", [one for _, found in tests for one in found]
        if operator not in _COMPARISONS:
            raise _error(place, f"Unknown operator {operator!r}; one of {', '.join(_OPERATORS)}")
        return self._compare(operator, value, place)

    def _compare(self, operator: str, value: Any, place: str) -> Compiled:
        if value is None:
            if operator not in {"$eq", "$ne"}:
                raise _error(place, "None can be equal or not, and nothing else")
            return ("{value} IS NULL" if operator == "$eq" else "{value} IS NOT NULL"), []
        kinds, parameter = _scalar(value, place)
        if kinds == _TRUTH and operator not in {"$eq", "$ne"}:
            raise _error(place, "a truth value can be equal or not, and nothing else")
        if operator == "$ne":
            return f"({{kind}} IS NOT NULL AND ({{kind}} NOT IN {kinds} OR {{value}} != ?))", [parameter]
        return f"({{kind}} IN {kinds} AND {{value}} {_COMPARISONS[operator]} ?)", [parameter]


def _scalar(value: Any, place: str) -> tuple[str, str | float | int]:
    """Return the JSON types that ``value`` may be compared with, and the parameter."""
    if isinstance(value, bool):
        return _TRUTH, int(value)
    if isinstance(value, str):
        if not _is_encodable(value):
            raise _error(place, "the text holds lone surrogates, which no stored text can")
        return _TEXT, value
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return _NUMBERS, value
    if isinstance(value, int):
        raise _error(place, f"{value!r} is beyond 64 bits")
    if isinstance(value, float) and not math.isnan(value):
        return _NUMBERS, value
    raise _error(place, f"a value can be compared with a text, a number or a truth value, not with {value!r}")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _error(place: str, why: str) -> FilterError:
    return FilterError(f"{place}: {why}", hint="docs/toolkit/search.md lists what a filter may hold")
