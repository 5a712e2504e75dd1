"""What callers pass by mistake is refused with words that help, where it would mean something else in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.toolkit.scripted_endpoint import Endpoint

import antiphon
from antiphon import (
    Budget,
    Case,
    Chat,
    Document,
    Evaluation,
    EvaluationError,
    HistoryError,
    Index,
    IndexingError,
    SchemaError,
    ToolkitError,
    ToolServer,
    contains,
    extract,
    extract_each,
)
from antiphon.errors import AntiphonError
from antiphon.toolkit.bulk import Request, read_results, run
from antiphon.toolkit.errors import BatchFileError


class Item(BaseModel):
    name: str


def ask(case: Case, **_: Any) -> str:
    return str(case.input)


CASES = [Case("1", "x", "x")]
ONE = [Request.chat("a", "hi", model="m")]

# Each: what is called, with a client and a folder; and what the error says.
MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "one text for several to extract from": (
        lambda client, _: list(extract_each(Item, "one text", client=client)),
        TypeError,
        "texts must be a list of texts, not the text 'one text'",
    ),
    "one model for several to evaluate": (
        lambda *_: Evaluation(CASES, task=ask, scores=[contains()]).run("gpt-4o"),
        TypeError,
        "models must be a list of texts, not the text 'gpt-4o'",
    ),
    "one fallback for several": (
        lambda client, _: Chat(client=client, fallbacks="gpt-4o"),
        TypeError,
        "fallbacks must be a list of texts",
    ),
    "one id for several to delete": (
        lambda client, folder: Index(folder / "i.sqlite", client=client).delete("notes"),
        TypeError,
        "ids must be a list of texts",
    ),
    "one tool for several to offer": (
        lambda *_: ToolServer("http://tools.test/mcp", only="look"),
        TypeError,
        "only must be a list of texts",
    ),
    "a way that does not exist": (
        lambda client, folder: run(ONE, folder / "o.jsonl", client=client, via="batches"),
        ValueError,
        "via must be one of 'calls', 'batch', 'flex', not 'batches'",
    ),
    "a rest that does not exist": (
        lambda client, folder: run(ONE, folder / "o.jsonl", client=client, via="flex", rest="later"),
        ValueError,
        "rest must be one of 'fail', 'now', not 'later'",
    ),
    "a mode that does not exist": (
        lambda client, folder: Index(folder / "i.sqlite", client=client).search("x", mode="bm52"),
        ValueError,
        "mode must be one of 'hybrid', 'vector', 'bm25', not 'bm52'",
    ),
    "an API that does not exist": (
        lambda client, _: Chat(client=client, api="response"),
        ValueError,
        "api must be one of 'auto', 'chat', 'responses', not 'response'",
    ),
    "an approval that does not exist": (
        lambda *_: antiphon.mcp_tools("http://tools.test/mcp", approve="ask"),
        ValueError,
        "approve must be one of 'always', 'changes', 'never', not 'ask'",
    ),
    "an approval for a server that has its own": (
        lambda *_: antiphon.mcp_tools(ToolServer("http://tools.test/mcp", approve="never"), approve="always"),
        TypeError,
        "a ToolServer has its own",
    ),
    "a cut that does not exist": (
        lambda *_: antiphon.tool(max_result_tokens=9, on_large="drop"),
        ValueError,
        "on_large must be one of 'cut', 'spill', not 'drop'",
    ),
    "an option that does not exist": (
        lambda client, _: Chat(client=client, temprature=0),
        TypeError,
        r"no options \['temprature'\] \(did you mean 'temperature'\?\)",
    ),
    "a whole message": (
        lambda client, _: Chat(client=client).send({"role": "user", "content": "hi"}),
        HistoryError,
        "A message is text or a list of parts, not {'role'",
    ),
    "a list of messages": (
        lambda client, _: Chat(client=client).send([{"role": "user", "content": "hi"}]),
        HistoryError,
        "is not a part of a message: it has no 'type'",
    ),
    "no message": (lambda client, _: Chat(client=client).send(None), HistoryError, "not None"),
    "the type in place of the text": (
        lambda client, _: extract(str, Item, client=client),
        HistoryError,
        "A message is text or a list of parts, not <class",
    ),
    "messages in an argument": (
        lambda client, _: Chat(client=client).send("hi", messages=[]),
        ToolkitError,
        "The chat itself sets 'messages' of a request",
    ),
    "a stream in an argument": (
        lambda client, _: Chat(client=client, request={"stream": True}),
        ToolkitError,
        "The chat itself sets 'stream' of a request",
    ),
    "a format next to a type": (
        lambda client, _: Chat(client=client).parse(Item, "hi", response_format={"type": "json_object"}),
        ToolkitError,
        "The chat itself sets 'response_format' of a request",
    ),
    "a type that is a text": (lambda client, _: extract("Item", "x", client=client), SchemaError, "has no JSON schema"),
    "an object in place of a request": (
        lambda client, folder: run([{"custom_id": "a"}], folder / "o.jsonl", client=client),
        BatchFileError,
        "Request 1 is a dict, not a Request",
    ),
    "another file in place of results": (
        lambda *_: list(read_results(__file__)),
        BatchFileError,
        r"test_arguments.py:1: not a line of a batch output file",
    ),
    "a text in place of a document": (
        lambda client, folder: Index(folder / "i.sqlite", client=client).update(["a text"]),
        IndexingError,
        "An index takes documents, not str",
    ),
    "a function in place of a score": (
        lambda *_: Evaluation(CASES, task=ask, scores=[ask]),
        EvaluationError,
        "is not a score",
    ),
    "no cases": (lambda *_: Evaluation([], task=ask, scores=[contains()]), EvaluationError, "needs cases"),
    "words in place of dollars": (lambda *_: Budget(usd="ten"), ValueError, "usd must be >= 0 dollars, got 'ten'"),
    "no number of dollars": (lambda *_: Budget(usd=float("nan")), ValueError, "usd must be >= 0 dollars, got nan"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_sent(endpoint: Endpoint, tmp_path: Path, mistake: str) -> None:
    """The error names the argument and what was given; one of ours has the next step."""
    call, kind, told = MISTAKES[mistake]
    with pytest.raises(kind, match=told) as refused:
        call(endpoint.client(), tmp_path)
    assert endpoint.requests == []
    if isinstance(refused.value, AntiphonError) and not isinstance(refused.value, BatchFileError):
        assert refused.value.hint


def test_a_kind_of_document_of_ones_own_is_a_document(tmp_path: Path, endpoint: Endpoint) -> None:
    """A subclass has all that an index needs."""

    class Note(Document):
        pass

    with Index(tmp_path / "i.sqlite", client=endpoint.client()) as index:
        assert index.update([Note("a", "text")]).num_added == 1


def test_a_star_imports_every_public_name() -> None:
    """Those of the table, and no others."""
    names: dict[str, Any] = {}
    exec("from antiphon import *", names)
    assert names.keys() - {"__builtins__"} == set(antiphon._HOME)
