"""OpenVINO in this process, imported when it is first needed: only an engine's process and its children compute."""

import importlib
import importlib.metadata
import importlib.util
import sys
from typing import Any, Final

from antiphon.engine.model.base import ModelError

GRAPH_VERSION: Final = 2
"""Changes with how a file is converted, so that older copies are not used."""
_PACKAGES: Final = ("openvino", "openvino_genai", "openvino_tokenizers", "tokenizers")
_CONVERTER: Final = "openvino.tools.ovc"
"""OpenVINO's own converter, imported with the package. It reports each import to its makers, and is not needed here."""


class OpenVinoError(ModelError):
    """OpenVINO refused, or is not installed; the message says what it said."""


def version() -> str | None:
    """Return the version of OpenVINO, None if a package is missing. Nothing is imported."""
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        return None
    return importlib.metadata.version("openvino")


def openvino() -> Any:
    """Return the module.

    Raises:
        OpenVinoError: it is not installed, or its libraries do not load.
    """
    sys.modules.setdefault(_CONVERTER, None)  # pyright: ignore[reportArgumentType] - None: importing it fails
    return _import("openvino")


def genai() -> Any:
    """Return the module ``openvino_genai``, whose reader understands GGUF files.

    Raises:
        OpenVinoError: as ``openvino``.
    """
    openvino()
    return _import("openvino_genai")


def paged_attention_transformation(model: Any) -> None:
    """Replace the attention of a model by attention over pages of a cache that the caller owns.

    OpenVINO has it in a private module, so its version is pinned.
    """
    openvino()
    _import("openvino._offline_transformations").paged_attention_transformation(model)


def common_transformations(model: Any) -> None:
    """Simplify a model as compiling it would, so that compiling has less to do. Weights stay as they are stored.

    OpenVINO has it in the same private module.
    """
    openvino()
    _import("openvino._offline_transformations").apply_moc_transformations(model, cf=False)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise OpenVinoError(f"{name} cannot be imported: {error}") from error
