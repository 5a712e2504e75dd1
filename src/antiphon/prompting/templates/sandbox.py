"""The Jinja environment for chat templates: what `transformers` offers them, inside a sandbox with bounds.

A chat template comes out of a downloaded file, so it is hostile until proven otherwise: the sandbox keeps it
from Python's internals, a deadline ends endless loops, and strings cannot grow without limit.
"""

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from antiphon.prompting.errors import TemplateBrokenError, TemplateRefusedError

MAX_CHARS = 64_000_000
MAX_WIDTH = 1_000_000
_WIDE_FORMAT = re.compile(r"\d{6}|\*")


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
        return now().strftime(form)

    return strftime_now


def _narrow(name: str) -> Callable[..., Any]:
    original = cast("Callable[..., Any]", FILTERS[name])

    def bounded(*args: Any, **kwargs: Any) -> Any:
        _refuse_wide((*args[1:], *kwargs.values()))
        return original(*args, **kwargs)

    return bounded


def _refuse_wide(args: tuple[Any, ...]) -> None:
    if any(isinstance(arg, int) and abs(arg) > MAX_WIDTH for arg in args):
        raise TemplateBrokenError("The chat template asks for a string or list beyond its bounds.")


def _size(value: object) -> int:
    return len(cast("list[object]", value)) if isinstance(value, (str, list, tuple)) else 1


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """One per template. ``start`` sets the deadline of the rendering that follows; not safe for two at once."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self._deadline = float("inf")
        self.filters["tojson"] = _to_json
        for name in ("center", "indent", "batch", "slice"):
            self.filters[name] = _narrow(name)
        offered = cast("dict[str, Any]", self.globals)
        offered.pop("lipsum")
        offered["raise_exception"] = _raise_exception
        offered["strftime_now"] = _clock(now)

    def start(self, seconds: float) -> None:
        """Let what is rendered next take ``seconds`` at most."""
        self._deadline = time.monotonic() + seconds

    def tick(self) -> str:
        """Count a step; called from every loop body and every call."""
        if time.monotonic() > self._deadline:
            raise TemplateBrokenError("The chat template takes too long to render.")
        return ""

    def concatenate(self, *parts: object) -> str:
        """Stand in for the ``~`` operator, with a bound."""
        texts = [str(part) for part in parts]
        self._check(sum(map(len, texts)))
        return "".join(texts)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        if isinstance(getattr(obj, "__self__", None), str):
            _refuse_wide(args)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str) and _WIDE_FORMAT.search(left):
            raise TemplateBrokenError("The chat template formats a string beyond its bounds.")
        if operator == "**":
            raise TemplateBrokenError("The chat template computes a power, which none needs.")
        if operator == "*" and not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            times = next((x for x in (left, right) if isinstance(x, int)), 1)
            self._check(max(_size(left), _size(right)) * max(times, 0))
        if operator == "+":
            self._check(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def _check(self, size: int) -> None:
        if size > MAX_CHARS:
            raise TemplateBrokenError("The chat template builds a string beyond its bounds.")


class Bounds(NodeTransformer):
    """Rewrites a parsed template so that each loop turn ticks and each ``~`` is checked."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the visitor's protocol
        self.generic_visit(node)
        target = nodes.EnvironmentAttribute("concatenate")
        return nodes.Call(target, list(node.nodes), [], None, None, lineno=node.lineno)
