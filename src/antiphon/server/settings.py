"""Settings of the sections ``[server]`` and ``[models]``."""

import ipaddress
import math
from typing import Literal

import msgspec

from antiphon.models import OPENAI_PATTERNS


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[server]``.

    ``host``, ``port``: where to listen; port 0 takes a free one. ``workers``: API processes that share one engine per model;
    more than one need Redis, which counts their limits together. ``max_body_bytes``: larger bodies get a 413. ``max_requests``: requests in flight at once per process; further ones get a 503.
    ``shutdown_grace_s``: how long running requests may go on after Ctrl-C. ``allowed_hosts``: values of the Host header
    accepted in addition to the address itself and loopback names (``*`` accepts all). ``cors_origins``: web origins that may call
    (empty: none; ``*``: all). ``log_format``: ``auto`` is human in a
    terminal and JSON otherwise. ``log_prompts`` puts request bodies into debug logs; off by default. ``tracing`` makes spans of OpenTelemetry (extra ``otel``).
    """

    host: str = "127.0.0.1"
    port: int = 8787
    workers: int = 1
    max_body_bytes: int = 32 * 1024 * 1024
    max_requests: int = 4096
    shutdown_grace_s: float = 5.0
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "human", "json"] = "auto"
    log_prompts: bool = False
    tracing: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:  # noqa: PLR2004 - the range of TCP ports
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, not {self.workers}")
        if self.max_body_bytes < 1:
            raise ValueError(f"max_body_bytes must be at least 1, not {self.max_body_bytes}")
        if self.max_requests < 1:
            raise ValueError(f"max_requests must be at least 1, not {self.max_requests}")
        if not 0 <= self.shutdown_grace_s < math.inf:
            raise ValueError(f"shutdown_grace_s must be at least 0 and finite, not {self.shutdown_grace_s}")
        if self.log_prompts and self.log_level != "debug":
            raise ValueError("log_prompts shows bodies only in debug logs: set log_level = 'debug' too")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class ExtraModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[models.extra]]``: a further model to serve.

    ``source`` as ``antiphon models pull`` takes it; ``id`` None: named like its file. ``chat_template`` is used in place of the
    one in the model's file, ``chat_template_file`` is the path of such a template.
    """

    source: str
    id: str | None = None
    kind: Literal["chat", "embedding", "reranker"] = "chat"
    aliases: tuple[str, ...] = ()
    chat_template: str | None = None
    chat_template_file: str | None = None

    def __post_init__(self) -> None:
        _check_template(self)


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[models]``: what this machine serves.

    ``chat``, ``embedding`` and ``reranker`` are catalogue names, paths of GGUF files or specs of the store (``hf:...``,
    ``pypi:...``); the word ``none`` serves no model of that kind. The first two also answer for OpenAI's names that match a
    pattern of ``openai_names``. ``extra`` are further models. ``aliases`` maps further names to any model that is served, here or by an
    upstream. ``default_max_tokens`` limits chat answers whose request names no limit (0: no limit); None: 512 tokens for the
    model that comes with Antiphon, no limit for others. ``chat_template`` and ``chat_template_file`` as for an extra model, for ``chat``.
    """

    chat: str = "default"
    embedding: str = "default"
    reranker: str = "none"
    extra: tuple[ExtraModel, ...] = ()
    openai_names: tuple[str, ...] = OPENAI_PATTERNS
    aliases: dict[str, str] = {}
    default_max_tokens: int | None = None
    chat_template: str | None = None
    chat_template_file: str | None = None

    def __post_init__(self) -> None:
        _check_template(self)
        if self.default_max_tokens is not None and self.default_max_tokens < 0:
            raise ValueError(f"default_max_tokens must be at least 0, not {self.default_max_tokens}")
        for alias, model in self.aliases.items():
            if not alias or not model or alias == model:
                raise ValueError(f"the alias {alias!r} needs a model of another name, not {model!r}")


def _check_template(settings: ExtraModel | ModelSettings) -> None:
    if settings.chat_template is not None and settings.chat_template_file is not None:
        raise ValueError("chat_template and chat_template_file are two ways to give one template: set only one of them")
