"""Durations as Go prints them (``120ms``, ``1s``, ``6m0s``): the form of the API's ``x-ratelimit-reset-*`` headers."""

import math
import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|m|s|us|µs|ns)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_duration(text: str) -> float | None:
    """Return a Go duration (``1m30s``) or a plain number of seconds (``17``) in seconds; None for any other text."""
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    elif _NUMBER.fullmatch(text):
        seconds = float(text)
    else:
        return None
    return seconds if math.isfinite(seconds) else None


def format_duration(seconds: float) -> str:
    """Return ``seconds``, rounded up to a millisecond, as Go prints a Duration: ``120ms``, ``1s``, ``6m0s``, ``1h0m0.5s``."""
    # A float such as 18.642000000000003 is 18.642 s to everybody but ceil.
    ms = math.ceil(round(seconds * 1000, 6))
    if ms < 1000:  # noqa: PLR2004 - milliseconds in a second
        return f"{ms}ms" if ms else "0s"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{ms // 1000}.{ms % 1000:03d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
