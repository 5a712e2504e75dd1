"""How long an answer asks its client to wait."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.wire.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "2"}, 2),
        ({"Retry-After": " 2 "}, 2),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0),
        ({"Retry-After": "Thu, 01 Jan 1970 01:01:40 +0100"}, 40),
        ({"Retry-After": "Thu Jan  1 00:01:40 1970"}, 40),
        ({"Retry-After": "Thursday, 01-Jan-70 00:01:40 GMT"}, 40),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    """All spellings are read, and a date without a zone is in UTC."""
    assert retry_after_s(headers, 60) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "nan",
        "inf",
        "-1",
        "1_000",
        "1e400",
        "9" * 5000,
        "\u00b2",
        "\u0661",
        "Fri, 31 Dec 9999999 23:59:59 GMT",
        "Fri, 32 Dec 2099 23:59:59 GMT",
        "Fri, 31 Foo 2099 23:59:59 GMT",
        "31 Dec",
        "Thu, 01 Jan 1970 00:00:10 +9999999999999999999999",
    ],
)
def test_what_cannot_be_read_counts_as_absent(value: str) -> None:
    """A number or date that makes no sense is no wait, and no error."""
    assert retry_after_s({"retry-after": value}, 60) is None
    assert retry_after_s({"retry-after-ms": value}, 60) is None


@given(
    st.one_of(
        st.text(),
        st.from_regex(
            r"(Fri, )?[0-9]{1,9} (Jan|Feb|Dec) [0-9]{1,9} [0-9]{1,3}:[0-9]{1,3}(:[0-9]{1,9})? ?(GMT|[+-][0-9]{1,9})?"
        ),
    )
)
def test_any_text_is_a_finite_wait_or_none(value: str) -> None:
    """Whatever a header says, the result is a number of seconds, 0 or more, or None."""
    for name in ("Retry-After", "retry-after-ms"):
        wait = retry_after_s({name: value}, 60)
        assert wait is None or (wait >= 0 and math.isfinite(wait))
