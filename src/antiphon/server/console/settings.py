"""Settings of the section ``[console]``."""

import math

import msgspec


class ConsoleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section ``[console]``: the pages for a browser.

    ``enabled``: serve them. ``capture``: keep the contents of the last requests in memory, for admins to look at.
    ``capture_max_bytes``, ``capture_max_age_s``: how much of them, and for how long.
    """

    enabled: bool = True
    capture: bool = False
    capture_max_bytes: int = 64 * 1024 * 1024
    capture_max_age_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.capture_max_bytes < 1024:  # noqa: PLR2004 - a request has a kilobyte
            raise ValueError(f"capture_max_bytes must be at least 1024, not {self.capture_max_bytes}")
        if not 0 < self.capture_max_age_s < math.inf:
            raise ValueError(f"capture_max_age_s must be more than 0, not {self.capture_max_age_s:g}")
        if self.capture and not self.enabled:
            raise ValueError("capture keeps requests for the console, which enabled = false turns off")
