"""Where a request goes that an upstream answers, and what it looks like there: path, headers, and the model's name."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, unquote_plus

import msgspec

from antiphon.accounts import Principal
from antiphon.backends.base import Destination, ForwardingBackend
from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError
from antiphon.server.forwarding.choice import HEADER, checked_path, ids_in_body, ids_in_path, ids_in_query
from antiphon.server.forwarding.upload import Upload
from antiphon.server.request.access import Access
from antiphon.server.request.body import RequestBodies
from antiphon.server.request.call import Call
from antiphon.server.request.query import query_parameters
from antiphon.state import UpstreamObject, UpstreamObjects

_HEADER = HEADER.encode()
_DROPPED = frozenset(
    {
        # Of this connection, or written anew for the next one.
        *("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"),
        *("content-length", "accept-encoding", "proxy-authorization", "proxy-connection", "http2-settings"),
        # This server's: the client's key and account are not the upstream's.
        *("authorization", "api-key", "x-api-key", "cookie", "openai-organization", "openai-project"),
        *("origin", "referer"),
    }
)
_OURS = "x-antiphon-"
_OF_THE_HANDSHAKE = "sec-websocket-"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class Addressed(msgspec.Struct):
    """A request that is ready to go: where, the path with its query, which model is asked for, and the body."""

    destination: Destination
    path: str
    model: str
    body: bytes | Upload | None

    @property
    def new_name(self) -> str | None:
        """The model's name at the upstream, None where it is the name that the request has."""
        name = self.destination.model
        return None if name == self.model or not self.model else name

    def renamed_path(self) -> str:
        """Return the path with the model's name at the upstream; the same text where its query names no model."""
        name = self.new_name
        place, mark, query = self.path.partition("?")
        if name is None or not mark:
            return self.path
        pairs = [f"model={quote(name, safe='')}" if _is_model(pair) else pair for pair in query.split("&")]
        return f"{place}?{'&'.join(pairs)}"

    def renamed_body(self) -> bytes | Upload | None:
        """Return the body with the model's name at the upstream; the very bytes where it is the same."""
        name = self.new_name
        if name is None or self.body is None:
            return self.body
        if isinstance(self.body, Upload):
            self.body.rename(name)
            return self.body
        fields = _fields.decode(self.body)
        return self.body if "model" not in fields else _encode({**fields, "model": msgspec.Raw(_encode(name))})


class Addressing:
    """Finds destinations. ``default`` is the upstream for paths that name neither a model nor a known object; None: there is none."""

    def __init__(
        self,
        backend: ForwardingBackend,
        *,
        access: Access,
        bodies: RequestBodies,
        objects: UpstreamObjects,
        default: str | None,
    ) -> None:
        self._backend = backend
        self._access = access
        self._bodies = bodies
        self._objects = objects
        self._default = default

    @property
    def has_default(self) -> bool:
        """Whether a request that names nothing known is sent on all the same."""
        return self._default is not None

    async def names_known_object(self, call: Call) -> bool:
        """Whether the path names an object that an upstream made through this server."""
        ids = ids_in_path(call.scope["path"])
        return bool(ids) and bool(await self._objects.find(ids))

    async def find(
        self, call: Call, principal: Principal, path: str, model: str, body: bytes | Upload | None
    ) -> Addressed | None:
        """Return where the request goes, None if nobody is known to answer it.

        ``ApiError`` 404 for another account's object, for a model that the key may not use, and for an upstream that does
        not exist.
        """
        known = await self._named_objects(principal, path, body)
        owner = self.named_upstream(call) or next((each.upstream for each in known), None)
        found = self._backend.destination(model) if model else None
        if model and (not principal.may_use(model) or (owner or found or self._default) is None):
            self._access.require_model(principal, model)
        if found is None and owner is None:
            owner = self._default
        if owner is not None:
            found = Destination(owner, found.model if found is not None and found.upstream == owner else None)
        if found is not None and principal.models is not None and not known and not model:
            raise ApiError(
                403,
                "This key is limited to certain models, and this request names none, so it is not sent on.",
                code="model_required",
            )
        return None if found is None else Addressed(found, path, model, body)

    def named_upstream(self, call: Call) -> str | None:
        """Return the upstream that the request's header names; ``ApiError`` 404 for one that does not exist."""
        named = call.header(_HEADER)
        if named is not None and named not in self._backend.upstreams:
            names = ", ".join(self._backend.upstreams)
            raise ApiError(
                404, f"There is no upstream {named[:100]!r}. Upstreams: {names}.", param=HEADER, code="unknown_upstream"
            )
        return named

    async def _named_objects(
        self, principal: Principal, path: str, body: bytes | Upload | None
    ) -> Sequence[UpstreamObject]:
        """Return the upstreams' objects that a request names; ``ApiError`` 404 if one is another account's."""
        ids = [*ids_in_path(path), *ids_in_query(path)]
        if isinstance(body, bytes):
            ids += await self._bodies.work(body, ids_in_body, body)
        known: Mapping[str, UpstreamObject] = await self._objects.find(ids) if ids else {}
        for each in known.values():
            if each.account != principal.account:
                raise ApiError(404, f"No object found with id '{each.id}'.", code="not_found")
        return list(known.values())


def path_of(call: Call) -> str:
    """Return what follows ``/v1``, with the query, as the client sent it. ``ApiError`` 400 for a path that leads out of it."""
    return checked_path(call.scope.get("raw_path") or call.scope["path"].encode(), call.scope["query_string"])


def model_in_query(call: Call) -> str:
    """Return the model that the query names, the empty string for none.

    ``ApiError`` 400 for two names: this server would check one, and the upstream might use the other.
    """
    names = {value for name, value in query_parameters(call) if name == "model"}
    if len(names) > 1:
        raise problems.bad_request("The query names more than one model.", "model", "invalid_value")
    return next(iter(names), "")


def one_model(in_query: str, in_body: str) -> str:
    """Return the one model that a request names in its query or its body; ``ApiError`` 400 if they differ."""
    if in_query and in_body and in_query != in_body:
        raise problems.bad_request("The query and the body name different models.", "model", "invalid_value")
    return in_query or in_body


def headers_to_send(call: Call) -> dict[str, str]:
    """Return the headers that go on: those that belong neither to the connection nor to this server."""
    listed = call.scope["headers"]
    of_the_connection = {
        name.strip().lower()
        for raw_name, value in listed
        if raw_name.lower() == b"connection"
        for name in value.decode("latin-1").split(",")
    }
    headers: dict[str, str] = {}
    for raw_name, raw_value in listed:
        name = raw_name.decode("latin-1").lower()
        if name in _DROPPED or name in of_the_connection or name.startswith((_OURS, _OF_THE_HANDSHAKE)):
            continue
        value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _is_model(pair: str) -> bool:
    return unquote_plus(pair.partition("=")[0]) == "model"
