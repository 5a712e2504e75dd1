"""A turn that waits: the model called tools that need approval, and nobody was there to ask.

None of the answer's calls has run. The turn is a value that is saved with the chat, so that another process can go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.toolkit.chat.history import Message
from antiphon.toolkit.errors import HistoryError
from antiphon.toolkit.record import CallRecord, ToolCall
from antiphon.toolkit.tools.tool_loop import Approval, ToolResult

Decisions = bool | Mapping[str, Approval]


@dataclass(frozen=True, slots=True)
class PendingTurn:
    """The turn's messages, and the calls of the last one that have no result yet (none: they ran, and the model is next).

    ``asking`` are the ids of the calls that need approval. ``request`` holds the arguments of the ``send`` that began it,
    and ``rounds`` counts its requests to the model. Records and results of earlier rounds are not saved.
    """

    messages: tuple[Message, ...]
    calls: tuple[ToolCall, ...]
    asking: tuple[str, ...]
    request: Mapping[str, Any]
    is_pinned: bool
    rounds: int
    records: tuple[CallRecord, ...] = field(default=(), compare=False)
    results: tuple[ToolResult, ...] = field(default=(), compare=False)

    def decide(self, decisions: Decisions) -> dict[str, Approval]:
        """Return a decision for each call; raises HistoryError, naming the ids, unless exactly those that need one have it."""
        if isinstance(decisions, bool):
            decided: dict[str, Approval] = dict.fromkeys(self.asking, decisions)
        else:
            decided = dict(decisions)
        missing, unknown = set(self.asking) - decided.keys(), decided.keys() - set(self.asking)
        if missing or unknown:
            raise HistoryError(
                f"Calls that wait for approval: {list(self.asking)!r}; decisions were given for {list(decided)!r}",
                hint="give True, False or a reason for each: resume({id: True, ...})",
            )
        return {call.id: decided.get(call.id, True) for call in self.calls}

    def to_json(self) -> dict[str, Any]:
        return {
            "messages": list(self.messages),
            "calls": [[call.id, call.name, call.arguments, call.is_custom] for call in self.calls],
            "asking": list(self.asking),
            "request": dict(self.request),
            "is_pinned": self.is_pinned,
            "rounds": self.rounds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PendingTurn:
        """Read what ``to_json`` gave; raises HistoryError for anything else."""
        try:
            calls = tuple(ToolCall(*call) for call in value["calls"])
            asking: Sequence[str] = value["asking"]
            return cls(
                tuple(value["messages"]), calls, tuple(asking), value["request"], value["is_pinned"], value["rounds"]
            )
        except (KeyError, TypeError) as error:
            raise HistoryError(f"This is not a saved turn: {error!r}") from error
