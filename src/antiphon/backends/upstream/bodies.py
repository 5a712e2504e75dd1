"""Request values as the JSON body for an upstream.

The client's own JSON (``raw``) is sent, with our model name and streaming switched on. A request that another endpoint of
ours made has no such JSON, and is written from its values.
"""

from typing import Any

from antiphon.protocol.chat import ChatRequest, JsonSchemaFormat, Message, Sampling, Tool, ToolChoice
from antiphon.protocol.completions import CompletionRequest
from antiphon.protocol.embeddings import EmbeddingRequest

Json = dict[str, Any]


def chat_body(request: ChatRequest, model: str) -> Json:
    """Return the body of a streamed chat completion."""
    return _streamed(request.raw or _written_chat(request), model)


def completion_body(request: CompletionRequest, model: str) -> Json:
    """Return the body of a streamed completion."""
    return _streamed(request.raw or _written_completion(request), model)


def embedding_body(request: EmbeddingRequest, model: str) -> Json:
    """Return the body of an embedding request; vectors come as base64, which is exact and small."""
    written: Json = {"input": [text if isinstance(text, str) else list(text) for text in request.inputs]}
    optional: Json = {"dimensions": request.dimensions, "user": request.user}
    base = request.raw or {**written, **_given(optional)}
    return {**base, "model": model, "encoding_format": "base64"}


def tokenize_body(request: ChatRequest | CompletionRequest, model: str) -> Json:
    """Return the body of vLLM's and SGLang's ``/tokenize`` for a chat, or for the one text of a completion."""
    if isinstance(request, CompletionRequest):
        return {"model": model, "prompt": request.prompts[0], "add_special_tokens": False}
    source = request.raw or _written_chat(request)
    kept = {key: source[key] for key in ("messages", "tools") if key in source}
    return {**kept, "model": model, "add_generation_prompt": True}


def _streamed(base: Json, model: str) -> Json:
    options: Json = base.get("stream_options") or {}
    return {**base, "model": model, "stream": True, "stream_options": {**options, "include_usage": True}}


def _given(values: Json) -> Json:
    return {key: value for key, value in values.items() if value is not None}


def _sampling(sampling: Sampling) -> Json:
    default = Sampling()
    values: Json = {
        name: value
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
        if (value := getattr(sampling, name)) != getattr(default, name)
    }
    if sampling.logit_bias:
        values["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    return values


def _written_completion(request: CompletionRequest) -> Json:
    body: Json = {
        "prompt": [text if isinstance(text, str) else list(text) for text in request.prompts],
        "max_tokens": request.max_tokens,
        "n": request.n,
        "echo": request.echo,
        **_sampling(request.sampling),
        **_given({"suffix": request.suffix, "logprobs": request.logprobs, "user": request.user}),
    }
    if request.best_of > request.n:
        body["best_of"] = request.best_of
    return body | ({"stop": list(request.stop)} if request.stop else {})


def _written_chat(request: ChatRequest) -> Json:
    body: Json = {
        "messages": [_message(message) for message in request.messages],
        "n": request.n,
        **_sampling(request.sampling),
        **_given(
            {
                "max_completion_tokens": request.max_tokens,
                "reasoning_effort": request.reasoning_effort,
                "verbosity": request.verbosity,
                "user": request.user,
                "service_tier": request.service_tier,
                "prompt_cache_key": request.prompt_cache_key,
            }
        ),
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.tools:
        body |= {
            "tools": [_tool(tool) for tool in request.tools],
            "tool_choice": _tool_choice(request.tool_choice, request.tools),
            "parallel_tool_calls": request.parallel_tool_calls,
        }
    if request.response_format is not None:
        body["response_format"] = _format(request)
    return body


def _message(message: Message) -> Json:
    body: Json = {"role": message.role, "content": message.content}
    body |= _given({"name": message.name, "refusal": message.refusal, "tool_call_id": message.tool_call_id})
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "custom", "custom": {"name": call.function.name, "input": call.function.arguments}}
            if call.kind == "custom"
            else {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    return body


def _tool(tool: Tool) -> Json:
    described = {"name": tool.name, **_given({"description": tool.description})}
    if tool.kind == "custom":
        if tool.grammar is None:
            return {"type": "custom", "custom": {**described, "format": {"type": "text"}}}
        syntax, definition = tool.grammar
        grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
        return {"type": "custom", "custom": {**described, "format": grammar}}
    parameters = _given({"parameters": tool.parameters})
    return {"type": "function", "function": {**described, **parameters, "strict": tool.strict}}


def _tool_choice(choice: ToolChoice, tools: tuple[Tool, ...]) -> str | Json:
    if not choice.names:
        return choice.mode
    kinds = {tool.name: tool.kind for tool in tools}
    named = [{"type": kinds[name], kinds[name]: {"name": name}} for name in choice.names]
    if choice.mode == "required" and len(named) == 1:
        return named[0]
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}


def _format(request: ChatRequest) -> Json:
    wanted = request.response_format
    if not isinstance(wanted, JsonSchemaFormat):
        return {"type": "json_object"}
    schema: Json = {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}
    return {"type": "json_schema", "json_schema": {**schema, **_given({"description": wanted.description})}}
