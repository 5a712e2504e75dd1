"""One call of a model for a vector store, made for another request or in the background, and how it ended, for its usage row."""

import secrets
import time
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

import msgspec

from antiphon.accounts import Outcome, how_it_failed
from antiphon.protocol.events import Usage


class ModelResult(Protocol):
    """What the results of embedding and of ranking have in common."""

    @property
    def model(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def compute_s(self) -> float | None: ...


ResultT = TypeVar("ResultT", bound=ModelResult)


class ModelCall:
    """``outcome`` is complete once ``run`` is over, however it ended."""

    def __init__(self, path: str) -> None:
        self._started = time.perf_counter()
        self.outcome = Outcome(
            request_id=f"req_{secrets.token_hex(16)}", started_at=time.time(), duration_s=0.0, path=path
        )

    async def run(self, work: Awaitable[ResultT]) -> ResultT:
        """Return what ``work`` returns, and note what it used. Raises what it raises."""
        try:
            result = await work
        except BaseException as error:
            status, error_code = how_it_failed(error)
            self._end(status=status, error_code=error_code)
            raise
        self._end(model=result.model, usage=Usage(result.prompt_tokens), compute_s=result.compute_s)
        return result

    def _end(self, **fields: Any) -> None:
        duration_s = time.perf_counter() - self._started
        self.outcome = msgspec.structs.replace(self.outcome, duration_s=duration_s, **fields)
