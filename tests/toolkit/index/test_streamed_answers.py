"""Answers that stream, that follow on a conversation, and prefixes of models for search."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.toolkit.model_endpoints import ThinkingEndpoint

from antiphon import (
    AsyncChat,
    AsyncIndex,
    Budget,
    Chat,
    CitedAnswer,
    Document,
    Index,
    IndexingError,
    OutputError,
    Prefixes,
    ToolkitError,
    TruncatedAnswerWarning,
)

DOCUMENTS = [Document("fees", "A lost book costs its price."), Document("hours", "It opens at nine.")]


@pytest.fixture
def server(endpoint: object) -> ThinkingEndpoint:
    """Of which nothing is remembered yet."""
    return ThinkingEndpoint()


def opened(server: ThinkingEndpoint, path: Path, **options: Any) -> Index:
    index = Index(path / "i.sqlite", client=server.client(), **{"model": "m", **options})
    index.update(DOCUMENTS)
    server.requests.clear()
    return index


def test_an_answer_streams_and_ends_with_its_citations(server: ThinkingEndpoint, tmp_path: Path) -> None:
    """Nothing is sent before it is read."""
    with opened(server, tmp_path) as index:
        with index.stream_answer("What costs a lost book?", model="m") as stream:
            assert server.requests == []
            with pytest.raises(ToolkitError, match="not at its end"):
                _ = stream.answer
            pieces = list(stream)
        assert len(pieces) > 1
        assert "".join(pieces) == stream.answer.text == "It is so [1]."
        assert [citation.hit for citation in stream.answer.citations] == [stream.answer.sources[0]]
        assert stream.answer.usage is not None
        with pytest.raises(OutputError, match="Nothing in the index"):
            list(index.stream_answer("?", where={"year": 1}))


CUT: Any = {"model": "m", "max_completion_tokens": 5}


@pytest.mark.parametrize("way", ["answer", "stream"])
def test_an_answer_that_was_cut_warns_at_the_line_that_asked(
    server: ThinkingEndpoint, tmp_path: Path, way: str
) -> None:
    """And says what helps here: what would continue it would cite nothing."""

    def ask(index: Index) -> CitedAnswer:
        if way == "answer":
            return index.answer("What costs a lost book?", **CUT)
        stream = index.stream_answer("What costs a lost book?", **CUT)
        for _ in stream:
            pass
        return stream.answer

    with opened(server, tmp_path) as index, pytest.warns(TruncatedAnswerWarning) as warned:
        made = ask(index)
    assert made.finish_reason == "length"
    assert [warning.filename for warning in warned] == [__file__]
    assert str(warned[0].message).endswith("raise max_completion_tokens")


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["answer", "stream"])
async def test_the_asynchronous_face_warns_at_the_line_that_asked(
    server: ThinkingEndpoint, tmp_path: Path, way: str
) -> None:
    """As the other does."""

    async def ask(index: AsyncIndex) -> None:
        if way == "answer":
            await index.answer("What costs a lost book?", **CUT)
            return
        async for _ in index.stream_answer("What costs a lost book?", **CUT):
            pass

    async with AsyncIndex(tmp_path / "i.sqlite", client=server.async_client(), model="m") as index:
        await index.update(DOCUMENTS)
        with pytest.warns(TruncatedAnswerWarning) as warned:
            await ask(index)
    assert [warning.filename for warning in warned] == [__file__]


def test_a_follow_up_is_searched_for_as_a_question_of_its_own(server: ThinkingEndpoint, tmp_path: Path) -> None:
    """The conversation has both turns, and not the question that was only written anew."""
    with opened(server, tmp_path) as index:
        chat = Chat(client=server.client(), model="m", context_tokens=10_000)
        first = index.answer("What costs a lost book?", chat=chat)
        second = index.stream_answer("And when does it open?", chat=chat)
        assert "".join(second) == "It is so [1]."
    assert isinstance(first, CitedAnswer)
    asked = [body["messages"] for body in server.sent("/chat/completions")]
    assert [len(messages) for messages in asked] == [1, 3, 3]
    assert "cannot" not in asked[0][0]["content"]
    assert "And when does it open?" in asked[1][-1]["content"]
    assert asked[1][-1]["content"].startswith("Do not answer yet.")
    assert "Question: And when does it open?" in asked[2][-1]["content"]
    assert server.sent("/embeddings")[-1]["input"] == ["It is so [1]."]
    assert len(chat.turns) == 2


def test_a_chat_has_its_own_options(server: ThinkingEndpoint, tmp_path: Path) -> None:
    """Two models for one answer are refused; what the index was made with stays with the index."""
    with opened(server, tmp_path, budget=Budget(calls=9)) as index:
        chat = Chat(client=server.client(), model="m", context_tokens=10_000)
        assert index.answer("lost book?", chat=chat).text
        with pytest.raises(ToolkitError, match=r"\['model'\]"):
            index.answer("lost book?", chat=chat, model="other")


def test_the_asynchronous_index_has_the_same(server: ThinkingEndpoint, tmp_path: Path) -> None:
    """With an ``AsyncChat``."""

    async def main() -> list[str]:
        async with AsyncIndex(tmp_path / "i.sqlite", model="m", client=server.async_client()) as index:
            await index.update(DOCUMENTS)
            chat = AsyncChat(client=server.async_client(), model="m", context_tokens=10_000)
            async with index.stream_answer("lost book?", chat=chat) as stream:
                pieces = [piece async for piece in stream]
            assert (await index.answer("and?", chat=chat)).citations
            return [*pieces, stream.answer.text]

    *pieces, whole = asyncio.run(main())
    assert "".join(pieces) == whole


@pytest.mark.parametrize(
    ("model", "prefixes", "embedded"),
    [
        ("intfloat/multilingual-e5-base", None, ["passage: A lost book costs its price.", "query: lost?"]),
        ("nomic-embed-text-v1.5", None, ["search_document: A lost book costs its price.", "search_query: lost?"]),
        ("text-embedding-3-small", None, ["A lost book costs its price.", "lost?"]),
        ("mine", Prefixes("Q: ", "P: "), ["P: A lost book costs its price.", "Q: lost?"]),
        ("nomic-embed-text-v1.5", Prefixes(), ["A lost book costs its price.", "lost?"]),
    ],
)
def test_questions_and_passages_are_embedded_with_what_the_model_expects(
    server: ThinkingEndpoint, tmp_path: Path, model: str, prefixes: Prefixes | None, embedded: list[str]
) -> None:
    """Hits show the text alone."""
    with Index(tmp_path / "i.sqlite", model=model, prefixes=prefixes, client=server.client()) as index:
        index.update(DOCUMENTS[:1])
        (hit,) = index.search("lost?")
    assert [body["input"] for body in server.sent("/embeddings")] == [[text] for text in embedded]
    assert hit.text == "A lost book costs its price."


def test_an_index_keeps_its_prefixes(server: ThinkingEndpoint, tmp_path: Path) -> None:
    """Vectors with and without cannot be compared; an index from before there were any goes on without."""
    with opened(server, tmp_path, prefixes=Prefixes("Q: ")):
        pass
    with Index(tmp_path / "i.sqlite", model="m", client=server.client()) as index:
        index.search("lost?")
    assert server.sent("/embeddings")[-1]["input"] == ["Q: lost?"]
    with pytest.raises(IndexingError, match="was made with prefixes"):
        Index(tmp_path / "i.sqlite", model="m", prefixes=Prefixes("other: "), client=server.client())
    (tmp_path / "old").mkdir()
    with opened(server, tmp_path / "old", model="nomic-embed-text", prefixes=Prefixes()) as index:
        index._index._store._db.execute("DELETE FROM settings WHERE name = 'prefixes'")
    with Index(tmp_path / "old" / "i.sqlite", model="nomic-embed-text", client=server.client()) as index:
        index.search("lost?")
    assert server.sent("/embeddings")[-1]["input"] == ["lost?"]
