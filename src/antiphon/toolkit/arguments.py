"""Checks of what callers pass where a wrong value would mean something else in silence."""

from __future__ import annotations

from typing import Any, get_args


def require_one_of(name: str, value: object, choices: Any) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``, a Literal."""
    if value not in (known := get_args(choices)):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def require_several(name: str, value: object) -> None:
    """Raise TypeError for one text where several are wanted: it would be taken for its characters."""
    if isinstance(value, str):
        raise TypeError(f"{name} must be a list of texts, not the text {value[:60]!r}")
