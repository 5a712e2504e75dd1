"""The ``model`` object of ``GET /v1/models``."""

from typing import Any, Protocol


class ListedModel(Protocol):
    """The facts of a model; ``created`` is in Unix seconds."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def owned_by(self) -> str: ...


def model_value(model: ListedModel) -> dict[str, Any]:
    """Return one ``model`` object."""
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.owned_by}
