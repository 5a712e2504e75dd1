"""Python functions as tools that a model may call.

``@tool`` reads a function's signature, annotations and docstring into the strict JSON schema of the API. The
function stays an ordinary function.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.tool_schema import ToolSignature, definition_of

P = ParamSpec("P")
R = TypeVar("R")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """How a tool is run: at most ``timeout_s`` seconds (None: the loop's limit), and only if approved."""

    timeout_s: float | None = None
    needs_approval: bool = False


class Tool(Generic[P, R]):
    """A function with its schema; call it as before. ``definition`` is what goes into ``tools=`` of a request."""

    def __init__(self, function: Callable[P, R], *, name: str | None, strict: bool, options: ToolOptions) -> None:
        # The function's own attributes are not copied: they could hide those of the tool.
        functools.update_wrapper(self, function, updated=())
        target = definition_of(function)
        self.__doc__ = inspect.getdoc(target)
        self.function = function
        self.name: str = name or _name_of(function)
        self.options = options
        if not _NAME.fullmatch(self.name):
            raise SchemaError(
                f"{self.name!r} is not a name for a tool",
                hint="use 1 to 64 letters, digits, '_' and '-': @tool(name=...)",
            )
        self.signature = ToolSignature.of(function, self.name)
        self.definition = self.signature.definition(self.name, strict=strict)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.name}({', '.join(self.signature.names)})>"

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(definition_of(self.function))

    def arguments(self, text: str) -> dict[str, Any]:
        """Return keyword arguments from a model's JSON; raises pydantic.ValidationError if they are not valid."""
        return self.signature.arguments(text)


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function, of the one behind a ``partial``, or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    strict: bool = True,
    timeout_s: float | None = None,
    needs_approval: bool = False,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    strict: bool = True,
    timeout_s: float | None = None,
    needs_approval: bool = False,
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Make a tool of a typed function, plain or async.

    The description is the docstring's (Google, NumPy or reST style, also for parameters, which may be
    ``Annotated[str, "..."]`` instead). Parameters may be whatever pydantic validates (Literal, enums, models, dataclasses,
    lists) with pydantic's ``Field`` for bounds, defaults and descriptions. A callable object and a ``functools.partial``
    work too; arguments that the partial has bound are not shown to the model. ``strict`` makes servers keep to the schema;
    ``strict=False`` allows what strict schemas cannot express, such as ``dict[str, int]``. Raises SchemaError for what
    cannot be described.
    """
    options = ToolOptions(timeout_s, needs_approval)
    if function is not None:
        return Tool(function, name=name, strict=strict, options=options)
    return lambda wrapped: Tool(wrapped, name=name, strict=strict, options=options)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of a chat by name."""

    tools: Mapping[str, Tool[..., Any]] = field(default_factory=dict[str, Tool[..., Any]])

    @classmethod
    def of(cls, tools: Sequence[Tool[..., Any] | Callable[..., Any]]) -> Toolbox:
        """Collect ``tools``; plain functions become tools. Raises SchemaError for two of one name."""
        named: dict[str, Tool[..., Any]] = {}
        for given in tools:
            made: Tool[..., Any] = cast("Tool[..., Any]", given) if isinstance(given, Tool) else tool(given)
            if made.name in named:
                raise SchemaError(f"Two tools are called {made.name!r}", hint="rename one: @tool(name=...)")
            named[made.name] = made
        return cls(named)

    @property
    def definitions(self) -> list[dict[str, Any]]:
        return [made.definition for made in self.tools.values()]
