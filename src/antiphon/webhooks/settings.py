"""The settings ``[webhooks]``."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from antiphon.errors import ConfigError

EventType = Literal[
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
]
"""What is reported: the events of OpenAI's list that this server can have."""


class WebhookEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[webhooks.endpoints]]``: where events are sent, signed with a secret that the receiver has too.

    The secret is read from the environment variable ``secret_env`` or the file ``secret_file``; in the form ``whsec_...`` its
    rest is Base64, as OpenAI writes it. ``events`` empty: every event. ``keys``: names of API keys, with ``*``, whose events
    are sent.
    """

    url: str
    secret_env: str | None = None
    secret_file: str | None = None
    events: tuple[EventType, ...] = ()
    keys: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        url = urlsplit(self.url)
        if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.password:
            raise ConfigError(f"[webhooks] url must be an http(s) address without credentials, not {self.url!r}")
        if (self.secret_env is None) == (self.secret_file is None):
            raise ConfigError(f"[webhooks] {self.url}: give secret_env or secret_file")

    def wants(self, event: EventType, key: str) -> bool:
        """Whether events of this type of the API key with this name are sent."""
        return (not self.events or event in self.events) and any(fnmatchcase(key, pattern) for pattern in self.keys)

    def secret(self, environ: Mapping[str, str] = os.environ) -> str:
        """Read the secret; ``ConfigError`` where it is not there."""
        if self.secret_env is not None:
            value = environ.get(self.secret_env, "").strip()
            where = f"the environment variable {self.secret_env}"
        else:
            where = f"the file {self.secret_file}"
            try:
                value = Path(self.secret_file or "").expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"[webhooks] {self.url}: cannot read {where}: {error.strerror}") from error
        if not value:
            raise ConfigError(f"[webhooks] {self.url}: {where} holds no secret")
        return value


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``endpoints`` are the only addresses that anything is sent to.

    An attempt may take ``timeout_s``. One that fails is repeated after ``backoff_s``, then twice that and so on, at most
    ``max_backoff_s``, until ``give_up_s`` after the event.
    """

    endpoints: tuple[WebhookEndpoint, ...] = ()
    timeout_s: float = 10.0
    backoff_s: float = 5.0
    max_backoff_s: float = 3600.0
    give_up_s: float = 259_200.0

    def __post_init__(self) -> None:
        if min(self.timeout_s, self.backoff_s, self.max_backoff_s, self.give_up_s) <= 0:
            raise ConfigError("[webhooks] times must be above 0")
        urls = [endpoint.url for endpoint in self.endpoints]
        if len(set(urls)) < len(urls):
            raise ConfigError(
                "[webhooks] two endpoints have the same url", hint="give one endpoint both lists of events"
            )
