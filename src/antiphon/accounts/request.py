"""What accounts know of a request before it is answered."""

import msgspec

from antiphon.accounts.outcome import Kind
from antiphon.accounts.principal import Principal


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The principal, the requested model and the kind of a request. ``model`` is the name that the client asked for."""

    principal: Principal
    model: str
    kind: Kind
