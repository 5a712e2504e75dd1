"""Reads the error codes that the server can send out of its source, by following the arguments named ``code``.

A code may be given by keyword or by position, chosen by a condition, or built by an f-string whose parts are
parameters of a closed set (``Literal``). Whatever cannot be followed is returned as unreadable, so that no code is
missed without notice.
"""

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
PASSED_ON = {"code"}
"""Names of attributes and keys that hold the code of another error, which has been read where it was made."""


class Codes(NamedTuple):
    """The codes that the source can send, and the places whose code cannot be read."""

    found: set[str]
    unreadable: list[str]


class _UnreadableError(Exception):
    """The strings that an expression can have do not follow from the function around it."""


def read_codes(root: Path) -> Codes:
    """Read every module below ``root``."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    takers = dict(itertools.chain.from_iterable(_takers(tree) for tree in trees.values()))
    found: set[str] = set()
    unreadable: list[str] = []
    for path, tree in trees.items():
        for function, call in _calls(tree):
            for expression in _code_arguments(call, takers):
                try:
                    found |= _values(expression, function)
                except _UnreadableError:
                    unreadable.append(f"{path.relative_to(root)}:{call.lineno}: {ast.unparse(expression)}")
    return Codes(found, unreadable)


def _takers(tree: ast.Module) -> Iterator[tuple[str, int | None]]:
    """Yield the name of each function that has a parameter ``code``, and its position if it has one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__" and _has_code(item):
                    yield node.name, _position(item, bound=True)
        elif isinstance(node, Function) and node.name != "__init__" and _has_code(node):
            yield node.name, _position(node, bound=False)


def _has_code(function: Function) -> bool:
    return any(_is_code(argument) for argument in [*function.args.args, *function.args.kwonlyargs])


def _is_code(argument: ast.arg) -> bool:
    """A process's exit status is called ``code`` too; it is a number."""
    return argument.arg == "code" and (argument.annotation is None or ast.unparse(argument.annotation) != "int")


def _position(function: Function, *, bound: bool) -> int | None:
    names = [argument.arg for argument in function.args.args]
    return names.index("code") - bound if "code" in names else None


def _calls(tree: ast.AST, within: Function | None = None) -> Iterator[tuple[Function | None, ast.Call]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield within, node
        yield from _calls(node, node if isinstance(node, Function) else within)


def _code_arguments(call: ast.Call, takers: Mapping[str, int | None]) -> Iterator[ast.expr]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    yield from (keyword.value for keyword in call.keywords if keyword.arg == "code")
    position = takers.get(name)
    if position is not None and len(call.args) > position:
        yield call.args[position]


def _values(expression: ast.expr, function: Function | None) -> set[str]:  # noqa: PLR0911 - a case each
    """Return the strings that an expression can have."""
    match expression:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.Constant(value=None):
            return set()
        case ast.IfExp(body=body, orelse=orelse):
            return _values(body, function) | _values(orelse, function)
        case ast.JoinedStr(values=parts):
            return {"".join(texts) for texts in itertools.product(*(_values(part, function) for part in parts))}
        case ast.FormattedValue(value=value):
            return _values(value, function)
        case ast.Name(id=name) if function is not None:
            return _values_of_name(name, function)
        case _ if _is_passed_on(expression):
            return set()
        case _:
            raise _UnreadableError


def _is_passed_on(expression: ast.expr) -> bool:
    """Whether this is another error's code, an upstream's, or the description of a field that is called ``code``."""
    match expression:
        case ast.Attribute(attr=name):
            return name in PASSED_ON
        case ast.Call(args=[ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=name)])]):
            return name in PASSED_ON
        case ast.Call(func=ast.Name(id="String")):
            return True
        case _:
            return False


def _values_of_name(name: str, function: Function) -> set[str]:
    for argument in [*function.args.args, *function.args.kwonlyargs]:
        if argument.arg == name:
            return set() if name in PASSED_ON else _literal(argument.annotation)
    values = [value for node in ast.walk(function) if (value := _assigned(node, name)) is not None]
    if not values:
        raise _UnreadableError
    return set[str]().union(*(_values(value, function) for value in itertools.chain.from_iterable(values)))


def _assigned(node: ast.AST, name: str) -> Sequence[ast.expr] | None:
    """Return what an assignment gives to ``name``, from tuples and conditions too."""
    if not isinstance(node, ast.Assign):
        return None
    target = node.targets[0]
    if isinstance(target, ast.Name):
        return [node.value] if target.id == name else None
    if not isinstance(target, ast.Tuple):
        return None
    names = [item.id if isinstance(item, ast.Name) else "" for item in target.elts]
    if name not in names:
        return None
    tuples = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
    if not all(isinstance(item, ast.Tuple) for item in tuples):
        raise _UnreadableError
    return [item.elts[names.index(name)] for item in tuples if isinstance(item, ast.Tuple)]


def _literal(annotation: ast.expr | None) -> set[str]:
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=elements)):
            return {str(element.value) for element in elements if isinstance(element, ast.Constant)}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Constant(value=str(text))):
            return {text}
        case _:
            raise _UnreadableError
