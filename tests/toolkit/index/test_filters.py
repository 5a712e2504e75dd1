"""Filters by type: types do not mix, and a filter that is not understood is refused with its place."""

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.toolkit.errors import FilterError
from antiphon.toolkit.index.filters import compile_filter

VALUES: list[Any] = [True, False, 0, 1, 2019, 2020.5, -1, "", "1", "2019", "true", "abc", None, [1], {"a": 1}, 2**70]
MISSING = object()


def holds(stored: Any, where: Any) -> bool:
    """Ask SQLite itself."""
    condition, values = compile_filter(where, "m")
    metadata = json.dumps({} if stored is MISSING else {"k": stored})
    sql = f"SELECT count(*) FROM (SELECT ? AS m) WHERE {condition}"
    return bool(sqlite3.connect(":memory:").execute(sql, [metadata, *values]).fetchone()[0])


def kind(value: Any) -> str:
    names = {bool: "truth", int: "number", float: "number", str: "text"}
    return names.get(type(value), "other")


ORDER = {"$gt": lambda a, b: a > b, "$gte": lambda a, b: a >= b, "$lt": lambda a, b: a < b, "$lte": lambda a, b: a <= b}


@pytest.mark.parametrize("stored", VALUES, ids=repr)
@pytest.mark.parametrize("wanted", [True, False, 0, 1, 2019, 2020.5, "", "1", "2019", "true"], ids=repr)
def test_only_values_of_one_type_are_compared(stored: Any, wanted: Any) -> None:
    """As Python compares them within numbers and within texts; a truth value is only equal or not."""
    is_equal = kind(stored) == kind(wanted) and stored == wanted
    assert holds(stored, {"k": wanted}) == is_equal
    assert holds(stored, {"k": {"$eq": wanted}}) == is_equal
    assert holds(stored, {"k": {"$in": [wanted, "no such"]}}) == is_equal
    if stored is not None:
        assert holds(stored, {"k": {"$ne": wanted}}) != is_equal
    for operator, compare in ORDER.items():
        if isinstance(wanted, bool):
            with pytest.raises(FilterError, match="truth value"):
                compile_filter({"k": {operator: wanted}}, "m")
            continue
        expected = kind(stored) == kind(wanted) and compare(stored, wanted)
        assert holds(stored, {"k": {operator: wanted}}) == expected


@given(st.integers(-(2**62), 2**62), st.integers(-(2**62), 2**62))
def test_integers_are_exact(stored: int, wanted: int) -> None:
    """Beyond what a float can hold."""
    assert holds(stored, {"k": wanted}) == (stored == wanted)
    assert holds(stored, {"k": {"$lt": wanted}}) == (stored < wanted)


@pytest.mark.parametrize("where", [{"k": None}, {"k": {"$exists": False}}])
def test_a_missing_key_is_none_and_does_not_exist(where: Any) -> None:
    """And satisfies nothing else."""
    assert holds(MISSING, where)
    for operator in ("$eq", "$ne", "$gt", "$lte"):
        assert not holds(MISSING, {"k": {operator: 1}})
    assert not holds(MISSING, {"k": {"$in": [1, "a"]}})


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ([("k", 1)], "where"),
        ([], "where"),
        ("k", "where"),
        (3, "where"),
        ({1: 2}, "where[1]"),
        ({"k": {}}, "where['k']"),
        ({"k": [1]}, "where['k']"),
        ({"k": 2**70}, "where['k']"),
        ({"k": -(2**63) - 1}, "where['k']"),
        ({"k": float("nan")}, "where['k']"),
        ({"k": "\ud800"}, "where['k']"),
        ({"\ud800": 1}, "where['\\ud800']"),
        ({"k": b"a"}, "where['k']"),
        ({"k": {"$gt": None}}, "where['k']['$gt']"),
        ({"k": {"$gt": 2**64}}, "where['k']['$gt']"),
        ({"k": {"$in": [1, 2**70]}}, "where['k']['$in'][1]"),
        ({"k": {"$in": "ab"}}, "where['k']['$in']"),
        ({"k": {"$exists": 1}}, "where['k']['$exists']"),
        ({"k": {"a": 1}}, "where['k']['a']"),
        ({"k": {1: 1}}, "where['k'][1]"),
        ({"$or": []}, "where['$or']"),
        ({"$or": [{"k": 1}, {}]}, "where['$or'][1]"),
        ({"$or": {"k": 1}}, "where['$or']"),
        ({"$or": [{"k": {"$no": 1}}]}, "where['$or'][0]['k']['$no']"),
        ({"$or": [[("k", 1)]]}, "where['$or'][0]"),
        ({"$and": []}, "where['$and']"),
    ],
)
def test_a_filter_that_is_not_understood_is_refused_with_its_place(where: Any, place: str) -> None:
    """A mistyped filter never means everything or nothing, and never a foreign error."""
    with pytest.raises(FilterError) as caught:
        compile_filter(where, "m")
    assert caught.value.message.startswith(f"{place}: ")


def test_an_empty_filter_holds_for_every_document() -> None:
    """As no filter does."""
    assert holds(1, {})
