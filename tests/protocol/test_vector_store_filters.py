"""Filters on the attributes of files, as SQL on their JSON."""

import sqlite3
from typing import Any

import msgspec
import pytest

from antiphon.protocol.errors import ApiError
from antiphon.protocol.vector_stores import compile_filters

ATTRIBUTES: list[dict[str, Any]] = [
    {"flag": True, "year": 2020, "ü": "a", "a.b": 1, "a[0]": 1, "$": 1},
    {"flag": 1, "year": "2020", "ü": ""},
    {"flag": "true", "year": 2020.0},
    {},
]


def found(given: Any) -> list[int]:
    sql, values = compile_filters(given, "filters", "attributes")
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE files (number, attributes)")
    rows = [(number, msgspec.json.encode(each).decode()) for number, each in enumerate(ATTRIBUTES)]
    database.executemany("INSERT INTO files VALUES (?, ?)", rows)
    return [number for (number,) in database.execute(f"SELECT number FROM files WHERE {sql}", values)]


def compare(kind: str, key: str, value: Any) -> dict[str, Any]:
    return {"type": kind, "key": key, "value": value}


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (compare("eq", "flag", True), [0]),
        (compare("eq", "flag", 1), [1]),
        (compare("eq", "year", 2020), [0, 2]),
        (compare("eq", "year", "2020"), [1]),
        (compare("gte", "year", 2019), [0, 2]),
        (compare("gte", "year", "2019"), [1]),
        (compare("ne", "year", 2020), [1, 3]),
        (compare("in", "year", [2020, "2020"]), [0, 1, 2]),
        (compare("nin", "year", [2020, "2020"]), [3]),
        (compare("eq", "ü", "a"), [0]),
        (compare("eq", "a.b", 1), [0]),
        (compare("eq", "a[0]", 1), [0]),
        (compare("eq", "$", 1), [0]),
        ({"type": "or", "filters": [compare("eq", "flag", 1), compare("eq", "flag", "true")]}, [1, 2]),
        ({"type": "and", "filters": [compare("eq", "flag", 1), compare("eq", "flag", "true")]}, []),
    ],
)
def test_types_do_not_mix_and_any_key_is_found(given: Any, numbers: list[int]) -> None:
    """1 is not "1" and not true; dots, brackets and letters of any script in a key are the key's own."""
    assert found(given) == numbers


@pytest.mark.parametrize("key", ['a"b', "a\\b", "a\nb", "a\0b", "\x1f"])
def test_a_key_that_no_path_can_hold_is_refused(key: str) -> None:
    """It would match no file, or fail in the database."""
    with pytest.raises(ApiError, match="a backslash or a control character") as caught:
        compile_filters(compare("eq", key, 1), "filters", "attributes")
    assert (caught.value.status, caught.value.param) == (400, "filters.key")
