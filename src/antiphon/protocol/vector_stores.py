"""The tables of the requests for vector stores, and filters on the attributes of files, compiled to SQL."""

from typing import Any, ClassVar, cast

from antiphon.protocol import problems
from antiphon.protocol.fields import Enumeration, Flag, Integer, Number, Spec, String
from antiphon.protocol.metadata import METADATA
from antiphon.protocol.shapes import Array, Either, JsonObject, Mapping, Object, Tagged
from antiphon.search.json_path import NOT_IN_PATHS, path_of_key

Json = dict[str, Any]
Condition = tuple[str, list[Any]]
MAX_BATCH_FILES = 2000
MAX_RESULTS = 50
AUTO_CHUNK = (256, 32)
"""Tokens of a chunk and of its overlap where the server chooses: what small embedding models take in whole."""
MAX_FILTER_DEPTH = 8
MAX_FILTERS = 64
_COMPARISONS = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_NUMBERS, _TEXT, _TRUTH = "('integer', 'real')", "('text')", "('true', 'false')"
_LARGEST = 2**63 - 1

_attributes = Mapping(
    Either((String(max_length=512), Number(), Flag())),
    max_properties=16,
    max_name_length=64,
    called="attributes object",
    nullable=True,
)
_expires_after_fields: dict[str, Spec] = {
    "anchor": Enumeration(("last_active_at",)),
    "days": Integer(minimum=1, maximum=365),
}
_expires_after = Object(_expires_after_fields, required=("anchor", "days"), nullable=True)
_name = String(max_length=256, nullable=True)
_file_id = String(min_length=1, max_length=64)
_chunking = Tagged(
    "type",
    {
        "auto": Object({"type": String()}, required=("type",)),
        "static": Object(
            {
                "type": String(),
                "static": Object(
                    {
                        "max_chunk_size_tokens": Integer(minimum=100, maximum=4096),
                        "chunk_overlap_tokens": Integer(minimum=0),
                    },
                    required=("max_chunk_size_tokens", "chunk_overlap_tokens"),
                ),
            },
            required=("type", "static"),
        ),
    },
    nullable=True,
)
create_store = Object(
    {
        "file_ids": Array(_file_id, "strings", max_length=500, nullable=True),
        "name": _name,
        "description": String(max_length=2000, nullable=True),
        "expires_after": _expires_after,
        "chunking_strategy": _chunking,
        "metadata": METADATA,
    }
)
update_store = Object({"name": _name, "expires_after": _expires_after, "metadata": METADATA})
_file_fields: dict[str, Spec] = {"file_id": _file_id, "chunking_strategy": _chunking, "attributes": _attributes}
create_file = Object(_file_fields, required=("file_id",))
update_file = Object({"attributes": _attributes}, required=("attributes",))
create_batch = Object(
    {
        "file_ids": Array(_file_id, "strings", min_length=1, max_length=MAX_BATCH_FILES),
        "files": Array(create_file, "objects", min_length=1, max_length=MAX_BATCH_FILES),
        "attributes": _attributes,
        "chunking_strategy": _chunking,
    }
)
max_num_results = Integer(minimum=1, maximum=MAX_RESULTS, nullable=True)
_weight = Number(minimum=0)
RANKERS = ("none", "auto", "default-2024-11-15")
"""OpenAI's names. In addition to these, a request may name a reranker of the server."""
ranking_options = Object(
    {
        "ranker": String(
            min_length=1,
            max_length=256,
            nullable=True,
            note=f"One of {problems.listed(RANKERS, 'and')}, or the name of a reranker of this server.",
        ),
        "score_threshold": Number(minimum=0, maximum=1, nullable=True),
        "hybrid_search": Object(
            {"embedding_weight": _weight, "text_weight": _weight},
            required=("embedding_weight", "text_weight"),
            nullable=True,
        ),
    },
    nullable=True,
)


class FilterSpec(JsonObject):
    """A comparison of one attribute, or several filters that must all hold, or of which one must."""

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        compile_filters(value, path, "metadata")


class RefusedFlag(Flag):
    """A flag that can only be false here."""

    can_refuse: ClassVar[bool] = True

    def refuse(self, value: Any, path: str) -> None:
        if value:
            raise problems.unsupported_value(path, "true", ("false",))


filters = FilterSpec(nullable=True)
search = Object(
    {
        "query": Either((String(min_length=1), Array(String(min_length=1), "strings", min_length=1, max_length=16))),
        "rewrite_query": RefusedFlag(nullable=True, note="Only false: no query is rewritten."),
        "max_num_results": max_num_results,
        "filters": filters,
        "ranking_options": ranking_options,
    },
    required=("query",),
)


def check_chunking(strategy: Json | None, path: str) -> tuple[int, int]:
    """Return tokens of a chunk and of its overlap. ``ApiError`` 400 for an overlap of more than half a chunk."""
    if strategy is None or strategy["type"] == "auto":
        return AUTO_CHUNK
    tokens: int = strategy["static"]["max_chunk_size_tokens"]
    overlap: int = strategy["static"]["chunk_overlap_tokens"]
    if 2 * overlap > tokens:
        where = f"{path}.static.chunk_overlap_tokens"
        raise problems.bad_request(
            f"Invalid '{where}': the overlap must not exceed half of 'max_chunk_size_tokens'.", where, "invalid_value"
        )
    return tokens, overlap


def compile_filters(given: Any, path: str, column: str) -> Condition:
    """Return an SQL condition on the JSON in ``column``, and its parameters. ``ApiError`` 400 for anything else than a filter.

    A file that lacks the attribute satisfies ``ne`` and ``nin`` alone. Types do not mix: "1" is not 1, and true is not 1.
    """
    return _Filters(column).compile(given, path, 1)


class _Filters:
    """``column`` is a fixed name; all that a client wrote becomes a parameter."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._count = 0

    def compile(self, given: Any, path: str, depth: int) -> Condition:
        self._count += 1
        if depth > MAX_FILTER_DEPTH or self._count > MAX_FILTERS:
            raise problems.bad_request(
                f"Invalid '{path}': at most {MAX_FILTERS} filters, {MAX_FILTER_DEPTH} levels deep, are allowed.",
                path,
                "invalid_value",
            )
        JsonObject().check(given, path)
        given = cast("Json", given)
        kind: Any = given.get("type")
        if kind in {"and", "or"}:
            _compound.check(given, path)
            inner = [
                self.compile(one, f"{path}.filters[{index}]", depth + 1) for index, one in enumerate(given["filters"])
            ]
            joined = f" {kind.upper()} ".join(f"({sql})" for sql, _ in inner)
            return joined, [value for _, values in inner for value in values]
        _comparison.check(given, path)
        return self._compare(given, path)

    def _compare(self, given: Json, path: str) -> Condition:
        key: str = given["key"]
        place = path_of_key(key)
        if place is None:
            raise problems.bad_request(
                f"Invalid '{path}.key': a key to filter by cannot hold {NOT_IN_PATHS}.", f"{path}.key"
            )
        kind, value = given["type"], given["value"]
        is_list = isinstance(value, list)
        if is_list != (kind in {"in", "nin"}):
            expected = "an array" if kind in {"in", "nin"} else "a string, a number or a boolean"
            raise problems.wrong_type(f"{path}.value", expected, value)
        if not is_list and type(value) is bool and kind not in {"eq", "ne"}:
            raise problems.wrong_type(f"{path}.value", "a string or a number", value)
        wanted = cast("list[Any]", value) if is_list else [value]
        operator = _COMPARISONS.get(kind, "=")
        tests = [self._test(one, operator, place, f"{path}.value") for one in wanted]
        sql = " OR ".join(f"({test})" for test, _ in tests) or "0"
        values = [parameter for _, parameters in tests for parameter in parameters]
        # A comparison with an attribute that is not there is unknown in SQL, and its negation too.
        return (f"NOT coalesce({sql}, 0)" if kind in {"ne", "nin"} else f"coalesce({sql}, 0)"), values

    def _test(self, value: Any, operator: str, place: str, path: str) -> Condition:
        kinds = _TRUTH if type(value) is bool else _TEXT if type(value) is str else _NUMBERS
        if type(value) is int and abs(value) > _LARGEST:
            raise problems.bad_request(f"Invalid '{path}': the number is beyond 64 bits.", path, "invalid_value")
        sql = f"json_type({self._column}, ?) IN {kinds} AND json_extract({self._column}, ?) {operator} ?"
        return sql, [place, place, int(value) if type(value) is bool else value]


_scalar = Either((String(max_length=512), Number(), Flag()))
_comparison = Object(
    {
        "type": Enumeration(("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or")),
        "key": String(min_length=1, max_length=64),
        "value": Either(
            (String(max_length=512), Number(), Flag(), Array(_scalar, "values", min_length=1, max_length=256))
        ),
    },
    required=("type", "key", "value"),
)
_compound = Object(
    {
        "type": Enumeration(("and", "or")),
        "filters": Array(JsonObject(), "objects", min_length=1, max_length=MAX_FILTERS),
    },
    required=("type", "filters"),
)
