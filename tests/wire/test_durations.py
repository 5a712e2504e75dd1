"""Durations as Go prints them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.wire.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120ms", 0.12),
        ("1s", 1),
        ("6m0s", 360),
        ("1h2m3.5s", 3723.5),
        ("5us", 5e-6),
        ("5\u00b5s", 5e-6),
        ("17", 17),
        ("1.5", 1.5),
        ("", None),
        ("soon", None),
        ("1s2", None),
        ("1s x", None),
        ("-1s", None),
        ("nan", None),
        ("inf", None),
        ("1_0", None),
        ("9" * 400, None),
        ("9" * 400 + "h", None),
    ],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    """Go durations and plain seconds are read; any other text is None, not a guess."""
    assert parse_duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (18.642, "18.642s"),
        (59.9995, "1m0s"),
        (60.5, "1m0.5s"),
        (360, "6m0s"),
        (432, "7m12s"),
        (3600, "1h0m0s"),
        (86_399.5, "23h59m59.5s"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    """Durations are written as Go writes them, rounded up to a millisecond."""
    assert format_duration(seconds) == text


@given(st.integers(0, 10**12))
def test_what_is_written_is_read_again(milliseconds: int) -> None:
    """Reading a written duration returns it."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text())
def test_any_text_is_a_finite_time_or_none(text: str) -> None:
    """Whatever a header says, the result is a number of seconds, 0 or more, or None."""
    seconds = parse_duration(text)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))
