"""The tools of a chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.large_results import KeptResults
from antiphon.toolkit.tools.tool import Tool, tool


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Tools by name, and the results of which the model was shown a part."""

    tools: Mapping[str, Tool] = field(default_factory=dict[str, Tool])
    kept: KeptResults = field(default_factory=KeptResults)

    @classmethod
    def of(cls, tools: Sequence[Tool | Callable[..., Any]]) -> Toolbox:
        """Collect ``tools``; plain functions become tools. Raises SchemaError for two of one name.

        If the large results of one are kept, the tool that reads them is added.
        """
        kept = KeptResults()
        named: dict[str, Tool] = {}
        made = [given if isinstance(given, Tool) else tool(given) for given in tools]
        if any(each.options.on_large == "spill" for each in made):
            made.append(kept.tool)
        for each in made:
            if each.name in named:
                raise SchemaError(f"Two tools are called {each.name!r}", hint="rename one: @tool(name=...)")
            named[each.name] = each
        return cls(named, kept)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        return [dict(made.definition) for made in self.tools.values()]
