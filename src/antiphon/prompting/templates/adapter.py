"""Adapts conversations to a template: finds the smallest adaptation with which the model sees every message.

Templates silently drop what they do not know. So each conversation is first rendered with a marker in place of each
content; an adaptation is accepted only if every marker is in the result. It is remembered for the conversation's shape:
the roles of its turns, and which of them call tools. All work is linear in the number of turns.
"""

import hashlib
import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.prompting.errors import TemplateRefusedError
from antiphon.prompting.templates.adaptations import (
    Adaptation,
    Turn,
    content_in_parts,
    developer_as_system,
    joined_system,
    later_words,
    merged_neighbours,
    separate_calls,
    system_in_user,
)
from antiphon.prompting.templates.template import ChatTemplate
from antiphon.protocol.errors import ApiError

_CACHE_SIZE = 512

Adaptations = tuple[Adaptation, ...]

_STRUCTURES: tuple[Adaptations, ...] = (
    (),
    (joined_system,),
    (merged_neighbours,),
    (joined_system, merged_neighbours),
    (system_in_user,),
    (system_in_user, merged_neighbours),
)


_MARKERS = re.compile(r"Marker\d{6,}x(?:\d+y)?")


class ConversationAdapter:
    """Finds and remembers adaptations for one template. Safe to share between threads."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        first: Adaptations = () if "developer" in template.source else (developer_as_system,)
        forms: tuple[Adaptations, ...] = ((), (content_in_parts,))
        splits: tuple[Adaptations, ...] = ((), (separate_calls,), (later_words,))
        self._candidates: list[Adaptations] = [
            (*first, *structure, *split, *form)
            for form, split, structure in itertools.product(forms, splits, _STRUCTURES)
        ]
        self._known: OrderedDict[bytes, Adaptations] = OrderedDict()
        self._lock = threading.Lock()

    def render(self, turns: Sequence[Turn], tools: Sequence[Any] | None, variables: Mapping[str, Any]) -> str:
        """Render the conversation.

        Raises ``ApiError`` 400 with the template's words when it refuses, or naming the message that it would drop.
        """
        shape = _shape(turns, tools, variables)
        with self._lock:
            adaptations = self._known.get(shape)
        if adaptations is None:
            adaptations = self._find(turns, tools, variables)
            with self._lock:
                self._known[shape] = adaptations
                while len(self._known) > _CACHE_SIZE:
                    self._known.popitem(last=False)
        try:
            return self._template.render(_apply(adaptations, turns), tools, **variables)
        except TemplateRefusedError as error:
            raise _refusal(error) from error

    def _find(self, turns: Sequence[Turn], tools: Sequence[Any] | None, variables: Mapping[str, Any]) -> Adaptations:
        marked = [_marked(turn, number) for number, turn in enumerate(turns)]
        # Which adaptation fits does not depend on how many tools there are.
        tools = tools[:1] if tools else None
        problem: ApiError | None = None
        for adaptations in self._candidates:
            try:
                rendered = self._template.render(_apply(adaptations, marked), tools, **variables)
            except TemplateRefusedError as error:
                problem = problem or _refusal(error)
                continue
            shown = frozenset(_MARKERS.findall(rendered))
            missing = next((n for n, turn in enumerate(marked) if not _markers(turn, n) <= shown), None)
            if missing is None:
                return adaptations
            problem = problem or _dropped(missing, turns[missing])
        assert problem is not None
        raise problem


def _apply(adaptations: Adaptations, turns: Sequence[Turn]) -> list[Turn]:
    adapted = list(turns)
    for adaptation in adaptations:
        adapted = adaptation(adapted)
    return adapted


def _marker(number: int) -> str:
    return f"Marker{number:06d}x"


def _marked(turn: Turn, number: int) -> Turn:
    marked = dict(turn)
    if turn["content"]:
        marked["content"] = _marker(number)
    if turn.get("tool_calls"):
        marked["tool_calls"] = [_marked_call(call, number, place) for place, call in enumerate(turn["tool_calls"])]
    return marked


def _marked_call(call: dict[str, Any], number: int, place: int) -> dict[str, Any]:
    marker = f"{_marker(number)}{place}y"
    as_text = isinstance(call["function"]["arguments"], str)
    arguments = f'{{"key": "{marker}"}}' if as_text else {"key": marker}
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _markers(turn: Turn, number: int) -> frozenset[str]:
    """Return the markers in a marked turn."""
    of_calls = {f"{_marker(number)}{place}y" for place in range(len(turn.get("tool_calls") or ()))}
    return frozenset(of_calls | {_marker(number)} if turn["content"] else of_calls)


def _shape(turns: Sequence[Turn], tools: Sequence[Any] | None, variables: Mapping[str, Any]) -> bytes:
    """Return a digest of what decides which adaptation fits: small, however many turns there are."""
    digest = hashlib.blake2b(repr((bool(tools), sorted(variables.items()))).encode(), digest_size=16)
    for turn in turns:
        digest.update(repr((turn["role"], bool(turn["content"]), len(turn.get("tool_calls") or ()))).encode())
    return digest.digest()


def _refusal(error: TemplateRefusedError) -> ApiError:
    return ApiError(400, f"The model's chat template refuses these messages: {error.message}", param="messages")


def _dropped(number: int, turn: Turn) -> ApiError:
    return ApiError(
        400,
        f"The model's chat template has no place for 'messages[{number}]' with role '{turn['role']}' here, "
        "so the model would never see it.",
        param=f"messages[{number}]",
    )
