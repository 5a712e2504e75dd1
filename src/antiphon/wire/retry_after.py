"""How long an answer asks its client to wait: ``retry-after-ms`` (milliseconds), ``Retry-After`` (seconds or an HTTP date).

Follows RFC 9110, section 10.2.3. A value that cannot be read counts as absent.
"""

import email.utils
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def retry_after_s(headers: Mapping[str, str], unix_time: float) -> float | None:
    """Return the seconds to wait, 0 or more; None if no header gives any. ``unix_time`` is now, to read dates against."""
    named = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(named.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    text = named.get("retry-after", "")
    seconds = _number(text)
    if seconds is not None:
        return seconds
    date = _http_date(text)
    return None if date is None else max(0.0, date - unix_time)


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _http_date(text: str) -> float | None:
    """Return a date in Unix seconds; one without a zone is in UTC, as HTTP dates are."""
    try:
        parsed = email.utils.parsedate_tz(text)
        if parsed is None:
            return None
        year, month, day, hour, minute, second = parsed[:6]
        # A leap second is the 60th.
        zone = timezone(timedelta(seconds=parsed[9] or 0))
        return datetime(year, month, day, hour, minute, min(second, 59), tzinfo=zone).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        # The parser of the standard library accepts fields that no calendar has, such as the year 9999999.
        return None
