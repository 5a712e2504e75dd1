"""Tool calls in the deltas of a stream, read by id, name and position.

OpenAI numbers the calls of a choice from 0 by ``index`` and sends ``id`` and ``name`` once. Other servers leave ``index``
out, count from 1, number every call 0, repeat the name in each delta, send the name in pieces, send arguments as an object, end with the
whole call once more, or send name and arguments without ``function`` around them.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

Json = dict[str, Any]

_NAMED = frozenset({"index", "id", "type", "function", "custom"})


class UnnamedCallError(ValueError):
    """A tool call ended without a name, so that nobody can run it."""


@dataclass(slots=True)
class StreamedCall:
    """A call that has begun. ``key``: the index or place under which the server sends it, None if it has neither.

    ``arguments`` is what has come so far: JSON, or the text for a custom tool; ``more`` are fields that the API does not name.
    """

    number: int
    key: int | None
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    is_custom: bool = False
    more: Json = field(default_factory=dict[str, Any])
    is_object: bool = False
    """Whether the server began with an empty object, which may be all, or precede the arguments."""

    @property
    def is_complete(self) -> bool:
        """Whether the arguments are a whole JSON object; of a custom tool's text nobody can tell."""
        # The first comparison is cheap, and true of few pieces: arguments are not read anew for each.
        return self.arguments.rstrip().endswith("}") and _value(self.arguments) is not None

    def is_repeated_by(self, text: str) -> bool:
        """Whether ``text`` says the call's arguments once more, as servers do that end with the whole call."""
        # The second comparison is cheap, and tells nearly every piece of arguments apart from a whole.
        is_whole = text.startswith("{") and text.endswith("}") and self.arguments.endswith("}")
        return is_whole and (value := _value(text)) is not None and value == _value(self.arguments)

    def awaits_piece(self, name: str | None) -> bool:
        """Whether ``name`` may be the next piece of the call's name: another text, before any arguments."""
        return bool(name and self.name and name != self.name and not self.arguments)


class ToolCallNumbers:
    """The calls of one choice, in the order in which they begin."""

    def __init__(self) -> None:
        self.calls: list[StreamedCall] = []
        """With the arguments that have come so far."""

    def rewrite(self, deltas: Sequence[Any]) -> list[Json]:
        """Return the ``tool_calls`` of one chunk as OpenAI would have sent them.

        Numbers count from 0. ``id``, ``type`` and the name are in a call's first delta alone, arguments are text. Deltas
        that come before the name of their call are held back until it is known.
        """
        entries = [_nested(cast("Json", delta)) for delta in deltas if isinstance(delta, dict)]
        touched: set[int] = set()
        written: list[Json] = []
        for place, sent in enumerate(entries):
            entry, is_object = _without_empty_object(sent)
            kind, name, text = _read(entry)
            key = _whole_number(entry.get("index"))
            if key is None and len(entries) > 1:
                key = place
            call_id = _id(entry)
            call = self._find(key, call_id, name, text, touched)
            is_named = call is not None and call.name is not None
            is_piece = call is not None and call.awaits_piece(name)
            if call is None:
                call = StreamedCall(len(self.calls), key)
                self.calls.append(call)
            touched.add(call.number)
            if call.id is None and all(one.id != call_id for one in self.calls):
                call.id = call_id
            call.name = f"{call.name}{name}" if is_piece else call.name or name
            call.is_object, call.is_custom = call.is_object or is_object, call.is_custom or kind == "custom"
            call.more |= fields_of_provider(entry)
            is_repeated = kind == "function" and call.is_repeated_by(text)
            call.arguments += "" if is_repeated else text
            if is_named:
                written.append(_next(_silent(entry) if is_repeated else entry, call, kind, has_name=is_piece))
            elif call.name is not None:
                written.append(_first(entry, call, kind))
        return written

    def finish(self) -> list[Json]:
        """Return the deltas that are due at the end of a choice: the empty objects that nothing followed.

        Raises ``UnnamedCallError`` if a call never got a name.
        """
        if any(call.name is None for call in self.calls):
            raise UnnamedCallError("a tool call without a name")
        return [
            {"index": call.number, "function": {"arguments": "{}"}}
            for call in self.calls
            if call.is_object and not call.arguments
        ]

    def _find(
        self, key: int | None, call_id: str | None, name: str | None, text: str, touched: set[int]
    ) -> StreamedCall | None:
        """Return the call that a delta continues, None for a new one."""
        if call_id is not None:
            same = [call for call in self.calls if call.id == call_id]
            of_place = [call for call in same if key is None or call.key in {None, key}]
            if of_place:
                return of_place[0]
            if same and (name is None or (name == same[0].name and not same[0].is_complete)):
                return same[0]
        candidates = [call for call in self.calls if key is None or call.key is None or call.key == key]
        if not candidates:
            return None
        last = candidates[-1]
        if name is None or last.name is None:
            # Some servers make up a new id for each delta of a call.
            return last
        if call_id is None and key is not None and last.number not in touched and last.awaits_piece(name):
            return last
        is_new = (
            (call_id is not None and last.id is not None)
            or last.number in touched
            or name != last.name
            or (bool(text) and last.is_complete)
        )
        return None if is_new else last


def _value(text: str) -> Any:
    """Return the JSON value of a text; None if it is not JSON, or null."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def whole_call(entry: Json) -> Json:
    """Return an entry of a whole message's ``tool_calls`` in OpenAI's form. Raises ``UnnamedCallError``."""
    entry = _nested(entry)
    kind, name, text = _read(entry)
    if name is None:
        raise UnnamedCallError("a tool call without a name")
    body = {**_body(entry, kind), "name": name, _argument_name(kind): text}
    return {**entry, "id": _id(entry) or _new_id(), "type": kind, kind: body}


def fields_of_provider(entry: Mapping[str, Any]) -> Json:
    """Return the fields of a call that the API does not name."""
    return {key: value for key, value in entry.items() if key not in _NAMED}


def arguments_text(value: Any) -> str:
    """Return arguments as JSON text; servers that send an object mean its JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _first(entry: Json, call: StreamedCall, kind: str) -> Json:
    body = {**_body(entry, kind), "name": call.name, _argument_name(kind): call.arguments}
    return {**entry, "index": call.number, "id": call.id or _new_id(), "type": kind, kind: body}


def _next(entry: Json, call: StreamedCall, kind: str, *, has_name: bool) -> Json:
    """Return a later delta of a call: without the id and a repeated name, which clients would append to the first ones.

    ``has_name``: the name is a piece that they should append.
    """
    body = {field: value for field, value in _body(entry, kind).items() if field != "name" or has_name or not value}
    value = body.get(_argument_name(kind))
    if value is not None:
        body[_argument_name(kind)] = arguments_text(value)
    kept = {field: value for field, value in entry.items() if field != "id" or not value}
    return {**kept, "index": call.number, **({kind: body} if kind in entry else {})}


def _nested(entry: Json) -> Json:
    """Return an entry with its name and arguments under ``function``; some servers send them flat."""
    if any(isinstance(entry.get(kind), dict) for kind in ("function", "custom")):
        return entry
    flat = {field: entry[field] for field in ("name", "arguments") if field in entry}
    if not flat:
        return entry
    return {field: value for field, value in entry.items() if field not in flat} | {"function": flat}


def _without_empty_object(entry: Json) -> tuple[Json, bool]:
    """Return an entry without arguments that are an empty object, and whether they were."""
    is_object = _body(entry, "function").get("arguments") == {}
    return _silent(entry) if is_object else entry, is_object


def _silent(entry: Json) -> Json:
    return {**entry, "function": {**_body(entry, "function"), "arguments": ""}}


def _read(entry: Json) -> tuple[str, str | None, str]:
    """Return a delta's kind, name and piece of arguments."""
    kind = "custom" if isinstance(entry.get("custom"), dict) else "function"
    body = _body(entry, kind)
    name = body.get("name")
    return kind, name if isinstance(name, str) and name else None, arguments_text(body.get(_argument_name(kind)))


def _body(entry: Json, kind: str) -> Json:
    body = entry.get(kind)
    return cast("Json", body) if isinstance(body, dict) else {}


def _argument_name(kind: str) -> str:
    return "input" if kind == "custom" else "arguments"


def _id(entry: Json) -> str | None:
    value = entry.get("id")
    return value if isinstance(value, str) and value else str(value) if isinstance(value, int) else None


def _whole_number(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        return int(value[:9])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
