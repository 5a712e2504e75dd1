"""What is read of a request before another API gets it."""

import pytest

from antiphon.protocol.errors import ApiError
from antiphon.protocol.relay import parse_relay


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse_relay("chat/completions", body)
    assert caught.value.status == 400
    return caught.value


@pytest.mark.parametrize(
    ("field", "param", "message"),
    [
        (b'"n":"2"', "n", "Invalid type for 'n': expected an integer, but got a string instead."),
        (
            b'"max_tokens":5.0',
            "max_tokens",
            "Invalid type for 'max_tokens': expected an integer, but got a decimal number instead.",
        ),
        (b'"stream":"yes"', "stream", "Invalid type for 'stream': expected a boolean, but got a string instead."),
        (b'"user":5', "user", "Invalid type for 'user': expected a string, but got an integer instead."),
        (
            b'"stream_options":{"include_usage":1}',
            "stream_options.include_usage",
            "Invalid type for 'stream_options.include_usage': expected a boolean, but got an integer instead.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_as_openai_does(field: bytes, param: str, message: str) -> None:
    """The fields that are read on the way have OpenAI's errors, with their names."""
    error = refusal(b'{"model":"m",' + field + b"}")
    assert (error.param, error.code, error.message) == (param, "invalid_type", message)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","n":1,"n":2}',
        b'{ "model": "m",\n "temperature": 0, "temperature": 1 }',
        b'{"model":"m","n":1,"\\u006e":2}',
    ],
)
def test_a_name_that_stands_twice_is_refused(body: bytes) -> None:
    """One of two values would be lost on the way."""
    assert "more than once" in refusal(body).message


@pytest.mark.parametrize(
    "body",
    [b'{ "model": "m",\n "n": 2 }', b'{"model":"m","\\u006e":2}', b'{"model":"m","n":2,"\xc3\xa9":[{"n":1},{"n":1}]}'],
)
def test_blanks_and_escapes_are_no_repetition(body: bytes) -> None:
    """However a body is written, a name that stands once is read."""
    assert parse_relay("chat/completions", body).n == 2


@pytest.mark.parametrize("body", [b'{"model":"m",', b'{"model":"m","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Half a body, and one that nobody could walk over."""
    assert "could not parse the JSON body" in refusal(body).message
