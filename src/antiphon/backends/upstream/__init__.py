"""An OpenAI-compatible API elsewhere as a backend: OpenAI itself, vLLM, SGLang, llama-server, another Antiphon."""

from antiphon.backends.upstream.backend import UpstreamBackend
from antiphon.backends.upstream.failures import UpstreamError
from antiphon.backends.upstream.settings import Timeouts, UpstreamModel, UpstreamSettings

__all__ = ["Timeouts", "UpstreamBackend", "UpstreamError", "UpstreamModel", "UpstreamSettings"]
