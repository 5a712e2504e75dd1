"""Which runtimes are installed: tests that need a missing one are skipped with this reason."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.config import home_directory
from antiphon.engine import EngineSettings
from antiphon.engine.model.native.find import find_libraries
from antiphon.engine.model.openvino import library

HAS_LLAMA = bool(find_libraries())
NO_LLAMA = "llama.cpp is not installed: pip install 'antiphon[llama]'"
HAS_OPENVINO = library.version() is not None
NO_OPENVINO = "OpenVINO is not installed: pip install 'antiphon[openvino]'"
COPIES = home_directory() / "models" / ".layouts"
"""Where the user's server keeps converted weights; the tests make theirs there once."""
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason=NO_LLAMA)
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason=NO_OPENVINO)


def engine_settings(model: Path, **given: Any) -> EngineSettings:
    """Return settings of an engine for the runtime that the tests use: OpenVINO needs a place for converted weights."""
    if not HAS_LLAMA:
        given = {"cache_directory": COPIES, "weight_format": "q8_0"} | given
    return EngineSettings(model_path=model, **given)
