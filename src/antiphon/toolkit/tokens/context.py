"""How many tokens a model's context holds: asked of the server where it tells, else from a table of known models."""

from __future__ import annotations

from typing import Any, cast

from openai import APIError

from antiphon.toolkit.clients import Connection
from antiphon.toolkit.costs.prices import known_model

# What servers call it in their list of models: vLLM and SGLang, Antiphon, OpenRouter.
_KEYS = ("max_model_len", "context_length", "context_window")
_contexts: dict[tuple[str, str], int | None] = {}


async def context_tokens(connection: Connection, model: str) -> int | None:
    """Return the tokens that prompt and answer of ``model`` may have together, or None if nobody says.

    The server is asked once per process, or until it knows.
    """
    endpoint = connection.endpoint
    if endpoint.is_openai or endpoint.is_azure:
        known = known_model(model, endpoint)
        return None if known is None else known.context_window
    key = (endpoint.base_url, model)
    if key not in _contexts:
        told = await _ask_models(connection, model)
        if told == NOT_LOADED_YET:
            return None
        _contexts[key] = told or await _ask_llama(connection)
    return _contexts[key]


def forget_endpoints() -> None:
    """Ask every server again."""
    _contexts.clear()


# The server has a word for it, but no value before the model is loaded.
NOT_LOADED_YET = -1


async def _ask_models(connection: Connection, model: str) -> int | None:
    try:
        listed: Any = await connection.get_json("/models")
    except APIError:
        return None
    data: Any = cast("dict[str, Any]", listed).get("data") if isinstance(listed, dict) else None
    listing = cast("list[Any]", data) if isinstance(data, list) else []
    entries = [cast("dict[str, Any]", entry) for entry in listing if isinstance(entry, dict)]
    named = [entry for entry in entries if entry.get("id") == model] or (entries if len(entries) == 1 else [])
    told = [entry[key] for entry in named for key in _KEYS if key in entry]
    return next((value for value in told if isinstance(value, int)), NOT_LOADED_YET if told else None)


async def _ask_llama(connection: Connection) -> int | None:
    # llama.cpp's server divides its context among its slots; /props tells the share of one.
    try:
        told: Any = await connection.get_json(f"{connection.endpoint.root}/props")
    except APIError:
        return None
    settings: Any = cast("dict[str, Any]", told).get("default_generation_settings") if isinstance(told, dict) else None
    n_ctx = cast("dict[str, Any]", settings).get("n_ctx") if isinstance(settings, dict) else None
    return n_ctx if isinstance(n_ctx, int) else None
