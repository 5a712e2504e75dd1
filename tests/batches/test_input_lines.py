"""The input file of a batch: its lines, and what is wrong with them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.batches import InputCheck, LineSplitter
from antiphon.batches.input_lines import parse_line

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


def line(custom_id: str = "a", url: str = CHAT, method: str = "POST", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": method, "url": url, "body": {"model": "m", **body}}


def checked(lines: list[Any], endpoint: str = CHAT, max_lines: int = 100, max_line_bytes: int = 10_000) -> InputCheck:
    check = InputCheck(endpoint, max_lines=max_lines, max_line_bytes=max_line_bytes)
    splitter = LineSplitter(max_line_bytes)
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    for number, each in [*splitter.feed(text.encode()), *splitter.end()]:
        check.take(number, each)
    check.end()
    return check


@pytest.mark.parametrize(
    ("lines", "number", "code", "param"),
    [
        ([line(), "{"], 2, "invalid_json_line", None),
        ([line(), "[]"], 2, "invalid_json_line", None),
        (["nul\0l"], 1, "invalid_json_line", None),
        (["[" * 100_0], 1, "invalid_json_line", None),
        ([line(), "", line("b")], 2, "invalid_json_line", None),
        ([{}], 1, "missing_required_parameter", "custom_id"),
        ([{"custom_id": "a", "method": "POST", "url": CHAT}], 1, "missing_required_parameter", "body"),
        ([line() | {"more": 1}], 1, "unknown_parameter", "more"),
        ([line() | {"custom_id": 7}], 1, "invalid_type", "custom_id"),
        ([line("")], 1, "empty_string", "custom_id"),
        ([line(), line()], 2, "duplicate_custom_id", "custom_id"),
        ([line(url=EMBEDDINGS)], 1, "url_mismatch", "url"),
        ([line(method="GET")], 1, "invalid_value", "method"),
        ([line() | {"body": []}], 1, "invalid_type", "body"),
        ([line() | {"body": {}}], 1, "missing_required_parameter", "body.model"),
        ([line(), line("b", model="other")], 2, "model_mismatch", "body.model"),
        ([line(stream=True)], 1, "unsupported_value", "body.stream"),
        ([line(background=True)], 1, "unsupported_value", "body.background"),
        ([line(text="x" * 10_000)], 1, "request_too_large", None),
        ([], None, "empty_file", None),
        (["", " "], None, "empty_file", None),
        ([line(str(n)) for n in range(101)], None, "too_many_tasks", None),
    ],
)
def test_each_mistake_has_its_code_and_line(lines: list[Any], number: int | None, code: str, param: str | None) -> None:
    """The other lines are right."""
    assert [(e["line"], e["code"], e["param"]) for e in checked(lines).errors] == [(number, code, param)]


def test_the_inputs_of_embeddings_are_bounded_together() -> None:
    """Fifty thousand texts in all requests; a text or its token ids are one input."""
    many = [line(str(n), EMBEDDINGS, input=["x"] * 2000) for n in range(25)]
    assert not checked([*many, "", ""], EMBEDDINGS, max_line_bytes=50_000).errors
    more = [*many, line("b", EMBEDDINGS, input="x"), line("c", EMBEDDINGS, input=[1, 2])]
    assert [e["code"] for e in checked(more, EMBEDDINGS, max_line_bytes=50_000).errors] == ["too_many_tasks"]


def test_a_long_list_of_errors_is_cut() -> None:
    """A hundred are shown, however many there are."""
    assert len(checked(["x"] * 500).errors) == 100


@given(st.lists(st.binary(max_size=12).map(lambda text: text.replace(b"\n", b""))), st.lists(st.integers(1, 30)))
def test_lines_are_alike_however_they_are_cut(lines: list[bytes], sizes: list[int]) -> None:
    """Pieces of any size give the same numbered lines; one that is too long comes as None."""
    text = b"".join(each + b"\n" for each in lines)
    splitter = LineSplitter(8)
    found: list[tuple[int, bytes | None]] = []
    for size in (*sizes, len(text)):
        found += splitter.feed(text[:size])
        text = text[size:]
    found += splitter.end()
    assert found == [(n, each if len(each) <= 8 else None) for n, each in enumerate(lines, 1)]


def test_a_body_is_what_the_line_says() -> None:
    """Every field and any characters are kept."""
    body = {"messages": [{"role": "user", "content": "ü\u2028\n"}], "seed": 2**60}
    parsed = parse_line(3, json.dumps(line("id", **body)).encode(), CHAT)
    assert (parsed.number, parsed.custom_id) == (3, "id")
    assert json.loads(parsed.body) == {"model": "m", **body}
