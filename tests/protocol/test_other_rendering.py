"""Text completions, embeddings and models go over the wire as OpenAI's do."""

import base64
import codecs
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse

from antiphon.protocol import ApiError, parse_completion, parse_embedding
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingResult
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    RefusalDelta,
    Started,
    TextDelta,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from antiphon.protocol.rendering import (
    CompletionBody,
    CompletionStream,
    error_frame,
    model_value,
    render_embeddings,
)

START, END = Started("smol", 3), Completed(Usage(3, 2))


def request(**fields: Any) -> CompletionRequest:
    return parse_completion({"model": "m", "prompt": "Say: "} | fields)


def body(asked: CompletionRequest, *events: Event) -> dict[str, Any]:
    renderer = CompletionBody("cmpl-1", 123, asked)
    for event in (START, *events, END):
        renderer.feed(event)
    if not asked.echo:  # the API sends nulls there that the client's types do not foresee
        Completion.model_validate_json(renderer.encoded(), strict=True)
    return json.loads(renderer.encoded())


def stream(asked: CompletionRequest, *events: Event) -> list[dict[str, Any]]:
    renderer = CompletionStream("cmpl-1", 123, asked)
    frames = [frame for event in (START, *events, END) for frame in renderer.feed(event)]
    return [json.loads(frame[6:]) for frame in frames]


def token(text: str, logprob: float | None = -1.0) -> TokenLogprob:
    raw = tuple(text.encode())
    return TokenLogprob(text, logprob, raw, () if logprob is None else (TopLogprob(text, logprob, raw),))


def test_body_and_stream_of_a_completion() -> None:
    """The older shapes: text in the choice, no message and no delta."""
    events = [TextDelta(0, "a"), TextDelta(0, "b"), ChoiceFinished(0, "length")]
    answer = body(request(), *events)
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"text": "ab", "index": 0, "logprobs": None, "finish_reason": "length"}]
    chunks = stream(request(stream=True), *events)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["a", "b", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_in_a_stream() -> None:
    """With ``include_usage`` one more chunk carries it, and the others say null."""
    asked = request(stream=True, stream_options={"include_usage": True})
    chunks = stream(asked, TextDelta(0, "a"), ChoiceFinished(0, "stop"))
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None, None]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]["total_tokens"]) == ([], 5)


def test_prompts_times_n_choices() -> None:
    """Choice ``p * n + k`` is the k-th of prompt p; all are there in order."""
    events = [event for index in range(4) for event in (TextDelta(index, str(index)), ChoiceFinished(index, "stop"))]
    choices = body(request(prompt=["a", "b"], n=2), *events)["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == [(0, "0"), (1, "1"), (2, "2"), (3, "3")]


def test_older_logprobs() -> None:
    """Four parallel lists; offsets count characters from the prompt's end on."""
    events = [TextDelta(0, "né", (token("n"), token("é"))), TextDelta(0, "!", (token("!"),)), ChoiceFinished(0, "stop")]
    expected = {
        "tokens": ["n", "é", "!"],
        "token_logprobs": [-1.0, -1.0, -1.0],
        "top_logprobs": [{"n": -1.0}, {"é": -1.0}, {"!": -1.0}],
        "text_offset": [5, 6, 7],
    }
    assert body(request(logprobs=1), *events)["choices"][0]["logprobs"] == expected
    chunks = stream(request(logprobs=1, stream=True), *events)
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks[:2]] == [
        {key: values[:2] for key, values in expected.items()},
        {key: values[2:] for key, values in expected.items()},
    ]


def test_the_drawn_token_is_among_the_alternatives() -> None:
    """Also where it is none of the most probable: there may be one more than asked for."""
    drawn = TokenLogprob("x", -3.0, (120,), (TopLogprob("y", -0.1, (121,)),))
    choice = body(request(logprobs=1), TextDelta(0, "x", (drawn,)), ChoiceFinished(0, "stop"))["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"y": -0.1, "x": -3.0}]


def test_echo_begins_at_zero() -> None:
    """An echoed prompt is part of the text, and its first token has no probability."""
    events = [TextDelta(0, "Say", (token("Say", None),)), TextDelta(0, " x", (token(" x"),)), ChoiceFinished(0, "stop")]
    choice = body(request(logprobs=1, echo=True), *events)["choices"][0]
    assert choice["text"] == "Say x"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert choice["logprobs"]["top_logprobs"] == [None, {" x": -1.0}]
    assert choice["logprobs"]["text_offset"] == [0, 3]


def raw_token(raw: bytes) -> TokenLogprob:
    """A token as a backend reports it: a fragment of a character in chat's notation."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "".join(f"\\x{byte:02x}" for byte in raw)
    return TokenLogprob(text, -1.0, tuple(raw))


@pytest.mark.parametrize(
    ("tokens", "offsets", "shown"),
    [
        ([b"\xc3", b"\xa9", b"!"], [0, 0, 1], ["bytes:\\xc3", "bytes:\\xa9", "!"]),
        (
            ["日".encode()[:2], "日".encode()[2:], "本".encode(), "😀".encode()[:2], b"\x98", b"\x80", b" end"],
            [0, 0, 1, 2, 2, 2, 3],
            ["bytes:\\xe6\\x97", "bytes:\\xa5", "本", "bytes:\\xf0\\x9f", "bytes:\\x98", "bytes:\\x80", " end"],
        ),
        ([b"a\xc3", b"\xa9b", b"c"], [0, 1, 3], ["bytes:a\\xc3", "bytes:\\xa9b", "c"]),
        ([b"\xa5", b"x"], [0, 1], ["bytes:\\xa5", "x"]),
        ([b"\xe6", b"x"], [0, 1], ["bytes:\\xe6", "x"]),
        ([b"", b"x"], [0, 0], ["", "x"]),
    ],
)
def test_tokens_of_bytes(tokens: list[bytes], offsets: list[int], shown: list[str]) -> None:
    """A token that begins inside a character begins where that character does, and is written as its bytes."""
    events = [TextDelta(0, "", tuple(map(raw_token, tokens))), ChoiceFinished(0, "stop")]
    logprobs = body(request(logprobs=0, prompt=[1, 2]), *events)["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == offsets
    assert logprobs["tokens"] == shown
    assert [list(entry) for entry in logprobs["top_logprobs"]] == [[text] for text in shown]


@given(st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=2).map(str.encode)), max_size=12), st.integers(1, 4))
def test_offsets_point_into_the_text(parts: list[bytes], size: int) -> None:
    """However bytes are cut into tokens, each offset is the place of the character that its first byte belongs to."""
    data = b"".join(parts)
    invalid: dict[int, int] = {}

    def note(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        invalid[error.start] = error.end
        return "\ufffd", error.end

    codecs.register_error("note", note)
    data.decode(errors="note")
    replaced = {at for start, end in invalid.items() for at in range(start, end)}
    begins = [*invalid, *(at for at, byte in enumerate(data) if at not in replaced and byte & 0xC0 != 0x80)]
    tokens = [data[start : start + size] for start in range(0, len(data), size)]
    events = [TextDelta(0, "", tuple(map(raw_token, tokens))), ChoiceFinished(0, "stop")]
    found = body(request(logprobs=0, prompt=[1, 2]), *events)["choices"][0]["logprobs"]["text_offset"]
    expected = [sum(begin <= start for begin in begins) - 1 for start in range(0, len(data), size)]
    assert found == expected


def test_events_of_chat_do_not_belong() -> None:
    """What a text completion cannot say is a fault, not silence."""
    for renderer in (CompletionBody("i", 1, request()), CompletionStream("i", 1, request())):
        with pytest.raises(TypeError, match="RefusalDelta"):
            renderer.feed(RefusalDelta(0, "no"))


def test_failure_of_a_completion_stream() -> None:
    """It ends with an error chunk and the end mark."""
    renderer = CompletionStream("i", 1, request())
    assert b'"message":"gone"' in error_frame(ApiError(503, "gone"))
    assert renderer.done() == b"data: [DONE]\n\n"


def test_obfuscated_completion() -> None:
    """Frames are padded here too."""
    asked = request(stream=True, stream_options={"include_obfuscation": True})
    assert len(CompletionStream("i", 1, asked).feed(TextDelta(0, "a"))[0]) % 64 == 0


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_embeddings(encoding_format: str) -> None:
    """Floats parse back to the same float32; base64 is their bytes."""
    vectors = np.array([[0.1, -0.25], [1.0, 3e-8]], dtype="<f4")
    result = EmbeddingResult("mini", tuple(vector.tobytes() for vector in vectors), 9)
    asked = parse_embedding({"model": "m", "input": ["a", "b"], "encoding_format": encoding_format})
    answer = json.loads(render_embeddings(asked, result))
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert (answer["object"], answer["model"]) == ("list", "mini")
    for index, entry in enumerate(answer["data"]):
        assert (entry["object"], entry["index"]) == ("embedding", index)
        value = entry["embedding"]
        raw = base64.b64decode(value) if encoding_format == "base64" else np.array(value, dtype="<f4").tobytes()
        assert raw == vectors[index].tobytes()
    if encoding_format == "float":
        CreateEmbeddingResponse.model_validate(answer, strict=True)


def test_models() -> None:
    """A model says who owns it and since when."""
    model = SimpleNamespace(id="m", created=5, owned_by="antiphon")
    assert model_value(model) == {"id": "m", "object": "model", "created": 5, "owned_by": "antiphon"}
