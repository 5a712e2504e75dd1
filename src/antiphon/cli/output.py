"""How results are printed: for people, or as JSON for other programs."""

import dataclasses
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
from cyclopts import Group
from cyclopts.validators import mutually_exclusive

FORM = Group("Form", validator=mutually_exclusive)
"""Only one option for the form of the output can be given."""


def print_json(value: Any) -> None:
    """Print one JSON document in one line."""
    print(json.dumps(value, default=plain, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Return ``value`` in types of JSON: dataclasses as objects, vectors as lists, dollars as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Decimal | Path):
        # Exact: a float would round dollars.
        return str(value)
    if isinstance(value, set | frozenset | tuple):
        return list(cast("tuple[Any, ...]", value))
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    raise TypeError(f"no JSON for {type(value).__name__}")
