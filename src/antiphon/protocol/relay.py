"""A request that is relayed to another OpenAI-compatible API with its bytes unchanged.

The upstream validates a relayed request: only what routing, admission and the ledger need is read here, and every other
field, known or not, stays the JSON text that the client sent.
"""

import json
from typing import Any, Literal

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.caching import CacheUse
from antiphon.protocol.chat_fields import stream_options
from antiphon.protocol.decoding import unparsable
from antiphon.protocol.errors import ApiError
from antiphon.protocol.fields import Flag, Integer, Spec, String, check

Operation = Literal["chat/completions", "completions", "embeddings", "responses"]
"""The path of an endpoint below ``/v1/``."""


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Read(msgspec.Struct, frozen=True):
    """The fields that are read before the request goes on; msgspec skips all others."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    user: str | None = None
    prompt_cache_key: str | None = None


class SessionTurn(msgspec.Struct, frozen=True, kw_only=True):
    """What a request for a response has to do with the WebSocket of its client.

    ``session`` names the client's connection. ``whole_input`` is the JSON text of the input with that of everything which the
    request continues, None if that is not known here. ``queued_input`` is that of the input with what steered the response that it
    continues and was queued for this request; None for nothing. The connection of the upstream that has it queued needs neither.
    ``is_stored``: the upstream of the request keeps what it continues. ``generates``: False asks for a warm-up.
    """

    session: str
    whole_input: msgspec.Raw | None = None
    queued_input: msgspec.Raw | None = None
    is_stored: bool = True
    generates: bool = True


class RelayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to pass on.

    ``fields`` maps each top-level key to its value's JSON text. ``max_tokens`` is what the client asked for, whichever
    name it used. ``include_usage`` says whether the client wants the usage chunk of a stream. ``upstream`` is the only upstream that
    may answer, because it has what the request continues; None: any of the model's. ``turn`` is None for a request over HTTP.
    """

    operation: Operation
    model: str
    fields: dict[str, msgspec.Raw]
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    max_tokens: int | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    cache: CacheUse | None = None
    upstream: str | None = None
    turn: SessionTurn | None = None

    def body(self, **overrides: msgspec.Raw) -> bytes:
        """Return the JSON text with some top-level values replaced or added."""
        return _encoder.encode({**self.fields, **overrides})

    @property
    def input_bytes(self) -> int:
        """The size in bytes of what the model has to read, as JSON text: the ground for an estimate of its tokens."""
        keys = ("messages", "prompt", "instructions", "input", "tools", "functions")
        return sum(len(memoryview(self.fields[key])) for key in keys if key in self.fields)


class _Named(msgspec.Struct, frozen=True):
    model: Any = None


_SPECS: dict[str, Spec] = {
    "max_completion_tokens": Integer(nullable=True),
    "max_output_tokens": Integer(nullable=True),
    "n": Integer(nullable=True),
    "user": String(nullable=True),
    "prompt_cache_key": String(nullable=True),
    "stream": Flag(nullable=True),
    "max_tokens": Integer(nullable=True),
    "stream_options": stream_options,
}
"""What is read of a request, to word what is wrong with it. The upstream checks everything else."""

_named = msgspec.json.Decoder(_Named)
_encoder = msgspec.json.Encoder()
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_read = msgspec.json.Decoder(_Read)


def model_named(body: bytes) -> str | None:
    """Return the model that a request names, None if it names none or is not a JSON object; never fails."""
    try:
        model = _named.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return model if isinstance(model, str) else None


def only_model(body: bytes) -> str | None:
    """The same for a body that goes on unread. ``ApiError`` 400 where ``model`` occurs twice: each reader takes another one."""
    model = model_named(body)
    if body.count(b'"model"') > 1 or b"\\u" in body:
        try:
            pairs: Any = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            return model
        if [name for name, _ in pairs].count("model") > 1:
            raise unparsable("an object has the key 'model' more than once")
    return model


def parse_relay(operation: Operation, body: bytes) -> RelayRequest:
    """Read what must be known of a request before it is passed on; ``ApiError`` 400 where that much is wrong."""
    try:
        fields = _fields.decode(body)
        _check_unique(body, fields)
        read = _read.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(body, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise unparsable(str(error)) from None
    except RecursionError:
        raise unparsable("it is nested too deeply") from None
    if not read.model:
        raise ApiError(400, "you must provide a model parameter")
    return RelayRequest(
        operation=operation,
        model=read.model,
        fields=fields,
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        n=read.n or 1,
        max_tokens=read.max_completion_tokens or read.max_output_tokens or read.max_tokens,
        user=read.user,
        prompt_cache_key=read.prompt_cache_key,
    )


def _check_unique(body: bytes, fields: dict[str, msgspec.Raw]) -> None:
    """Raise ``ApiError`` 400 where a name occurs twice at the top level: one of the two would be lost."""
    # Nearly every body is written without blanks; then comparing lengths is enough.
    if len(body) == 1 + sum(len(_encoder.encode(name)) + len(memoryview(value)) + 2 for name, value in fields.items()):
        return
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str)
    if len(pairs) != len(fields):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise unparsable(f"an object has the key {repeated!r} more than once")


def _wrong_type(body: bytes, error: msgspec.ValidationError) -> ApiError:
    """Return OpenAI's error for the first field that cannot be read."""
    fields = msgspec.json.decode(body, type=dict[str, Any])
    for name in [name for name in _SPECS if name in fields]:
        try:
            check(_SPECS[name], fields[name], name)
        except ApiError as wrong:
            return wrong
    return problems.bad_request(f"Invalid request body: {error}.", code="invalid_type")
