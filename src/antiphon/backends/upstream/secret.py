"""A key whose representations are masked."""

import os
from collections.abc import Mapping
from pathlib import Path

from antiphon.backends.upstream.settings import UpstreamSettings
from antiphon.errors import ConfigError


class Secret:
    """Holds a text whose ``repr`` and ``str`` are masked."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('****')"


def upstream_key(settings: UpstreamSettings, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """Read the upstream's key from the place that the settings name; ``ConfigError`` when it is not there."""
    if settings.api_key_env is not None:
        value = environ.get(settings.api_key_env, "").strip()
        if not value:
            raise ConfigError(
                f"upstream {settings.name!r}: the environment variable {settings.api_key_env} is not set",
                hint="set it to the upstream's key, or name another one in api_key_env",
            )
        return Secret(value)
    if settings.api_key_file is not None:
        try:
            value = Path(settings.api_key_file).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"upstream {settings.name!r}: cannot read api_key_file {settings.api_key_file!r}: {error.strerror}"
            ) from error
        if not value:
            raise ConfigError(f"upstream {settings.name!r}: api_key_file {settings.api_key_file!r} is empty")
        return Secret(value)
    return None
