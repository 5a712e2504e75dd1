"""The answer to "who retries what, and how long at most", as rows and as text."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from antiphon.toolkit.clients import Client


@dataclass(frozen=True, slots=True)
class RetryCase:
    """What failed, who retries it, after what wait, and the bound."""

    failure: str
    retried_by: str
    wait: str
    at_most: str


@dataclass(frozen=True, slots=True)
class RetryTable:
    """Rows with a headline; ``str()`` is a text table."""

    headline: str
    cases: tuple[RetryCase, ...]

    def __str__(self) -> str:
        rows = [("failure", "retried by", "wait", "at most"), *map(astuple, self.cases)]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join((self.headline, "", *lines))


def explain_client_retries(client: Client) -> RetryTable:
    """Return what the official client does by itself, with the number of retries that ``client`` is set to."""
    retries = client.max_retries
    most = sum(min(0.5 * 2**n, 8.0) for n in range(retries))
    own = "0.5 s doubling to 8 s, less up to 25%"
    return RetryTable(
        f"The client's own retries: at most {retries + 1} tries, each within its timeout; no bound on the total.",
        (
            RetryCase("connection failed, timeout", "client", own, f"{most:g} s of waiting"),
            RetryCase("408, 409, 429, 5xx", "client", own, f"{most:g} s of waiting"),
            RetryCase("any of these, Retry-After <= 120 s", "client", "what the server asks", f"{120 * retries} s"),
            RetryCase("any of these, Retry-After > 120 s", "nobody", "-", "fails at once"),
            RetryCase("x-should-retry: true / false", "client", "as above / no retry", "overrides the status"),
            RetryCase("429 insufficient_quota", "client", own, "in vain, unless x-should-retry: false"),
            RetryCase("other 4xx", "nobody", "-", "fails at once"),
        ),
    )
