"""The settings ``[responses]``."""

from typing import Literal

import msgspec

from antiphon.errors import ConfigError


class ResponseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of hosted tools, and how much is kept for how long."""

    hosted_tools: Literal["refuse", "leave-out"] = "refuse"
    store: Literal["database", "off"] = "database"
    retention_days: float = 30.0
    max_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.retention_days <= 0:
            raise ConfigError("[responses] retention_days must be above 0", hint='set store = "off" to keep nothing')
        if self.max_bytes <= 0:
            raise ConfigError("[responses] max_bytes must be above 0", hint='set store = "off" to keep nothing')
