"""What a response has said so far: its output items, and the events that lead to them.

One ``feed`` serves both renderings. The body takes the value at the end; the stream sends the events, in the order that
the official client's accumulator demands: an item is added before its parts, a part before its deltas, and every item is
done before the response is.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import (
    ChoiceFinished,
    Completed,
    Event,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)
from antiphon.protocol.ids import new_item_id
from antiphon.protocol.rendering.frames import encode
from antiphon.protocol.rendering.logprobs import token_values
from antiphon.protocol.responses.compaction import Compacted, Compacting
from antiphon.protocol.responses.output_items import Cited, ItemAdded, ItemDone, ItemEvent, ItemNews
from antiphon.protocol.responses.request import ResponseRequest
from antiphon.protocol.responses.tool_search import NAME as SEARCH

Json = dict[str, Any]
Named = tuple[str, Json]
"""An event's type and its fields, without ``type`` and ``sequence_number``."""
Seal = Callable[[str], str]
TurnEvent = Event | Compacting | Compacted | ItemEvent | Cited
"""What happens in the course of a response: what a backend says, and what the server adds to it."""

_RUNNING = ("queued", "in_progress")
_INCOMPLETE: Mapping[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


class Item:
    """An output item that grows. ``position`` is its place in the output."""

    def __init__(self, position: int, value: Json) -> None:
        self.position = position
        self.value = value
        self.id: str = value["id"]
        self.pieces: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.is_done = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def place(self, **more: Any) -> Json:
        """Return the fields that say where an event of this item belongs."""
        return {"item_id": self.id, "output_index": self.position, **more}


class ResponseState:
    """Collects a request's events. ``value`` is the response object at any moment."""

    def __init__(self, id: str, created: float, request: ResponseRequest, seal: Seal) -> None:  # noqa: A002 - the name on the wire
        self.id = id
        self._created = created
        self._request = request
        self._seal = seal
        self.found: dict[str, list[Json]] = {}
        """What searches found, by the id of their item: later turns see it, and clients where they asked for it."""
        self._items: list[Item] = []
        self._calls: dict[int, Item] = {}
        self._served: dict[str, Item] = {}
        self._open: Item | None = None
        self.open_message: Item | None = None
        """The message whose text part is growing, None if something else is."""
        self._model = request.chat.model
        self._usage: Usage | None = None
        self._reason: FinishReason = "stop"
        self._error: ApiError | None = None
        self._completed_at: float | None = None
        self.status = "queued" if request.background else "in_progress"
        self._encoded: bytes | None = None

    def take(self, event: TurnEvent) -> None:
        """Take one event in for an answer in one piece: as ``feed``, without the events that nobody reads."""
        item = self.open_message
        if item is not None and type(event) is TextDelta:
            item.pieces.append(event.text)
            if event.logprobs:
                item.logprobs.extend(event.logprobs)
        else:
            self.feed(event, time.time())

    def feed(self, event: TurnEvent, now: float) -> list[Named]:
        """Take one event in; return the events of the wire that follow from it. ``now`` is the wall clock in seconds."""
        self._encoded = None
        match event:
            case Started():
                self._model = event.model
                self.status = "in_progress"
            case ChoiceFinished():
                self._reason = event.reason
                return self._end_generation()
            case Completed():
                self._usage, self._completed_at = event.usage, now
                self.status = "incomplete" if self._reason in _INCOMPLETE else "completed"
            case Compacting():
                return self._begin_compaction()
            case Compacted():
                return self._end_compaction(event.text)
            case ItemAdded() | ItemNews() | ItemDone() | Cited():
                return self._serve(event)
            case _:
                return self._grow(event)
        return []

    def _serve(self, event: ItemEvent | Cited) -> list[Named]:
        """Show what happens to an item that the server makes. What the model said before it is over when it begins."""
        match event:
            case Cited():
                return self._cite(event)
            case ItemAdded():
                events = self._close()
                item = Item(len(self._items), event.item)
                self._items.append(item)
                self._served[item.id] = item
                added = ("response.output_item.added", {"output_index": item.position, "item": event.item})
                return [*events, added]
            case ItemNews():
                return [(event.kind, self._served[event.item_id].place(**event.fields))]
            case ItemDone():
                item = self._served[event.item["id"]]
                item.value, item.is_done = event.item, True
                if event.remembered is not None and event.remembered.get("results"):
                    self.found[item.id] = event.remembered["results"]
                return [("response.output_item.done", {"output_index": item.position, "item": event.item})]

    def _grow(self, event: TextDelta | RefusalDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta) -> list[Named]:
        match event:
            case TextDelta():
                return self._text(event)
            case RefusalDelta():
                return self._refusal(event.text)
            case ReasoningDelta():
                return self._reasoning(event.text)
            case ToolCallStarted():
                return self._call(event)
            case ToolCallDelta():
                return self._arguments(event)

    def fail(self, error: ApiError, now: float) -> None:
        """End the response as failed."""
        self.status, self._error, self._completed_at = "failed", error, now
        self._encoded = None

    def cancel(self) -> None:
        """End the response as cancelled by its client."""
        self.status = "cancelled"
        self._encoded = None

    def encoded(self) -> bytes:
        """Return the response object as JSON; once it is over, the same bytes to all who ask."""
        if self._encoded is not None:
            return self._encoded
        encoded = encode(self.value())
        if self.status not in _RUNNING:
            self._encoded = encoded
        return encoded

    def value(self) -> Json:
        """Return the response object."""
        reason = _INCOMPLETE.get(self._reason) if self.status == "incomplete" else None
        conversation = self._request.conversation
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self._created),
            "status": self.status,
            "completed_at": None if self._completed_at is None else int(self._completed_at),
            "error": None if self._error is None else _error_value(self._error),
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._model,
            "output": [self._final(item) for item in self._items],
            "usage": None if self._usage is None else usage_value(self._usage),
            "conversation": None if conversation is None else {"id": conversation},
            **self._request.echo,
        }

    def _new_id(self, prefix: str) -> str:
        return new_item_id(prefix, self.id, len(self._request.input) + len(self._items))

    def _begin(self, value: Json) -> tuple[Item, list[Named]]:
        events = self._close()
        item = Item(len(self._items), value)
        self._items.append(item)
        self._open = item
        return item, [*events, ("response.output_item.added", {"output_index": item.position, "item": dict(value)})]

    def _begin_compaction(self) -> list[Named]:
        item, events = self._begin({"id": self._new_id("cmp"), "type": "compaction", "encrypted_content": ""})
        return [*events, ("response.compaction.compacting", item.place())]

    def _end_compaction(self, text: str) -> list[Named]:
        assert self._open is not None
        self._open.value["encrypted_content"] = self._seal(text)
        return self._close()

    def _text(self, event: TextDelta) -> list[Named]:
        item, events = self.open_message, []
        if item is None:
            item, events = self._begin_message({"type": "output_text", "annotations": [], "logprobs": [], "text": ""})
        item.pieces.append(event.text)
        item.logprobs.extend(event.logprobs)
        shown = token_values(event.logprobs) if self._request.shows_logprobs else []
        delta = item.place(content_index=0, delta=event.text, logprobs=shown)
        return [*events, ("response.output_text.delta", delta)]

    def _cite(self, event: Cited) -> list[Named]:
        """Annotate the open message where its text ends now, in characters."""
        item, events = self.open_message, []
        if item is None:
            item, events = self._begin_message({"type": "output_text", "annotations": [], "logprobs": [], "text": ""})
        part = item.value["content"][0]
        annotation = {**event.annotation, "index": len(item.text)}
        number = len(part["annotations"])
        part["annotations"] = [*part["annotations"], annotation]
        added = item.place(content_index=0, annotation_index=number, annotation=annotation)
        return [*events, ("response.output_text.annotation.added", added)]

    def _refusal(self, text: str) -> list[Named]:
        item, events = self._open, []
        if item is None or item.value["type"] != "message" or item.value["content"][0]["type"] != "refusal":
            item, events = self._begin_message({"type": "refusal", "refusal": ""})
        item.pieces.append(text)
        return [*events, ("response.refusal.delta", item.place(content_index=0, delta=text))]

    def _begin_message(self, part: Json) -> tuple[Item, list[Named]]:
        value: Json = {
            "id": self._new_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        item, events = self._begin(value)
        self.open_message = item if part["type"] == "output_text" else None
        value["content"] = [part]
        return item, [*events, ("response.content_part.added", item.place(content_index=0, part=dict(part)))]

    def _reasoning(self, text: str) -> list[Named]:
        item, events = self._open, []
        if item is None or item.value["type"] != "reasoning":
            item, events = self._begin(
                {"id": self._new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": []}
            )
            part: Json = {"type": "reasoning_text", "text": ""}
            events.append(("response.content_part.added", item.place(content_index=0, part=part)))
            if self._request.summarises:
                summary: Json = {"type": "summary_text", "text": ""}
                events.append(("response.reasoning_summary_part.added", item.place(summary_index=0, part=summary)))
        item.pieces.append(text)
        events.append(("response.reasoning_text.delta", item.place(content_index=0, delta=text)))
        if self._request.summarises:
            events.append(("response.reasoning_summary_text.delta", item.place(summary_index=0, delta=text)))
        return events

    def _call(self, event: ToolCallStarted) -> list[Named]:
        namespace, name = self._request.names.of(event.name)
        if self._request.names.searches and event.name == SEARCH:
            value = self._new_call("tool_search_call", "tsc", event.id, execution="client", arguments={})
        elif event.kind == "custom":
            value = self._new_call("custom_tool_call", "ctc", event.id, name=name, input="")
        else:
            value = self._new_call("function_call", "fc", event.id, name=name, arguments="")
        if namespace is not None:
            value["namespace"] = namespace
        events = self._close()
        item = Item(len(self._items), value)
        self._items.append(item)
        self._calls[event.call] = item
        return [*events, ("response.output_item.added", {"output_index": item.position, "item": dict(value)})]

    def _new_call(self, kind: str, prefix: str, call_id: str, **fields: Any) -> Json:
        return {"id": self._new_id(prefix), "type": kind, "status": "in_progress", "call_id": call_id, **fields}

    def _arguments(self, event: ToolCallDelta) -> list[Named]:
        item = self._calls[event.call]
        item.pieces.append(event.arguments)
        if item.value["type"] == "tool_search_call":
            return []  # the API has no event for them
        is_custom = item.value["type"] == "custom_tool_call"
        kind = "response.custom_tool_call_input.delta" if is_custom else "response.function_call_arguments.delta"
        return [(kind, item.place(delta=event.arguments))]

    def _end_generation(self) -> list[Named]:
        is_cut = self._reason in _INCOMPLETE
        events = self._close(is_cut=is_cut and not self._calls)
        calls = list(self._calls.values())
        for item in calls:
            events.extend(self._finish(item, "incomplete" if is_cut and item is calls[-1] else "completed"))
        return events

    def _close(self, *, is_cut: bool = False) -> list[Named]:
        item, self._open, self.open_message = self._open, None, None
        return [] if item is None else self._finish(item, "incomplete" if is_cut else "completed")

    def _finish(self, item: Item, status: str) -> list[Named]:
        if item.value["type"] != "compaction":
            item.value["status"] = status
        item.is_done = True
        final = self._final(item)
        done = ("response.output_item.done", {"output_index": item.position, "item": final})
        match item.value["type"]:
            case "message":
                return [*self._message_done(item, final["content"][0]), done]
            case "reasoning":
                return [*self._reasoning_done(item), done]
            case "compaction" | "tool_search_call":
                return [done]
            case "custom_tool_call":
                return [("response.custom_tool_call_input.done", item.place(input=item.text)), done]
            case _:
                named = item.place(name=item.value["name"], arguments=item.text)
                return [("response.function_call_arguments.done", named), done]

    def _message_done(self, item: Item, part: Json) -> list[Named]:
        ended = ("response.content_part.done", item.place(content_index=0, part=part))
        if part["type"] == "refusal":
            return [("response.refusal.done", item.place(content_index=0, refusal=item.text)), ended]
        text = item.place(content_index=0, text=item.text, logprobs=part["logprobs"])
        return [("response.output_text.done", text), ended]

    def _reasoning_done(self, item: Item) -> list[Named]:
        text = item.text
        events: list[Named] = [("response.reasoning_text.done", item.place(content_index=0, text=text))]
        part: Json = {"type": "reasoning_text", "text": text}
        events.append(("response.content_part.done", item.place(content_index=0, part=part)))
        if self._request.summarises:
            summary: Json = {"type": "summary_text", "text": text}
            events.append(("response.reasoning_summary_text.done", item.place(summary_index=0, text=text)))
            events.append(("response.reasoning_summary_part.done", item.place(summary_index=0, part=summary)))
        return events

    def _final(self, item: Item) -> Json:
        """Return an item with what it has said; the same object each time once it is done."""
        value, text = item.value, item.text
        if item.id in self._served:
            return value
        match value["type"]:
            case "message":
                part = value["content"][0]
                said: Json = {"refusal": text} if part["type"] == "refusal" else {"text": text}
                if "text" in said and self._request.shows_logprobs:
                    said["logprobs"] = token_values(item.logprobs)
                return value | {"content": [part | said]}
            case "reasoning":
                if self._request.seals_reasoning and item.is_done and "encrypted_content" not in value:
                    value["encrypted_content"] = self._seal(text)
                summary = [{"type": "summary_text", "text": text}] if self._request.summarises else []
                return value | {"summary": summary, "content": [{"type": "reasoning_text", "text": text}]}
            case "compaction":
                return dict(value)
            case _:
                return value | _written(value["type"], text)


def _written(kind: str, text: str) -> Json:
    """Return what the model wrote in a call. Those of a search are JSON, or the text itself where the answer was cut off."""
    if kind == "custom_tool_call":
        return {"input": text}
    if kind != "tool_search_call":
        return {"arguments": text}
    try:
        return {"arguments": msgspec.json.decode(text or "{}")}
    except msgspec.DecodeError:
        return {"arguments": text}


def usage_value(usage: Usage) -> Json:
    """Return token counts as responses show them."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _error_value(error: ApiError) -> Json:
    code = error.code or ("rate_limit_exceeded" if error.status == 429 else "server_error")  # noqa: PLR2004 - HTTP
    return {"code": code, "message": error.message}
