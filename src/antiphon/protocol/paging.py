"""Which part of a list is wanted: OpenAI's ``limit``, ``order``, ``after`` and ``before``."""

import msgspec

from antiphon.protocol import problems
from antiphon.protocol.errors import ApiError


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """At most ``limit`` items between two cursors, which are ids. ``descending``: newest first."""

    limit: int
    descending: bool = True
    after: str | None = None
    before: str | None = None

    @property
    def is_backward(self) -> bool:
        """Whether the page is the one that ends at ``before``, and not the one that begins at ``after`` or with the list."""
        return self.before is not None and self.after is None


def no_such_cursor(parameter: str, cursor: str) -> ApiError:
    """400 for a cursor that names nothing in the list."""
    return problems.bad_request(f"Invalid '{parameter}': no item with id '{cursor}'.", parameter, "invalid_value")
