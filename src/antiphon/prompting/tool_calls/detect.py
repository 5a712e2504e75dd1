"""Detects a model's tool syntax from its chat template.

A conversation that ends in a synthetic call is rendered, and with two and three of them. What surrounds the calls'
names, arguments and ids is the syntax that the model was trained on.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.prompting.errors import TemplateRefusedError
from antiphon.prompting.templates.template import ChatTemplate
from antiphon.prompting.tool_calls.detect_key_values import detect_key_values
from antiphon.prompting.tool_calls.key_values import KeyValueSyntax
from antiphon.prompting.tool_calls.scanning import common_start, whole_tags
from antiphon.prompting.tool_calls.syntax import IdStyle, Slot, SlotKind, ToolSyntax

USER = "MarkerOfUser"
_NAMES = ("markernameone", "markernametwo", "markernamethree")
_IDS = ("call_00000000000000000markeri1", "call_00000000000000000markeri2", "call_00000000000000000markeri3")
_KEY = "markerkey"
_TAG = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")

Thought = tuple[str, str] | None


class _Span(msgspec.Struct, frozen=True):
    kind: SlotKind
    start: int
    end: int


class _Read(msgspec.Struct, frozen=True):
    """A rendered turn of calls: what precedes each call, each call's slots with what follows within it, what ends it."""

    before: list[str]
    calls: list[tuple[Slot, ...]]
    tail: str


def shows_tools(template: ChatTemplate) -> bool:
    """Whether the template shows the model which tools there are."""
    try:
        return _NAMES[0] in template.render([{"role": "user", "content": USER}], _tools())
    except TemplateRefusedError:
        return False


def detect_syntax(template: ChatTemplate, ends: Sequence[str], thought: Thought) -> ToolSyntax | None:
    """Return how the template writes calls, or None if it does not in a form that can be read back.

    ``ends`` are the texts that end a turn; ``thought`` is what opens and closes thinking, which may precede calls.
    """
    styles: tuple[IdStyle, ...] = ("any", "functions", "nine")
    for ids in styles:
        for as_text in (False, True):
            syntax = _Rendering(template, ends, thought, ids, as_text=as_text).syntax()
            if syntax is not None:
                return syntax
    rendering = _Rendering(template, ends, thought, "any", as_text=False)
    key_values = detect_key_values(_NAMES[0], rendering.of_arguments)
    return None if key_values is None else rendering.syntax(key_values)


class _Rendering:
    """One way of giving calls to the template: with ids of one style, arguments as an object or as text."""

    def __init__(
        self, template: ChatTemplate, ends: Sequence[str], thought: Thought, ids: IdStyle, *, as_text: bool
    ) -> None:
        self._template = template
        self._ends = ends
        self._thought = thought
        self._style: IdStyle = ids
        self._as_text = as_text
        self._key_values: KeyValueSyntax | None = None

    def of_arguments(self, arguments: Mapping[str, Any]) -> str | None:
        """Return the text of one call with the given arguments."""
        call = self._call(0)
        return self._generated([{**call, "function": {**call["function"], "arguments": arguments}}])

    def syntax(self, key_values: KeyValueSyntax | None = None) -> ToolSyntax | None:
        """Return the syntax, with arguments in JSON or as key-value pairs of the given form."""
        self._key_values = key_values
        one = self._read(1)
        if one is None:
            return None
        lead, slots, between = one.before[0], one.calls[0], None
        two, three = self._read(2), self._read(3)
        if two and three and two.before[0] == lead and two.tail == one.tail:
            numbered = _numbered(lead, two, three)
            if numbered is not None:
                lead, slots, between = numbered
        text = lead.lstrip()
        trigger, anywhere = _trigger(text)
        return ToolSyntax(
            lead=text,
            space=lead[: len(lead) - len(text)],
            slots=slots,
            between=between,
            tail=one.tail,
            trigger=trigger,
            anywhere=anywhere,
            arguments="text" if self._as_text else "object",
            ids=self._style,
            key_values=self._key_values,
        )

    def _read(self, count: int) -> _Read | None:
        text = self._generated([self._call(number) for number in range(count)])
        if text is None:
            return None
        spans = [self._spans(text, number) for number in range(count)]
        if any(span is None for span in spans):
            return None
        found = [span for span in spans if span]
        before: list[str] = []
        calls: list[tuple[Slot, ...]] = []
        end = 0
        for call in found:
            if call[0].start < end:
                return None
            before.append(text[end : call[0].start])
            gaps = [text[a.end : b.start] for a, b in itertools.pairwise(call)]
            calls.append(tuple(Slot(span.kind, gap) for span, gap in zip(call, [*gaps, ""], strict=True)))
            end = call[-1].end
        return _Read(before, calls, text[end:])

    def _generated(self, calls: list[dict[str, Any]]) -> str | None:
        """Return the text that the model would have written to make these calls."""
        user = {"role": "user", "content": USER}
        turn = {"role": "assistant", "content": "", "tool_calls": calls}
        try:
            prompt = self._template.render([user], _tools()).partition(USER)[2]
            rendered = self._template.render([user, turn], _tools(), add_generation_prompt=False).partition(USER)[2]
        except TemplateRefusedError:
            return None
        return until_end(without_thought(beyond(prompt, rendered), self._thought), self._ends)

    def _call(self, number: int) -> dict[str, Any]:
        name = _NAMES[number]
        arguments: Any = {_KEY: _value(number)}
        whole = _IDS[number]
        forms = {"any": whole, "nine": whole[-9:], "functions": f"functions.{name}:{number}"}
        function = {"name": name, "arguments": json.dumps(arguments) if self._as_text else arguments}
        return {"id": forms[self._style], "type": "function", "function": function}

    def _spans(self, text: str, number: int) -> list[_Span] | None:
        """Return where a call's values are, in order; None if its name or arguments cannot be found."""
        name = text.find(_NAMES[number])
        arguments = _json_span(text, {_KEY: _value(number)})
        if self._key_values is not None:
            written = self._key_values.write({_KEY: _value(number)})
            place = text.find(written)
            arguments = (place, place + len(written)) if place >= 0 else None
        if name < 0 or text.count(_NAMES[number]) != 1 or arguments is None:
            return None
        spans = [_Span("name", name, name + len(_NAMES[number])), _Span("arguments", *arguments)]
        for shown in (_IDS[number], _IDS[number][-9:]):
            place = text.find(shown)
            if place >= 0:
                spans.append(_Span("id", place, place + len(shown)))
                break
        return sorted(spans, key=lambda span: span.start)


def beyond(prompt: str, rendered: str) -> str:
    """Return what the model adds to the prompt in a rendered turn.

    Where the prompt begins a thought that the history leaves out, both are compared as far as they agree, in whole
    tags.
    """
    if rendered.startswith(prompt):
        return rendered[len(prompt) :]
    return rendered[len(whole_tags(common_start(prompt, rendered))) :]


def without_thought(text: str, thought: Thought) -> str:
    """Return the text without the empty thought that some templates put before it, and the space after that."""
    if thought is None:
        return text
    opening, closing = (tag.strip() for tag in thought)
    before, found, after = text.partition(closing)
    inside = before.strip().removeprefix(opening).strip()
    return after.lstrip() if found and inside in {"", "None"} else text


def until_end(text: str, ends: Sequence[str]) -> str:
    """Return the text up to the first of the given endings."""
    places = [text.index(end) for end in ends if end in text]
    return text[: min(places)] if places else text


def _tools() -> list[dict[str, Any]]:
    key = {"type": "string", "description": "Marker"}
    parameters = {"type": "object", "properties": {_KEY: key}, "required": [_KEY]}
    return [
        {"type": "function", "function": {"name": name, "description": "Marker", "parameters": parameters}}
        for name in _NAMES
    ]


def _value(number: int) -> str:
    return f"markervalue{'abc'[number]}"


def _json_span(text: str, value: dict[str, str]) -> tuple[int, int] | None:
    decoder = json.JSONDecoder()
    place = text.find("{")
    while place >= 0:
        try:
            found, length = decoder.raw_decode(text[place:])
        except ValueError:
            found, length = None, 0
        if found == value:
            return place, place + length
        place = text.find("{", place + 1)
    return None


def _numbered(lead: str, two: _Read, three: _Read) -> tuple[str, tuple[Slot, ...], str] | None:
    """Return lead, slots and separator, with a slot for the running number of a call where there is one."""
    first, second = three.calls[0], three.calls[1]
    if [slot.kind for slot in first] != [slot.kind for slot in second] or two.before[1] != three.before[1]:
        return None
    slots: list[Slot] = []
    between = three.before[1]
    if between != three.before[2]:
        split = _around_number(between, three.before[2])
        start = split and re.fullmatch(rf"(.*?)\d+{re.escape(split[1])}", lead, re.DOTALL)
        if not split or not start:
            return None
        slots.append(Slot("number", split[1]))
        lead, between = start[1], split[0]
    for one, other in zip(first, second, strict=True):
        if one.after == other.after:
            slots.append(one)
            continue
        split = _around_number(one.after, other.after)
        if split is None:
            return None
        slots += [Slot(one.kind, split[0]), Slot("number", split[1])]
    return lead, tuple(slots), between


def _around_number(one: str, other: str) -> tuple[str, str] | None:
    """Return the texts around the only number in which two texts differ."""
    for match in re.finditer(r"\d+", one):
        before, after = one[: match.start()], one[match.end() :]
        if re.fullmatch(rf"{re.escape(before)}\d+{re.escape(after)}", other):
            return before, after
    return None


def _trigger(lead: str) -> tuple[str, bool]:
    """Return the beginning of a call that distinguishes it from text, and whether a call may follow text."""
    tag = _TAG.match(lead)
    if tag:
        return tag[0], True
    if lead.startswith("<"):
        return lead, True
    first_line = lead.partition("\n")[0]
    if lead[:1] in {"{", "["} or not re.search(r"[^\w\s]", first_line) or lead.startswith("to="):
        return lead, False
    return first_line, True
