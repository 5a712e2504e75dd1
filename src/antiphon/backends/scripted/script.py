"""A script: which request gets which answer, error or fault. Pure values and functions; ``backend.py`` plays them.

The same script and the same order of requests give the same answers, so that a test of an application can show it a
slow model, a full one, one that calls tools or one that breaks off in the middle of a sentence.
"""

import re
import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.errors import ConfigError
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import FinishReason, Usage

_TOKEN = re.compile(r"\s*(?:[^\W\d_]{1,7}|\d{1,3}|[^\w\s]|_)|\s+")


def tokens(text: str) -> list[str]:
    """Split text into pieces of about a token of a common vocabulary; joined they are the text again."""
    return _TOKEN.findall(text)


class Pattern(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests a reply is for; a request has to match all that are given.

    ``model`` is a name with ``*`` and ``?``. ``last_message`` is a regular expression searched for in the last
    message, the prompt or the first input. ``calls`` picks the n-th (from 1) of the requests that meet the rest: a
    reply with ``calls = [1]`` is used once; later requests go on to the replies below. Empty: all.
    """

    model: str = "*"
    last_message: str | None = None
    calls: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(call < 1 for call in self.calls):
            raise ValueError(f"calls count from 1; got {list(self.calls)}")
        if self.last_message is not None:
            try:
                re.compile(self.last_message)
            except re.error as error:
                raise ValueError(f"last_message {self.last_message!r} is not a regular expression: {error}") from None

    def accepts(self, model: str, last_message: str) -> bool:
        """Whether the request fits, ``calls`` aside."""
        if not fnmatchcase(model, self.model):
            return False
        return self.last_message is None or re.search(self.last_message, last_message) is not None


class ScriptedCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call; ``arguments`` as a table, or as text to show a client arguments that do not parse."""

    name: str
    arguments: dict[str, Any] | str = ""
    id: str | None = None

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else msgspec.json.encode(self.arguments).decode()


class ScriptedError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer in OpenAI's error envelope."""

    status: int = 500
    message: str = "The server had an error while processing your request. Sorry about that!"
    type: str = "server_error"
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not 400 <= self.status <= 599:  # noqa: PLR2004 - the statuses of errors
            raise ValueError(f"status must be from 400 to 599, not {self.status}")

    def exception(self) -> ApiError:
        return ApiError(
            self.status, self.message, type=self.type, param=self.param, code=self.code, headers=self.headers
        )


Fault = Literal["cut", "hang"]


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer and the requests that it is for.

    ``text`` None repeats the last message. ``usage`` replaces the counted tokens. ``first_token_s`` passes before the
    first token and ``token_s`` before each later one. ``error`` is raised, and ``fault`` happens, once ``after`` tokens
    were sent: ``cut`` closes the connection without an error, ``hang`` sends nothing more until the client leaves.
    """

    match: Pattern = Pattern()
    text: str | None = None
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ScriptedCall, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    first_token_s: float = 0.0
    token_s: float = 0.0
    error: ScriptedError | None = None
    fault: Fault | None = None
    after: int = 0

    def __post_init__(self) -> None:
        if self.error is not None and self.fault is not None:
            raise ValueError("a reply has an error or a fault, not both")
        if self.after and self.error is None and self.fault is None:
            raise ValueError("after says when an error or a fault comes; the reply has neither")
        if min(self.first_token_s, self.token_s, self.after) < 0:
            raise ValueError("first_token_s, token_s and after may not be negative")

    @property
    def fails(self) -> bool:
        """Whether it ends with an error or a fault."""
        return self.error is not None or self.fault is not None


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The models that are played, and their replies: the first one that matches is used.

    A request that no reply matches is echoed. ``context_length`` (tokens) refuses longer prompts; None refuses none.
    ``embedding_size`` is the length of vectors.
    """

    models: tuple[str, ...] = ("scripted",)
    embedding_models: tuple[str, ...] = ("scripted-embedding",)
    rerankers: tuple[str, ...] = ()
    replies: tuple[Reply, ...] = ()
    context_length: int | None = None
    embedding_size: int = 384

    def __post_init__(self) -> None:
        if self.embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, not {self.embedding_size}")


def read_script(path: Path) -> Script:
    """Read a script from a TOML file; ``ConfigError`` names what is wrong in it."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Script)
    except OSError as error:
        raise ConfigError(f"cannot read the script {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"the script {str(path)!r} is not valid: {error}") from error


class ReplySelector:
    """Picks the reply for each request and counts how often each matched."""

    def __init__(self, script: Script) -> None:
        self._replies = script.replies
        self._counts = [0] * len(script.replies)

    @property
    def counts(self) -> Mapping[int, int]:
        """Requests that met each reply's pattern so far, by its place in the script."""
        return dict(enumerate(self._counts))

    def reply(self, model: str, last_message: str) -> Reply:
        """Return the reply for the next request."""
        for place, reply in enumerate(self._replies):
            if not reply.match.accepts(model, last_message):
                continue
            self._counts[place] += 1
            if not reply.match.calls or self._counts[place] in reply.match.calls:
                return reply
        return _ECHO


_ECHO = Reply()
