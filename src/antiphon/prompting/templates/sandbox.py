"""The Jinja environment for chat templates: what `transformers` offers them, inside a sandbox with bounds.

A chat template comes out of a downloaded file, so it is hostile until proven otherwise: the sandbox keeps it
from Python's internals, and a budget bounds the time and the size of everything that it builds. See ``budget.py``.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from antiphon.prompting.errors import TemplateBrokenError, TemplateRefusedError
from antiphon.prompting.templates.budget import NODE, Budget
from antiphon.prompting.templates.operations import (
    MAX_NUMBER_BITS,
    UNMEASURED,
    filter_cost,
    formatted,
    method_cost,
)

_MAX_TIME_FORMAT = 1000


class _GenerationTag(Extension):
    """``{% generation %}...{% endgeneration %}`` marks training masks; for rendering its body is all."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own protocol

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(value, Undefined):
        raise TemplateRefusedError("tojson was given an undefined value")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: object) -> NoReturn:
    raise TemplateRefusedError(str(message))


def _clock(now: Callable[[], datetime]) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if len(form) > _MAX_TIME_FORMAT:
            raise TemplateBrokenError("The chat template formats the time beyond its bounds.")
        return now().strftime(form)

    return strftime_now


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One per template. ``budget.start`` sets the bounds of the rendering that follows; not safe for two at once."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
            finalize=self._measured_output,
        )
        self.budget = Budget()
        self.filters["tojson"] = _to_json
        filters = cast("dict[str, Callable[..., Any]]", self.filters)
        for name, original in list(filters.items()):
            if name not in UNMEASURED:
                filters[name] = self._bounded_filter(name, original)
        self.filters["string"] = self._as_text
        offered = cast("dict[str, Any]", self.globals)
        offered.pop("lipsum")
        offered["raise_exception"] = _raise_exception
        offered["strftime_now"] = _clock(now)
        self.concat = self._joined

    def tick(self) -> str:
        """Count a step; called from every loop body and every call."""
        self.budget.tick()
        return ""

    def concatenate(self, *parts: object) -> str:
        """Replace the ``~`` operator, with a bound."""
        return self._joined([part if isinstance(part, str) else self._as_text(part) for part in parts])

    def sliced(self, value: Any, *bounds: Any) -> Any:
        """Replace a slice, with a bound."""
        made = value[slice(*bounds)]
        self.budget.spend(len(made) if isinstance(made, str) else NODE * len(made))
        return made

    def nested(self, value: Any) -> Any:
        """Replace a literal of a list, tuple or mapping: what is in it twice counts twice."""
        parts = cast("dict[Any, Any]", value).values() if isinstance(value, dict) else cast("Iterable[Any]", value)
        if any(isinstance(part, (list, tuple, dict)) for part in parts):
            self.budget.size(value)
        return cast("Any", value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        args = tuple(map(self._in_a_list, args))
        self.budget.spend(method_cost(self.budget, obj, args, kwargs))
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form: str = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            self.budget.spend(formatted(self.budget, form, (args, kwargs), is_percent=False))
            return wrapped(*args, **kwargs)

        return bounded

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        are_numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "**":
            raise TemplateBrokenError("The chat template computes a power, which none needs.")
        if operator == "%" and isinstance(left, str):
            self.budget.spend(formatted(self.budget, left, ((right,), {})))
        if are_numbers:
            bits = sum(number.bit_length() for number in (left, right) if isinstance(number, int))
            if operator == "*" and bits > MAX_NUMBER_BITS:
                raise TemplateBrokenError("The chat template computes a number beyond its bounds.")
        elif operator == "*":
            times = next((x for x in (left, right) if isinstance(x, int)), 1)
            self.budget.spend(max(_size(left), _size(right)) * max(times, 0))
        elif operator == "+":
            self.budget.spend(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def _bounded_filter(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        takes_context = hasattr(original, "jinja_pass_arg")

        @functools.wraps(original)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            first = (args[0],) if takes_context else ()
            values = tuple(map(self._in_a_list, args[len(first) :]))
            self.tick()
            self.budget.spend(filter_cost(self.budget, name, values, kwargs))
            return original(*first, *values, **kwargs)

        return bounded

    def _in_a_list(self, value: Any) -> Any:
        """Return a value, an iterator as a list of what it yields."""
        if not isinstance(value, Iterator):
            return value
        items: list[Any] = []
        for item in cast("Iterator[Any]", value):
            self.budget.spend(NODE)
            items.append(item)
        return items

    def _as_text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        self.budget.spend(self.budget.size(value))
        return str(value)

    def _measured_output(self, value: Any) -> Any:
        """Measure an output value before it becomes a text."""
        return value if isinstance(value, (str, Undefined)) else self._as_text(value)

    def _joined(self, parts: Iterable[str]) -> str:
        texts = list(parts)
        self.budget.spend(sum(map(len, texts)))
        return "".join(texts)


def _size(value: Any) -> int:
    """Return the size of a string or list for operators: the entries of a list are shared, not copied."""
    if isinstance(value, str):
        return len(value)
    return NODE * len(cast("list[object]", value)) if isinstance(value, (list, tuple)) else 1


class Bounds(NodeTransformer):
    """Rewrites a parsed template so that each loop turn ticks, and each ``~``, slice and literal is measured."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        return _call("concatenate", list(node.nodes), node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        bounds = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return _call("sliced", [node.node, *bounds], node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        return _call("nested", [node], node.lineno) if node.items else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        return _call("nested", [node], node.lineno) if node.items else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        return _call("nested", [node], node.lineno) if node.items and node.ctx == "load" else node


def _call(name: str, args: list[nodes.Expr], lineno: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None, lineno=lineno)
