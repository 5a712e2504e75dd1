"""A name means one thing: no module has two public classes of the same name within reach of one import."""

import ast
from collections import defaultdict
from pathlib import Path

import antiphon

ROOT = Path(antiphon.__file__).parent


def name_of(path: Path) -> str:
    return ".".join(("antiphon", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def trees() -> dict[str, ast.Module]:
    return {name_of(path): ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}


def classes(tree: ast.Module) -> set[str]:
    found = (node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return {name for name in found if not name.startswith("_")}


def imported(tree: ast.Module) -> set[str]:
    """Return the modules that are imported, also those under ``TYPE_CHECKING`` and inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_a_class_name_means_one_thing_in_every_module() -> None:
    """A reader who meets a class in a module never has to ask which of two it is."""
    modules = trees()
    defined = {name: classes(tree) for name, tree in modules.items()}
    doubles: list[str] = []
    for name, tree in modules.items():
        reach: dict[str, list[str]] = defaultdict(list)
        for module in {name, *imported(tree)} & defined.keys():
            for each in defined[module]:
                reach[each].append(module)
        doubles += [f"{name}: {each} of {sorted(where)}" for each, where in reach.items() if len(where) > 1]
    assert doubles == []
    assert len(modules) > 100
