"""What accounts know of a request before it is answered."""

import msgspec

from antiphon.accounts.outcome import Kind
from antiphon.accounts.principal import Principal


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who asks for which model, and what for. ``model`` is the name the client asked for."""

    principal: Principal
    model: str
    kind: Kind
