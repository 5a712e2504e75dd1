"""What the items of MCP say: which calls were approved, which were run, and what came of them."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from antiphon.protocol import problems

Json = dict[str, Any]


class McpRecord:
    """Reads all items of a conversation, each with its type."""

    def __init__(self, items: Sequence[Json]) -> None:
        of_kind: dict[str, list[Json]] = {"mcp_call": [], "mcp_approval_request": [], "mcp_approval_response": []}
        for item in items:
            if item.get("type") in of_kind:
                of_kind[item["type"]].append(item)
        self._requests = {item["id"]: item for item in of_kind["mcp_approval_request"]}
        self._answers = {item["approval_request_id"]: item for item in of_kind["mcp_approval_response"]}
        self._runs = {item["approval_request_id"]: item for item in of_kind["mcp_call"] if self.is_run_of_request(item)}

    def check_answers(self) -> None:
        """Raise ``ApiError`` 400 for an answer to a request that is not here."""
        for request_id in self._answers:
            if request_id not in self._requests:
                raise problems.bad_request(f"No approval request found with id '{request_id}'.", "input")

    def is_run_of_request(self, call: Json) -> bool:
        """Whether an ``mcp_call`` is what became of an approval request that is here too."""
        return call.get("approval_request_id") in self._requests

    @property
    def approved(self) -> list[Json]:
        """The approval requests that were approved and are still to be run."""
        return [
            request
            for request_id, request in self._requests.items()
            if request_id not in self._runs and self._answers.get(request_id, {}).get("approve") is True
        ]

    def result_of_request(self, request_id: str) -> str:
        """Return what the model is shown as the result of a call that needed approval."""
        if request_id in self._runs:
            return result_of_call(self._runs[request_id])
        answer = self._answers.get(request_id)
        if answer is None or answer["approve"]:
            return "This call was not run: the user has not answered the request for approval."
        reason = answer.get("reason")
        return "The user did not approve this call." + (f" Reason: {reason}" if reason else "")


def result_of_call(call: Json) -> str:
    """Return what the model is shown as the result of an ``mcp_call``."""
    if call.get("output") is not None:
        return call["output"]
    error: Any = call.get("error")
    if error is None:
        return f"The call has no result; its status is {call.get('status') or 'unknown'}."
    if isinstance(error, str):
        return f"Error: {error}"
    said: Any = cast("Json", error).get("message") or _content_text(cast("Json", error).get("content"))
    return f"Error: {said}"


def _content_text(content: Any) -> str:
    parts = cast("list[Any]", content) if isinstance(content, list) else [content]
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: Any) -> str:
    text: Any = cast("Json", part).get("text") if isinstance(part, dict) else part
    return text if isinstance(text, str) else msgspec.json.encode(part).decode()
