"""A tool that the server runs while a response is made: what the course of a turn needs of it.

An implementation is made for one turn, from one entry of the request's ``tools`` (``ServedTool``). In the order of a turn:

1. ``prepare`` does what must precede the first prompt (an MCP server's tools are listed); afterwards ``definitions`` are known.
   ``resume`` does what earlier turns left to do (calls that the user has now approved).
2. For each call that the model writes: ``begin``, ``add_arguments`` as its text comes, and at the end of the generation
   ``run``, or ``abandon`` where the text was cut off.
3. ``aclose``, whatever happened.

Each yields the events of its items (``protocol/responses/output_items.py``). The finished items become part of the next prompt
through ``protocol/responses/history.py``, in the same way as on a later turn: the prefix cache then holds.
A failure of the tool is an item that says so. What is raised ends the response as failed.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from antiphon.protocol.chat import Tool
from antiphon.protocol.responses.output_items import ItemEvent
from antiphon.protocol.responses.tools import ServedTool

Json = dict[str, Any]


class ServerCall:
    """A call that the model writes. ``name`` is the tool's as the model sees it; ``arguments`` grow until the generation ends.

    ``item_id`` is for the implementation, which sets ``ends_turn`` where the answer has to wait for the client.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.pieces: list[str] = []
        self.item_id = ""
        self.ends_turn = False

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class ServerTool(Protocol):
    """One entry of a request's ``tools``, in one turn."""

    @property
    def definitions(self) -> Sequence[Tool]:
        """What the model is offered, under names that no other tool of the request has."""
        ...

    def prepare(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        """Get ready; ``items`` are all that precede the answer.

        Called again it does nothing twice, and yields the same: a prompt may be counted before the turn begins.
        """
        ...

    def resume(self, items: Sequence[Json]) -> AsyncGenerator[ItemEvent]:
        """Run the calls among ``items`` that can be run now."""
        ...

    def begin(self, call: ServerCall) -> list[ItemEvent]:
        """The model begins to write a call."""
        ...

    def add_arguments(self, call: ServerCall, text: str) -> list[ItemEvent]:
        """The model wrote more of the arguments; ``call`` has them already."""
        ...

    def run(self, call: ServerCall) -> AsyncGenerator[ItemEvent]:
        """Run a call that is complete. Closing the generator stops the work."""
        ...

    def abandon(self, call: ServerCall) -> list[ItemEvent]:
        """End the item of a call that is not run, because the model did not finish it."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and processes; the tool may be used again after it. Idempotent."""
        ...


OpenTool = Callable[[ServedTool, str], ServerTool]
"""Makes the tool that an entry of ``tools`` asks for, for an account. Raises ``ApiError`` 400 for what it may not reach."""


class ServerTools:
    """The kinds of tools that this server runs; ``openers`` make them, by the ``type`` of their entry."""

    def __init__(self, openers: Mapping[str, OpenTool]) -> None:
        self._openers = dict(openers)

    @property
    def kinds(self) -> AbstractSet[str]:
        return self._openers.keys()

    def open(self, served: ServedTool, account: str) -> ServerTool:
        """Return the tool for one turn; nothing is connected yet. Raises as its opener does."""
        return self._openers[served.kind](served, account)
