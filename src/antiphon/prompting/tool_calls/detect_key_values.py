"""Detects from a template how it writes arguments as key-value pairs."""

from collections.abc import Callable, Mapping
from typing import Any

from antiphon.prompting.tool_calls.key_values import KeyValueSyntax
from antiphon.prompting.tool_calls.scanning import common_start, whole_tags

_KEYS = ("markerkeyone", "markerkeytwo")
_VALUES = ("markervalueone", "markervaluetwo")
_NUMBER = 4711

Render = Callable[[Mapping[str, Any]], str | None]


def detect_key_values(name: str, render: Render) -> KeyValueSyntax | None:
    """Return the form of the pairs, or None if the template writes arguments in another form.

    ``render`` gives the text of a call of ``name`` with the given arguments.
    """
    both: Mapping[str, Any] = {_KEYS[0]: _VALUES[0], _KEYS[1]: _VALUES[1]}
    none, one, two = (_after(name, render(arguments)) for arguments in ({}, {_KEYS[0]: _VALUES[0]}, both))
    number = _after(name, render({_KEYS[0]: _NUMBER}))
    if none is None or one is None or two is None or number is None:
        return None
    opening, assign, tail = _around(one, _KEYS[0], _VALUES[0])
    _, assign_number, tail_number = _around(number, _KEYS[0], str(_NUMBER))
    separator = two.partition(_VALUES[0])[2].partition(_KEYS[1])[0]
    raw = True
    if assign == f'{assign_number}"' and tail == f'"{tail_number}' and separator.startswith('"'):
        assign, tail, separator, raw = assign_number, tail_number, separator[1:], False
    if (assign, tail) != (assign_number, tail_number) or not assign:
        return None
    base = whole_tags(common_start(none, opening))
    rest = none[len(base) :]
    if not tail.endswith(rest):
        return None
    ending = tail[: len(tail) - len(rest)]
    if not separator.startswith(ending) or (raw and not ending):
        return None
    return KeyValueSyntax(
        first=opening[len(base) :], assign=assign, separator=separator[len(ending) :], ending=ending, raw=raw
    )


def _after(name: str, text: str | None) -> str | None:
    return None if text is None or name not in text else text.partition(name)[2]


def _around(text: str, key: str, value: str) -> tuple[str, str, str]:
    """Return the text before a key, between it and its value, and after the value."""
    before, _, rest = text.partition(key)
    between, _, after = rest.partition(value)
    return before, between, after
