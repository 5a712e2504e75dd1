"""How an upstream API is reached: ``[[gateway.upstreams]]``."""

import math
import re
from typing import Literal
from urllib.parse import urlsplit

import msgspec

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OF_THE_TRANSFER = frozenset({"content-length", "transfer-encoding", "connection"})


class Timeouts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds per phase of a request: connecting (including the wait for a free connection), the first bytes, the pauses after.

    ``first_byte_s`` holds for the head of the answer, and again for the first bytes of its body or the first event of a stream.

    There is no limit on the whole: a generation may take any time while bytes keep coming.
    """

    connect_s: float = 5.0
    first_byte_s: float = 300.0
    between_bytes_s: float = 60.0

    def __post_init__(self) -> None:
        if not all(0 < seconds < math.inf for seconds in (self.connect_s, self.first_byte_s, self.between_bytes_s)):
            raise ValueError("timeouts must be positive")


class UpstreamModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that the upstream serves. ``context_length`` in tokens."""

    id: str
    kind: Literal["chat", "embedding", "reranker"] = "chat"
    context_length: int | None = None


class UpstreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ``[[gateway.upstreams]]``: an OpenAI-compatible API.

    ``base_url`` ends where ``/chat/completions`` begins, commonly in ``/v1``. The key that the upstream wants is read from
    the environment variable ``api_key_env`` or the file ``api_key_file``, never from a setting; neither: none is sent.
    ``headers`` are added to each request. ``models`` empty: those that its ``/models`` lists, embedding models are those whose
    name contains ``embed``, rerankers those with ``rerank`` in it. ``max_connections`` bounds the requests at once; more wait, at most ``connect_s``. ``max_answer_bytes`` bounds an answer in one piece, decompressed.
    ``keepalive_s`` closes idle connections before the upstream does (uvicorn: after 5 s). ``health_path`` (below
    ``base_url``) is asked every ``health_interval_s``; no answer in that time (at least ``connect_s``) means down. ``tokenize_path`` (below the server's root, ``/tokenize`` for vLLM)
    counts the tokens of a chat; None: they cannot be counted. ``responses``: ``relay`` sends requests for ``/v1/responses`` on,
    ``translate`` makes chat completions of them, ``auto`` relays until the upstream says that it does not have the path.
    """

    name: str
    base_url: str
    api_key_env: str | None = None
    api_key_file: str | None = None
    headers: dict[str, str] = {}
    models: tuple[UpstreamModel, ...] = ()
    timeouts: Timeouts = Timeouts()
    max_connections: int = 4096
    max_answer_bytes: int = 256 * 1024 * 1024
    keepalive_s: float = 4.0
    health_path: str = "/models"
    health_interval_s: float = 10.0
    tokenize_path: str | None = None
    responses: Literal["auto", "relay", "translate"] = "auto"

    def __post_init__(self) -> None:
        url = urlsplit(self.base_url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError(f"upstream {self.name!r}: base_url must be an http(s) address, not {self.base_url!r}")
        if url.username or url.password or url.query:
            raise ValueError(
                f"upstream {self.name!r}: put no credentials into base_url; use api_key_env or api_key_file"
            )
        if self.api_key_env is not None and self.api_key_file is not None:
            raise ValueError(f"upstream {self.name!r}: give api_key_env or api_key_file, not both")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # Its value is not shown: it is most likely the key itself.
            raise ValueError(f"upstream {self.name!r}: api_key_env is the name of an environment variable, not a key")
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or name.lower() in _OF_THE_TRANSFER or not _HEADER_VALUE.fullmatch(value):
                raise ValueError(f"upstream {self.name!r}: {name!r} in headers is not a header that can be sent")
        if any(name.lower() in {"authorization", "api-key", "x-api-key"} for name in self.headers):
            raise ValueError(f"upstream {self.name!r}: keys belong in api_key_env or api_key_file, not in headers")
        seconds = (self.keepalive_s, self.health_interval_s)
        if min(self.max_connections, self.max_answer_bytes) < 1 or not all(0 < each < math.inf for each in seconds):
            raise ValueError(f"upstream {self.name!r}: limits and intervals must be positive")
