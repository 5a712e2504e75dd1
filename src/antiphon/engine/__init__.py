"""Runs one model file over llama.cpp in a process of its own: token ids in, tokens out."""

from antiphon.engine.errors import (
    ContextOverflow,
    DeadlineExceeded,
    EngineCrashed,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineStartFailed,
    EngineStopped,
    GrammarRejected,
    InvalidPrompt,
)
from antiphon.engine.host.attached import EngineStatus, write_status
from antiphon.engine.host.client import EngineClient
from antiphon.engine.host.engine import Engine
from antiphon.engine.settings import EngineSettings
from antiphon.engine.statistics import EngineStatistics, Histogram

__all__ = [
    "ContextOverflow",
    "DeadlineExceeded",
    "Engine",
    "EngineClient",
    "EngineCrashed",
    "EngineError",
    "EngineFault",
    "EngineOverloaded",
    "EngineSettings",
    "EngineStartFailed",
    "EngineStatistics",
    "EngineStatus",
    "EngineStopped",
    "GrammarRejected",
    "Histogram",
    "InvalidPrompt",
    "write_status",
]
