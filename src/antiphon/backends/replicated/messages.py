"""The messages between a front and a replica. Frozen values that can be pickled."""

from typing import Self

import msgspec

from antiphon.backends.base import BackendModel, Health
from antiphon.protocol.errors import ApiError
from antiphon.protocol.events import Event, Meter


class EventBatch(msgspec.Struct, frozen=True):
    """Events that came together, and what the request has used by then; None: not measured."""

    events: tuple[Event, ...]
    meter: Meter | None = None


class Refusal(msgspec.Struct, frozen=True):
    """An ``ApiError`` of the replica: sent as a value, so that any transport preserves it."""

    status: int
    message: str
    type: str
    param: str | None
    code: str | None
    headers: dict[str, str]

    @classmethod
    def of(cls, error: ApiError) -> Self:
        return cls(error.status, error.message, error.type, error.param, error.code, dict(error.headers))

    def error(self) -> ApiError:
        return ApiError(
            self.status, self.message, type=self.type, param=self.param, code=self.code, headers=self.headers
        )


class Description(msgspec.Struct, frozen=True):
    """What a replica serves, and its health."""

    models: tuple[BackendModel, ...]
    health: Health
