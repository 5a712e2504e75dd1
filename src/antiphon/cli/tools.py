"""``antiphon tools``: what a Python file or an MCP server offers to a model."""

from typing import Annotated

from cyclopts import Parameter

from antiphon.cli.offered import OfferedTools
from antiphon.cli.output import print_json
from antiphon.errors import AntiphonError

_MAX_LINE = 100


def tools(
    *,
    offered: OfferedTools | None = None,
    json: Annotated[bool, Parameter(negative="", help="Print the definitions as one JSON list.")] = False,
) -> None:
    """List the tools of Python files (--tool FILE) and MCP servers (--mcp URL or command).

    A * is before the name of a tool that is not run without a person's approval.
    """
    offered = offered or OfferedTools()
    if not offered.tool and not offered.mcp:
        raise AntiphonError(
            "no tools named", hint="antiphon tools --tool weather.py, or --mcp http://localhost:8000/mcp"
        )
    with offered.opened() as found:
        if json:
            print_json([dict(made.definition) for made in found])
            return
        for made in found:
            described = dict(made.definition)[str(made.definition["type"])]
            first = str(described.get("description") or "").partition("\n")[0]
            names = ", ".join(described.get("parameters", {}).get("properties", {}))
            mark = "*" if made.options.needs_approval else " "
            print(f"{mark} {made.name}({names})  {first[:_MAX_LINE]}")
