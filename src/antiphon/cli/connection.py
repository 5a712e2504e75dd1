"""Which server a command talks to, and what its errors mean."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import openai
from cyclopts import Parameter

from antiphon.errors import AntiphonError
from antiphon.toolkit.clients import Connection
from antiphon.toolkit.doctor.server import explain
from antiphon.toolkit.errors import RetryExhaustedError

LOCAL_URL = "http://127.0.0.1:8787/v1"


@Parameter(name="*")
@dataclass(frozen=True)
class Server:
    """The options of every command that calls an API: the official client's own settings, else the local server."""

    base_url: Annotated[str, Parameter(env_var="OPENAI_BASE_URL", help="Base URL of the API.")] = LOCAL_URL
    api_key: Annotated[str, Parameter(env_var="OPENAI_API_KEY", help="API key to send.", show_default=False)] = "local"

    @contextmanager
    def client(self) -> Generator[openai.OpenAI]:
        """Yield a client; the block's errors of the API become one line with its fix."""
        with openai.OpenAI(base_url=self.base_url, api_key=self.api_key) as client:
            try:
                yield client
            except (openai.APIError, RetryExhaustedError) as error:
                cause = error.__cause__ if isinstance(error, RetryExhaustedError) else error
                if not isinstance(cause, openai.APIError):
                    raise
                raise self.explained(cause, client) from error

    def explained(self, error: openai.APIError, client: openai.OpenAI) -> AntiphonError:
        """Return what an error of the API means, and how to fix it."""
        if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            why = f"see why with: antiphon doctor --base-url {self.base_url}"
            hint = "start one with: antiphon serve" if self.base_url == LOCAL_URL else why
            return AntiphonError(f"cannot reach {self.base_url}", hint=hint)
        finding = explain(error, Connection(client))
        return AntiphonError(finding.message, hint=finding.fix)


def piped() -> str | None:
    """Return what was piped into the command; None at a terminal, or if it was empty. Raises AntiphonError for no text."""
    if sys.stdin.isatty():
        return None
    try:
        text = sys.stdin.read()
        # In some locales Python passes on bytes that are not text, in a form that cannot be sent.
        text.encode()
    except UnicodeError as error:
        raise AntiphonError(
            "what was piped in is not text in UTF-8", hint="convert it, for example: iconv -f latin1 -t utf8"
        ) from error
    return text or None


def text_of(words: tuple[str, ...]) -> str:
    """Return the text that a command works on: its arguments, else what was piped. Raises AntiphonError without any."""
    text = " ".join(words) or piped()
    if not text:
        raise AntiphonError("no text given", hint="write it after the command, or pipe it: cat FILE | antiphon ...")
    return text


def dollars(cost: Any) -> str:
    """Return a cost for people; an unknown one is not zero."""
    return "cost unknown" if cost is None else f"${cost:.6f}"
