"""How a model writes tool calls: literal text around slots.

A turn of calls is ``lead CALL (between CALL)* tail``, and a call is its slots, each followed by literal text (the
last one's is in ``between`` and ``tail``). That covers the families of today: tagged JSON, arrays of JSON, names
before or after arguments, ids, running numbers.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from antiphon.prompting.tool_calls.key_values import KeyValueSyntax
from antiphon.prompting.tool_calls.scanning import common_start

SlotKind = Literal["name", "arguments", "id", "number"]
IdStyle = Literal["any", "nine", "functions"]


class Slot(msgspec.Struct, frozen=True):
    """A place for one of a call's values, and the literal text between it and the next slot."""

    kind: SlotKind
    after: str = ""


class ToolSyntax(msgspec.Struct, frozen=True, kw_only=True):
    """One model's way of calling tools.

    ``between`` is None where a turn holds one call only. ``trigger`` is the beginning of ``lead`` that
    distinguishes a call from text; it may follow text if ``anywhere``, else it counts only at the start of the answer, after ``space``.
    ``arguments`` says what the template takes in a history: an object or its JSON text. ``ids`` is the form of call
    ids that it insists on: any, nine letters and digits, or ``functions.NAME:NUMBER``. With ``key_values``, arguments are written as
    such instead of as a JSON object.
    """

    lead: str
    slots: tuple[Slot, ...]
    between: str | None
    tail: str
    trigger: str
    space: str = ""
    anywhere: bool = True
    arguments: Literal["object", "text"] = "object"
    ids: IdStyle = "any"
    key_values: KeyValueSyntax | None = None

    @property
    def names_first(self) -> bool:
        """Whether the name is known before the arguments begin."""
        kinds = [slot.kind for slot in self.slots]
        return kinds.index("name") < kinds.index("arguments")

    @property
    def shared(self) -> str:
        """What follows every call, be it the last or not."""
        return self.tail if self.between is None else common_start(self.between, self.tail)

    @property
    def ends_inputs(self) -> bool:
        """Whether what follows a custom tool's input, in every call, is more than a bracket, which might belong to it.

        Where it is not, such a call is the last of its turn, and its input ends where the whole tail begins.
        """
        return self.slots[-1].kind != "arguments" or any(char.isalpha() for char in self.shared)

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """Return the text of calls, given as names with arguments in JSON (or a custom tool's input)."""
        written: list[str] = []
        for number, (name, given) in enumerate(calls):
            arguments = given if self.key_values is None else self.key_values.write(json.loads(given))
            values = {"name": name, "arguments": arguments, "id": f"{number:09d}", "number": str(number)}
            written.append("".join(values[slot.kind] + slot.after for slot in self.slots))
        return self.lead + (self.between or "").join(written) + self.tail


GENERIC = ToolSyntax(
    lead='<tool_call>\n{"name": "',
    slots=(Slot("name", '", "arguments": '), Slot("arguments")),
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    tail="}\n</tool_call>",
    trigger="<tool_call>",
)
"""For models whose template knows no tools. It is the most common of the trained forms."""


def as_json(value: Any) -> str:
    """Write JSON with the separators that models see most in training."""
    return json.dumps(value, ensure_ascii=False)
