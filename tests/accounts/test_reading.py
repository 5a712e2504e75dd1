"""The numbers in headers and 429 texts, against values captured from the real API."""

import pytest

from antiphon.accounts.reading import Reading, Scope
from antiphon.wire.durations import format_duration


def test_captured_tpm_wait() -> None:
    """Limit 30000, used 14567, requested 24754 waits 18.642 s, as the real API said."""
    assert format_duration(Reading(Scope.TOKENS, 30_000, 14_567).wait_s(24_754)) == "18.642s"


def test_captured_rpm_wait() -> None:
    """Limit 3, used 3, requested 1 waits 20 s, as the real API said."""
    assert format_duration(Reading(Scope.REQUESTS, 3, 3).wait_s(1)) == "20s"


def test_captured_rpd_wait() -> None:
    """Limit 200 a day, used 200, requested 1 waits 7m12s, as the real API said."""
    assert format_duration(Reading(Scope.REQUESTS_PER_DAY, 200, 200).wait_s(1)) == "7m12s"


def test_reset_follows_from_the_integers_shown() -> None:
    """The reset header is (limit - remaining) * 60 / limit of the integers beside it."""
    headers = Reading(Scope.TOKENS, 150_000, 16.2).headers()
    assert headers == {
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149983",
        "x-ratelimit-reset-tokens": "7ms",
    }


def test_an_overdrawn_bucket_shows_nothing_left() -> None:
    """A bucket over its limit shows 0 remaining, never less, and waits until it is below again."""
    reading = Reading(Scope.TOKENS, 600, 660)
    assert reading.remaining == 0
    assert reading.wait_s(10) == pytest.approx(7.0)
