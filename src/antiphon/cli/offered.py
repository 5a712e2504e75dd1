"""The tools that a command offers to the model: functions of a Python file, and tools of MCP servers."""

import importlib.util
import inspect
import shlex
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from antiphon.errors import AntiphonError
from antiphon.extras import missing_extra
from antiphon.toolkit.record import ToolCall
from antiphon.toolkit.tools.tool import Tool
from antiphon.toolkit.tools.tool import tool as tool_of

_MAX_SHOWN = 400


@Parameter(name="*")
@dataclass(frozen=True)
class OfferedTools:
    """The options that say which tools the model may call, and what needs no question."""

    tool: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="Python file whose functions the model may call; repeat it."),
    ] = ()
    mcp: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="MCP server whose tools the model may call: a URL or a command; repeat it."),
    ] = ()
    yes: Annotated[bool, Parameter(negative="", help="Run calls of tools without asking.")] = False

    @contextmanager
    def opened(self) -> Generator[list[Tool]]:
        """Yield the tools; connections to servers are open until the block ends. Raises AntiphonError."""
        with ExitStack() as stack:
            tools = [made for path in self.tool for made in tools_of(path)]
            if self.mcp:
                tools += stack.enter_context(_servers(self.mcp))
            yield tools

    def approve(self, tools: Sequence[Tool]) -> Callable[[ToolCall], bool | str]:
        """Return what decides on each call: tools that need approval are asked about at the terminal."""
        guarded = {made.name for made in tools if made.options.needs_approval}

        def decide(call: ToolCall) -> bool | str:
            if self.yes or call.name not in guarded:
                return True
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                print(f"antiphon: {call.name} was not run - nobody can be asked here; --yes runs it", file=sys.stderr)
                return "nobody can be asked"
            print(f"{call.name}({call.arguments[:_MAX_SHOWN]})", file=sys.stderr)
            print("Run it? [y/N, or a reason] ", end="", file=sys.stderr, flush=True)
            said = sys.stdin.readline().strip()
            return True if said.lower() in {"y", "yes"} else said or False

        return decide


def tools_of(path: Path) -> list[Tool]:
    """Load a Python file and return its tools, or all its public functions if none is marked. Raises AntiphonError."""
    spec = importlib.util.spec_from_file_location(f"antiphon_tools_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise AntiphonError(f"{path}: not a Python file", hint="name a file that defines functions: --tool weather.py")
    module = importlib.util.module_from_spec(spec)
    # Annotations are looked up by the module's name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise AntiphonError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    values: list[Any] = [value for name, value in vars(module).items() if not name.startswith("_")]
    if marked := [value for value in values if isinstance(value, Tool)]:
        return marked
    functions = [value for value in values if inspect.isfunction(value) and value.__module__ == spec.name]
    if not functions:
        raise AntiphonError(f"{path} defines no functions", hint="define one with annotations and a docstring")
    return [tool_of(function) for function in functions]


@contextmanager
def _servers(addresses: Sequence[str]) -> Generator[list[Tool]]:
    from antiphon.toolkit.tools.tool_servers import mcp_tools  # noqa: PLC0415 - an extra

    servers = [address if "://" in address else shlex.split(address) for address in addresses]
    try:
        opened = mcp_tools(*servers)
        with opened as tools:
            yield tools
    except ImportError as error:
        raise missing_extra(error) or error from error
