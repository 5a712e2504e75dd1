"""What the model calls a tool, and what the wire calls it: a namespace and a name there are one name here."""

from collections.abc import Mapping

import msgspec

SEPARATOR = "__"


class ToolNames(msgspec.Struct, frozen=True):
    """``wire`` maps the name that the model uses to ``(namespace, name)``.

    ``searches``: a call of ``tool_search`` is for the client, and an item of its own kind.
    """

    wire: Mapping[str, tuple[str | None, str]] = {}
    searches: bool = False

    def of(self, shown: str) -> tuple[str | None, str]:
        """Return namespace and name of a tool that the model called."""
        return self.wire.get(shown, (None, shown))

    def with_more(self, more: "ToolNames") -> "ToolNames":
        """Return both together."""
        return ToolNames({**self.wire, **more.wire}, self.searches or more.searches)


def shown_name(namespace: str | None, name: str) -> str:
    """Return the one name under which the model sees a tool of a namespace."""
    return name if namespace is None else f"{namespace}{SEPARATOR}{name}"
