"""Endpoints that refuse what current models refuse, behind the real official client: no sockets, every request kept.

``ReasoningEndpoint`` answers like an OpenAI model that reasons: no temperature, no ``max_tokens``, tools at responses
alone, reasoning that is sealed. ``ThinkingEndpoint`` answers like DeepSeek: no ``/responses``, and the results of tools
only together with the reasoning that led to the calls.

The "model" behind both calls each tool once and then answers; asked for JSON, it answers the least value of the schema.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
from openai import AsyncOpenAI, OpenAI

Json = dict[str, Any]
_REFUSED = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "max_tokens")
PROMPT_TOKENS, ANSWER_TOKENS = 11, 7
FITS = 11
"""The least limit of tokens that does not cut an answer."""


def least(schema: Any, definitions: Any = None) -> Any:
    """Return the least value that a schema allows."""
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema or "anyOf" in schema:
        named = definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema["anyOf"][0]
        return least(named, definitions)
    if "enum" in schema or "const" in schema:
        return schema["enum"][0] if "enum" in schema else schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {name: least(part, definitions) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [least(schema["items"], definitions)] * max(1, schema.get("minItems", 1))
    number = max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1)
    return {"string": "a", "boolean": True, "integer": number, "number": number}.get(str(kind))


def text_of(schema: Any) -> str:
    return "It is so [1]." if schema is None else json.dumps(least(schema))


def error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> httpx2.Response:
    told = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return httpx2.Response(status, json={"error": told}, headers={"x-request-id": "req_1"})


def events(lines: list[Json], *, named: bool) -> httpx2.Response:
    head = "event: {0[type]}\n" if named else ""
    body = "".join(f"{head.format(line)}data: {json.dumps(line)}\n\n" for line in lines)
    end = "" if named else "data: [DONE]\n\n"
    return httpx2.Response(200, text=body + end, headers={"content-type": "text/event-stream", "x-request-id": "req_1"})


@dataclass
class ModelEndpoint:
    """What both have: the routes that are the same, and everything that was asked."""

    base_url: str = "https://models.test/v1"
    requests: list[tuple[str, Json]] = field(default_factory=list)
    num_answers: int = 0
    """Answers with usage: what a report should count."""

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content) if request.content else {}
        path = request.url.path.removeprefix("/v1")
        self.requests.append((path, body))
        if path == "/models":
            return httpx2.Response(200, json={"object": "list", "data": [{"id": "m", "object": "model"}]})
        routes = {"/chat/completions": self.chat, "/responses": self.respond, "/embeddings": self.embed}
        route = routes.get(path)
        return error(404, f"Invalid URL ({path})") if route is None else route(body)

    def chat(self, body: Json) -> httpx2.Response:
        raise NotImplementedError

    def respond(self, body: Json) -> httpx2.Response:
        return error(404, "Invalid URL (POST /v1/responses)")

    def embed(self, body: Json) -> httpx2.Response:
        self.num_answers += 1
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in body["input"]]
        data = [{"object": "embedding", "index": n, "embedding": [b + 1.0 for b in d]} for n, d in enumerate(digests)]
        usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
        return httpx2.Response(200, json={"object": "list", "data": data, "model": body["model"], "usage": usage})

    def sent(self, path: str) -> list[Json]:
        return [body for asked, body in self.requests if asked == path]

    def client(self, **options: Any) -> OpenAI:
        http_client = httpx2.Client(transport=httpx2.MockTransport(self.handle))
        return OpenAI(api_key="k", base_url=self.base_url, http_client=http_client, **options)

    def async_client(self, **options: Any) -> AsyncOpenAI:
        http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.handle))
        return AsyncOpenAI(api_key="k", base_url=self.base_url, http_client=http_client, **options)


@dataclass
class ReasoningEndpoint(ModelEndpoint):
    """Like an OpenAI model that reasons. ``has_responses`` False: an endpoint without that route."""

    has_responses: bool = True
    num_sealed: int = 0

    def chat(self, body: Json) -> httpx2.Response:
        if refused := next((name for name in _REFUSED if body.get(name) is not None), None):
            hint = " Use 'max_completion_tokens' instead." if refused == "max_tokens" else ""
            message = f"Unsupported parameter: '{refused}' is not supported with this model.{hint}"
            return error(400, message, param=refused, code="unsupported_parameter")
        if body.get("tools") and body.get("reasoning_effort") != "none" and self.has_responses:
            message = f"Function tools with reasoning_effort are not supported for {body['model']} in "
            return error(400, message + "/v1/chat/completions. Please use /v1/responses instead.")
        for number, message in enumerate(body["messages"]):
            if unknown := message.keys() - {"role", "content", "tool_calls", "tool_call_id", "refusal", "name"}:
                return error(400, f"Unknown parameter: 'messages[{number}].{unknown.pop()}'.", code="unknown_parameter")
        self.num_answers += 1
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        return completion(body, {"role": "assistant", "content": text_of(schema), "refusal": None})

    def respond(self, body: Json) -> httpx2.Response:
        if not self.has_responses:
            return error(404, "Not Found")
        is_off = (body.get("reasoning") or {}).get("effort") == "none"
        if not is_off and (refused := next((name for name in _REFUSED if body.get(name) is not None), None)):
            return error(400, f"Unsupported parameter: '{refused}'.", param=refused, code="unsupported_parameter")
        if problem := self._problem(body["input"]):
            return error(400, problem, code="invalid_value")
        self.num_answers += 1
        self.num_sealed += 1
        reasoning = {
            "id": f"rs_{self.num_sealed}",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": f"thought {self.num_sealed}"}],
            "encrypted_content": f"sealed-{self.num_sealed}==",
        }
        answered = {item.get("call_id") for item in body["input"] if str(item.get("type")).endswith("_output")}
        last_user = max((n for n, item in enumerate(body["input"]) if item.get("role") == "user"), default=0)
        is_answered = any(item.get("call_id") in answered for item in body["input"][last_user:])
        format_ = (body.get("text") or {}).get("format") or {}
        if body.get("tools") and not is_answered and body.get("tool_choice") != "none":
            made = [_response_call(tool, n, self.num_sealed) for n, tool in enumerate(body["tools"])]
        else:
            part = {"type": "output_text", "text": text_of(format_.get("schema")), "annotations": [], "logprobs": []}
            made = [{"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": [part]}]
        return response(body, [reasoning, *made])

    def _problem(self, items: list[Json]) -> str | None:
        """Say what is wrong with the input: reasoning that was not sealed here, a call without reasoning or result."""
        for number, item in enumerate(items):
            if item.get("type") == "reasoning" and not str(item.get("encrypted_content")).startswith("sealed-"):
                return f"input[{number}]: invalid_encrypted_content"
            if str(item.get("type")).endswith("_call"):
                before = items[:number][::-1]
                kinds = [i.get("type") for i in before if not str(i.get("type")).endswith(("_call", "_output"))]
                if not kinds or kinds[0] != "reasoning":
                    return f"input[{number}]: a call was provided without its required 'reasoning' item"
                if all(i.get("call_id") != item["call_id"] or i is item for i in items[number:]):
                    return f"input[{number}]: no tool output found for {item['call_id']}"
        return None


@dataclass
class ThinkingEndpoint(ModelEndpoint):
    """Like DeepSeek: ``reasoning_content`` must come back with the calls that it led to. Calls tools ``rounds`` times."""

    rounds: int = 2

    def chat(self, body: Json) -> httpx2.Response:
        turn: list[Json] = []
        for message in body["messages"]:
            turn = [] if message["role"] == "user" else [*turn, message]
            if message.get("tool_calls") and not str(message.get("reasoning_content")).startswith("thought"):
                return error(400, "Missing `reasoning_content` field in the assistant message with tool calls")
            if message.get("reasoning_content") and not any(m.get("tool_calls") for m in body["messages"]):
                return error(400, "reasoning_content is not allowed without tool calls")
        self.num_answers += 1
        num_called = sum(bool(message.get("tool_calls")) for message in turn)
        message: Json = {"role": "assistant", "content": None, "reasoning_content": f"thought {num_called}"}
        if body.get("tools") and num_called < self.rounds and body.get("tool_choice") != "none":
            calls = [_chat_call(tool, n, num_called) for n, tool in enumerate(body["tools"])]
            return completion(body, {**message, "tool_calls": calls})
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        return completion(body, {**message, "content": text_of(schema)})


def _arguments(parameters: Any) -> str:
    return json.dumps(least({"type": "object", **(parameters or {})}))


def _chat_call(tool: Json, number: int, round_: int) -> Json:
    function = {"name": tool["function"]["name"], "arguments": _arguments(tool["function"].get("parameters"))}
    return {"id": f"call_{round_}_{number}", "type": "function", "function": function}


def _response_call(tool: Json, number: int, round_: int) -> Json:
    head = {"id": f"fc_{round_}_{number}", "call_id": f"call_{round_}_{number}", "name": tool["name"]}
    if tool["type"] == "custom":
        return {**head, "type": "custom_tool_call", "input": "free text"}
    arguments = _arguments(tool.get("parameters"))
    return {**head, "type": "function_call", "arguments": arguments, "status": "completed"}


def completion(body: Json, message: Json) -> httpx2.Response:
    """Return ``message`` as a completion, streamed if it is asked for so."""
    head = {"id": "chatcmpl-1", "created": 1, "model": f"{body['model']}-dated", "system_fingerprint": "fp_1"}
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or FITS
    reason = "tool_calls" if message.get("tool_calls") else "stop" if limit >= FITS else "length"
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": ANSWER_TOKENS,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }
    if not body.get("stream"):
        choices = [
            {"index": n, "message": message, "finish_reason": reason, "logprobs": None}
            for n in range(body.get("n") or 1)
        ]
        whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
        return httpx2.Response(200, json=whole, headers={"x-request-id": "req_1"})
    head["object"] = "chat.completion.chunk"
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "content"):
        deltas += [{name: piece} for piece in _pieces(message.get(name) or "")]
    deltas += [{"tool_calls": [{"index": n, **call}]} for n, call in enumerate(message.get("tool_calls") or ())]
    lines = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    lines += [{**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}]
    lines += [{**head, "choices": [], "usage": usage}]
    return events(lines, named=False)


def response(body: Json, output: list[Json]) -> httpx2.Response:
    """Return ``output`` as a response, streamed if it is asked for so."""
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": ANSWER_TOKENS,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }
    whole: Json = {"id": "resp_1", "object": "response", "created_at": 1, "model": f"{body['model']}-dated"}
    whole |= {"status": "completed", "output": output, "usage": usage, "error": None, "incomplete_details": None}
    whole |= {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "instructions": None, "metadata": {}}
    is_cut = (body.get("max_output_tokens") or FITS) < FITS
    if is_cut:
        whole |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    if not body.get("stream"):
        return httpx2.Response(200, json=whole, headers={"x-request-id": "req_1"})
    lines: list[Json] = [{"type": "response.created", "response": {**whole, "output": [], "status": "in_progress"}}]
    for index, item in enumerate(output):
        at = {"item_id": item["id"], "output_index": index}
        lines.append({"type": "response.output_item.added", **at, "item": item})
        if item["type"] == "reasoning":
            kind = {"type": "response.reasoning_summary_text.delta", **at, "summary_index": 0}
            lines.extend({**kind, "delta": piece} for piece in _pieces(item["summary"][0]["text"]))
        if item["type"] == "message":
            kind = {"type": "response.output_text.delta", **at, "content_index": 0}
            lines.extend({**kind, "delta": piece} for piece in _pieces(item["content"][0]["text"]))
        lines.append({"type": "response.output_item.done", **at, "item": item})
    lines.append({"type": f"response.{whole['status']}", "response": whole})
    return events([{**line, "sequence_number": n} for n, line in enumerate(lines)], named=True)


def _pieces(text: str) -> Iterator[str]:
    return (text[start : start + 4] for start in range(0, len(text), 4))
