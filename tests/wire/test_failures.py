"""Which failures may pass by themselves, and numbers in headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.wire.failures import is_transient, says_too_large, should_retry
from antiphon.wire.numbers import parse_integer


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, False), (400, False), (401, False), (404, False), (422, False)]
    + [(status, True) for status in (408, 409, 429, 500, 502, 503, 504, 520, 529)],
)
def test_statuses_that_may_pass_are_those_of_the_official_client(status: int, expected: bool) -> None:
    """408, 409, 429 and every 5xx are tried again, as the official client does."""
    assert is_transient(status) is expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("This model's maximum context length is 8192 tokens, however you requested 9000 tokens", True),
        ("input is too large to process. increase the physical batch size", True),
        ("Incorrect API key provided", False),
    ],
)
def test_a_refusal_says_in_words_that_a_text_is_too_large(message: str, expected: bool) -> None:
    """The words of OpenAI, and of llama.cpp's server."""
    assert says_too_large(message) is expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"X-Should-Retry": "true"}, True),
        ({"x-should-retry": "false"}, False),
        ({"x-should-retry": "1"}, None),
    ],
)
def test_the_server_may_say_whether_to_retry(headers: dict[str, str], expected: bool | None) -> None:
    """Only the words true and false count, under any spelling of the header's name."""
    assert should_retry(headers) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("60", 60),
        ("-1", -1),
        ("9" * 18, 10**18 - 1),
        (None, None),
        ("", None),
        ("many", None),
        ("1.5", None),
        ("\u00b2", None),
        ("9" * 5000, None),
    ],
)
def test_whole_numbers_in_headers(text: str | None, expected: int | None) -> None:
    """A number of ASCII digits is read; a superscript or a number of 5000 digits is not, and is no error."""
    assert parse_integer(text) == expected


@given(st.text())
def test_any_text_is_an_integer_or_none(text: str) -> None:
    """Whatever a header says, reading it raises nothing."""
    number = parse_integer(text)
    assert number is None or abs(number) < 10**18
