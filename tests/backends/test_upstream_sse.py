"""Event streams of upstreams, by the standard (WHATWG HTML, 9.2.6)."""

import json
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI

from antiphon.backends.upstream.sse import FrameSplitter, MalformedStream, payloads
from antiphon.backends.upstream.stream_inspector import StreamInspector

CHUNK = '{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}'


def events(*pieces: bytes) -> list[bytes]:
    """Return the data of each event of a stream that comes in these pieces."""
    splitter = FrameSplitter()
    return [data for piece in pieces for _, data in payloads(splitter.feed(piece)) if data is not None]


def naive(stream: bytes) -> list[bytes]:
    """Return the data of each event, as the standard says it, a line at a time."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    found: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        if not line:
            if data:
                found.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return found


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: \xef\xbb\xbfa\n\n", [b"\xef\xbb\xbfa"]),
        (b"id: 7\nevent: message\ndata: a\nretry: 10\n\n", [b"a"]),
        (b": hello\n\ndata: a\n\n", [b"a"]),
        (b": hello\ndata: a\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata\n\n", [b"a\n"]),
        (b"data\n\n", [b""]),
        (b"lonely\nunknown: x\ndata: a\n\n", [b"a"]),
        (b"Data: a\n data: b\ndata : c\ndata: d\n\n", [b"d"]),
        (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: null\n\n", [b"null"]),
        (b"data: a\n\ndata: cut", [b"a"]),
        (b"", []),
    ],
)
def test_events_are_read_as_the_standard_says(stream: bytes, expected: list[bytes]) -> None:
    """Line ends, fields, comments and the byte order mark; in one piece and a byte at a time."""
    assert naive(stream) == expected
    assert events(stream) == expected
    assert events(*(stream[i : i + 1] for i in range(len(stream)))) == expected


LINES = st.sampled_from(
    [
        b"data: {}",
        b"data:",
        b"data",
        b"data: [1]",
        b": ping",
        b"",
        b"",
        b"id: 1",
        b"retry: 5",
        b"x",
        b"x: y",
        b"\xef\xbb\xbf",
    ]
)


@given(
    st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=30),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=20),
)
def test_any_pieces_give_the_same_events(lines: list[tuple[bytes, bytes]], has_mark: bool, cuts: list[int]) -> None:
    """However the bytes of a stream are cut, its events are those of the standard."""
    stream = b"\xef\xbb\xbf" * has_mark + b"".join(line + end for line, end in lines)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[begin:end] for begin, end in pairwise(places)]
    assert events(*pieces) == naive(stream)


@pytest.mark.parametrize("said", [b"data: null\n\n", b"data: \n\n", b"data\n\n"])
def test_an_event_that_says_nothing_is_left_out(said: bytes) -> None:
    """A client would fail to read null, or no data at all, as a chunk."""
    inspector = StreamInspector(hide_usage=False)
    assert inspector.feed(said) == b""
    assert not inspector.has_begun
    assert inspector.feed(said + f"data: {CHUNK}\n\n".encode()) == f"data: {CHUNK}\n\n".encode()


@given(st.lists(st.integers(0, 600), max_size=12), st.sampled_from(["\n", "\r", "\r\n"]))
def test_a_well_formed_stream_is_passed_on_unchanged(cuts: list[int], end: str) -> None:
    """Whatever the pieces and line ends, the frames leave with their bytes, comments among them; only ids stay here."""
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"a": 1.50}'}}
    frames = [
        ": ping",
        f"data: {CHUNK}",
        "id: 3\ndata: " + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}),
        "data: "
        + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [more]}, "logprobs": {"content": []}}]}),
        "data: " + json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}], "x": 1.50}),
        "data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        "data: [DONE]",
    ]
    stream = "".join(frame + "\n\n" for frame in frames)
    sent = stream.replace("\n", end).encode()
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    inspector = StreamInspector(hide_usage=False)
    passed = b"".join(inspector.feed(sent[a:b]) for a, b in pairwise(places))
    assert passed == stream.replace("id: 3\n", "").encode()
    assert inspector.is_done
    assert inspector.outcome.usage is not None


@pytest.mark.parametrize(
    "more",
    [
        "id: 4\n\n",
        "id: 4\ndata: " + CHUNK + "\n\n: ping\n\n",
        "id: 4\n: ping\n\n: ping\n\n",
        "retry: 10\n\n",
        ": ping\nretry: 10\n\n",
        "event: message\n\n",
        "event: ping\ndata: ping\n\n",
        "event: ping\ndata: {}\n\n",
        "x: y\n\n",
        "id: 1\nretry: 2\nx: y\ndata: " + CHUNK + "\n\n: ping\n\n",
    ],
)
def test_the_official_client_reads_what_is_passed_on(more: str) -> None:
    """It takes a frame without data, or a comment after an id, for an event of no data, and fails to read that as JSON."""
    inspector = StreamInspector(hide_usage=False)
    sent = f"{more}data: {CHUNK}\n\n{more}data:  [DONE]\n\n".encode()
    http = httpx2.Client(
        transport=httpx2.MockTransport(
            lambda _: httpx2.Response(200, content=inspector.feed(sent), headers={"content-type": "text/event-stream"})
        )
    )
    client = OpenAI(api_key="k", base_url="http://far.test/v1", http_client=http)
    chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["a"] * (1 + 2 * more.count(CHUNK))


def test_an_event_without_end_is_refused_in_time() -> None:
    """A line of gigabytes is refused at 8 MiB, and its pieces are not copied again for each one that comes."""
    splitter = FrameSplitter()
    for _ in range(8 * 1024):
        assert splitter.feed(b"x" * 1024) == b""
    with pytest.raises(MalformedStream, match="more than"):
        splitter.feed(b"x")
