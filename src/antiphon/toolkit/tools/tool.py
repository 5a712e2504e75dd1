"""Tools that a model may call.

``@tool`` reads a function's signature, annotations and docstring into the strict JSON schema of the API, and the function
stays an ordinary function. ``Tool.of_schema`` pairs a function with a JSON Schema that exists already, and ``Tool.of_text``
with text that the model writes freely or after a grammar.
"""

from __future__ import annotations

import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from antiphon.toolkit.arguments import require_one_of
from antiphon.toolkit.errors import SchemaError
from antiphon.toolkit.tools.arguments_schema import ArgumentsSchema
from antiphon.toolkit.tools.invoke import invoke
from antiphon.toolkit.tools.tool_schema import ToolSignature, definition_of

P = ParamSpec("P")
R = TypeVar("R")
OnLarge = Literal["cut", "spill"]
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """How a tool is run: at most ``timeout_s`` seconds (None: the loop's limit), and only if approved.

    ``max_result_tokens`` bounds what the model gets of a result (an estimate; None: what fits its context). Of a larger one
    it gets beginning and end: "cut" leaves the rest out, "spill" lets the model read it with the tool ``read_result``.
    """

    timeout_s: float | None = None
    needs_approval: bool = False
    max_result_tokens: int | None = None
    on_large: OnLarge = "cut"

    def __post_init__(self) -> None:
        if self.max_result_tokens is not None and self.max_result_tokens < 1:
            raise ValueError(f"max_result_tokens must be >= 1, got {self.max_result_tokens!r}")
        require_one_of("on_large", self.on_large, OnLarge)
        if self.on_large == "spill" and self.max_result_tokens is None:
            raise ValueError("on_large='spill' needs max_result_tokens")


class Tool(ABC):
    """What a chat can offer to a model: its ``definition``, which goes into ``tools=`` of a request, and how it is run.

    ``@tool`` makes one of a function, ``Tool.of_schema`` of a JSON Schema, ``Tool.of_text`` of a function that takes the
    model's text as it is. A class of your own sets ``name``, ``definition`` and ``options`` and has the two methods.
    """

    name: str
    definition: Mapping[str, Any]
    options: ToolOptions

    @abstractmethod
    def arguments(self, text: str) -> Any:
        """Return what ``call`` takes from what a model wrote; raises ValueError, which says what is not valid."""

    @abstractmethod
    async def call(self, arguments: Any) -> Any:
        """Run one call and return its result: text, or a value that can be written as JSON."""

    @staticmethod
    def of_schema(
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        *,
        call: Callable[..., Any],
        strict: bool = False,
        timeout_s: float | None = None,
        needs_approval: bool = False,
        max_result_tokens: int | None = None,
        on_large: OnLarge = "cut",
    ) -> SchemaTool:
        """Make a tool of a JSON Schema and a function, plain or async, that is called with the arguments by name.

        The arguments are checked against ``parameters`` before the call. ``strict`` asks the server to keep to the schema,
        which must then be one that strict mode accepts. Raises SchemaError for what is not a JSON Schema of an object.
        """
        options = ToolOptions(timeout_s, needs_approval, max_result_tokens, on_large)
        return SchemaTool(name, description, parameters, function=call, strict=strict, options=options)

    @staticmethod
    def of_text(
        name: str,
        description: str,
        *,
        call: Callable[[str], Any],
        grammar: str | None = None,
        regex: str | None = None,
        timeout_s: float | None = None,
        needs_approval: bool = False,
        max_result_tokens: int | None = None,
        on_large: OnLarge = "cut",
    ) -> TextTool:
        """Make a custom tool: ``call`` gets the model's text, which the server keeps to a Lark ``grammar`` or a ``regex``."""
        options = ToolOptions(timeout_s, needs_approval, max_result_tokens, on_large)
        return TextTool(name, description, function=call, grammar=grammar, regex=regex, options=options)


class FunctionTool(Tool, Generic[P, R]):
    """A function with its schema; call it as before."""

    def __init__(self, function: Callable[P, R], *, name: str | None, strict: bool, options: ToolOptions) -> None:
        # The function's own attributes are not copied: they could hide those of the tool.
        functools.update_wrapper(self, function, updated=())
        target = definition_of(function)
        self.__doc__ = inspect.getdoc(target)
        self.function = function
        self.name = _checked_name(name or _name_of(function))
        self.options = options
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

    async def call(self, arguments: Mapping[str, Any]) -> Any:
        return await invoke(self.function, **arguments)


class SchemaTool(Tool):
    """A function with a JSON Schema that was written by hand, or that came from elsewhere."""

    def __init__(
        self,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        *,
        function: Callable[..., Any],
        strict: bool,
        options: ToolOptions,
    ) -> None:
        self.name = _checked_name(name)
        self.options = options
        self.function = function
        self.schema = ArgumentsSchema(parameters, f"The schema of the tool {name!r}")
        described = {"name": name, "description": description, "parameters": dict(parameters), "strict": strict}
        self.definition = {"type": "function", "function": described}

    def __repr__(self) -> str:
        return f"<tool {self.name}, of a schema>"

    def arguments(self, text: str) -> dict[str, Any]:
        """Return keyword arguments from a model's JSON; raises ValueError if the schema does not allow them."""
        return self.schema.read(text)

    async def call(self, arguments: Mapping[str, Any]) -> Any:
        return await invoke(self.function, **arguments)


class TextTool(Tool):
    """A custom tool: the model writes text, not JSON. ``@tool`` is for everything that has parameters."""

    def __init__(
        self,
        name: str,
        description: str,
        *,
        function: Callable[[str], Any],
        grammar: str | None,
        regex: str | None,
        options: ToolOptions,
    ) -> None:
        if grammar is not None and regex is not None:
            raise SchemaError(f"The tool {name!r} has both a grammar and a regex", hint="give one of them")
        self.name = _checked_name(name)
        self.options = options
        self.function = function
        described: dict[str, Any] = {"name": name, "description": description}
        if grammar is not None or regex is not None:
            syntax, text = ("lark", grammar) if grammar is not None else ("regex", regex)
            described["format"] = {"type": "grammar", "grammar": {"syntax": syntax, "definition": text}}
        self.definition = {"type": "custom", "custom": described}

    def __repr__(self) -> str:
        return f"<tool {self.name}, of text>"

    def arguments(self, text: str) -> str:
        return text

    async def call(self, arguments: str) -> Any:
        return await invoke(self.function, arguments)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SchemaError(
            f"{name!r} is not a name for a tool", hint="use 1 to 64 letters, digits, '_' and '-': @tool(name=...)"
        )
    return name


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name of a function, of the one behind a ``partial``, or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


@overload
def tool(function: Callable[P, R], /) -> FunctionTool[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    strict: bool = True,
    timeout_s: float | None = None,
    needs_approval: bool = False,
    max_result_tokens: int | None = None,
    on_large: OnLarge = "cut",
) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...


def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    strict: bool = True,
    timeout_s: float | None = None,
    needs_approval: bool = False,
    max_result_tokens: int | None = None,
    on_large: OnLarge = "cut",
) -> FunctionTool[P, R] | Callable[[Callable[P, R]], FunctionTool[P, R]]:
    """Make a tool of a typed function, plain or async.

    The description is the docstring's (Google, NumPy or reST style, also for parameters, which may be
    ``Annotated[str, "..."]`` instead). Parameters may be whatever pydantic validates (Literal, enums, models, dataclasses,
    lists) with pydantic's ``Field`` for bounds, defaults and descriptions. A callable object and a ``functools.partial``
    work too; arguments that the partial has bound are not shown to the model. ``strict`` makes servers keep to the schema;
    ``strict=False`` allows what strict schemas cannot express, such as ``dict[str, int]``. Raises SchemaError for what
    cannot be described.
    """
    options = ToolOptions(timeout_s, needs_approval, max_result_tokens, on_large)
    if function is not None:
        return FunctionTool(function, name=name, strict=strict, options=options)
    return lambda wrapped: FunctionTool(wrapped, name=name, strict=strict, options=options)
