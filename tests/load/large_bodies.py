"""Bodies as large as a server takes, one of each shape that once kept it busy; for the tests of bodies and for the load test."""

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from antiphon.server.request.json_values import MAX_VALUES


class LargeBody(NamedTuple):
    """A request: where it goes, its JSON, and the statuses that are right for it."""

    path: str
    body: bytes
    statuses: frozenset[int]


Make = Callable[[str, int], LargeBody]
"""Makes a body for a model with about so many bytes."""

REFUSED = frozenset({400, 413})


def _repeated(begin: str, item: str, end: str, size: int) -> bytes:
    """Return ``begin``, as many items as fit, and ``end``."""
    number = max(1, (size - len(begin) - len(end)) // (len(item) + 1))
    return (begin + ",".join([item] * number) + end).encode()


def _distinct(begin: str, item: Callable[[int], str], end: str, size: int) -> bytes:
    number = max(1, (size - len(begin) - len(end)) // (len(item(9_999_999)) + 1))
    return (begin + ",".join(map(item, range(number))) + end).encode()


def _chat(model: str) -> str:
    return json.dumps({"model": model, "max_tokens": 2})[:-1]


def _hi(model: str) -> str:
    return _chat(model) + ',"messages":[{"role":"user","content":"hi"}],'


def _content(text: str) -> Make:
    def make(model: str, size: int) -> LargeBody:
        content = text * ((size - 200) // len(json.dumps(text, ensure_ascii=False)[1:-1].encode()))
        body = {"model": model, "max_tokens": 2, "messages": [{"role": "user", "content": content}]}
        return LargeBody("/v1/chat/completions", json.dumps(body, ensure_ascii=False).encode(), REFUSED)

    return make


def _listed(begin: Callable[[str], str], item: str, end: str) -> Make:
    return lambda model, size: LargeBody("/v1/chat/completions", _repeated(begin(model), item, end, size), REFUSED)


def _named(begin: Callable[[str], str], item: Callable[[int], str], end: str) -> Make:
    return lambda model, size: LargeBody("/v1/chat/completions", _distinct(begin(model), item, end, size), REFUSED)


def _post(path: str, begin: Callable[[str], str], item: str, end: str) -> Make:
    return lambda model, size: LargeBody(path, _repeated(begin(model), item, end, size), REFUSED)


def _within(
    begin: Callable[[str], str],
    field: str,
    item: Callable[[int], str],
    end: str,
    marks: int,
    *,
    path: str = "/v1/chat/completions",
) -> Make:
    """A body with as many items as the limit on values allows; each has so many commas, colons and brackets."""

    def make(model: str, size: int) -> LargeBody:
        number = min(size // (len(item(9_999_999)) + 1), (MAX_VALUES - 100) // marks)
        body = begin(model) + field + ",".join(map(item, range(number))) + end
        return LargeBody(path, body.encode(), frozenset({200, 400}))

    return make


def _one(body: str, *statuses: int) -> Make:
    """A body with one long text or number."""

    def make(model: str, size: int) -> LargeBody:
        number = size - 200
        text = body.format(model=model, text="a" * number, digits="0" * number)
        return LargeBody("/v1/chat/completions", text.encode(), frozenset(statuses or REFUSED))

    return make


def _prompt(path: str, field: str) -> Make:
    def make(model: str, size: int) -> LargeBody:
        body = {"model": model, field: "word, and more. " * ((size - 100) // 16)}
        return LargeBody(path, json.dumps(body).encode(), REFUSED | ({200} if path == "/tokenize" else set()))

    return make


TOOL = '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{'
SCHEMA = '"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{'


def _slow_schema(model: str, _: int) -> LargeBody:
    """A schema of 41 KB that takes a compiler minutes."""
    patterns = {f"^(a|b)*{number}(c|d)*$": {"type": "string"} for number in range(1000)}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"patternProperties": patterns}}}
    body = _hi(model) + '"response_format":' + json.dumps(form) + "}"
    return LargeBody("/v1/chat/completions", body.encode(), frozenset({200, 400}))


SHAPES: Mapping[str, Make] = {
    "tiny messages": _listed(lambda m: _chat(m) + ',"messages":[', '{"role":"user","content":"a"}', "]}"),
    "empty messages": _listed(lambda m: _chat(m) + ',"messages":[', "{}", "]}"),
    "content parts": _listed(
        lambda m: _chat(m) + ',"messages":[{"role":"user","content":[', '{"type":"text","text":"a"}', "]}]}"
    ),
    "prose": _content("word, and more. "),
    "half control tokens": _content("<|im_"),
    "control tokens": _content("<|im_end|>"),
    "quotes": _content('"\\'),
    "emoji": _content("\U0001f600"),
    "logit_bias": _named(lambda m: _hi(m) + '"logit_bias":{', lambda i: f'"{i}":1', "}}"),
    "metadata": _named(lambda m: _hi(m) + '"metadata":{', lambda i: f'"k{i}":"v"', "}}"),
    "schema": _named(lambda m: _hi(m) + SCHEMA, lambda i: f'"p{i}":{{"type":"string"}}', "}}}}}"),
    "tools": _listed(
        lambda m: _hi(m) + '"tools":[', '{"type":"function","function":{"name":"f","parameters":{}}}', "]}"
    ),
    "stop": _listed(lambda m: _hi(m) + '"stop":[', '"x"', "]}"),
    "unknown fields": _named(lambda m: _hi(m)[:-1] + ",", lambda i: f'"field{i}":1', "}"),
    # As many values as are allowed, so that the server decodes them.
    "a schema within the limit": _within(_hi, SCHEMA, lambda i: f'"p{i}":{{"type":"string"}}', "}}}}}", 4),
    "a tool within the limit": _within(_hi, TOOL, lambda i: f'"p{i}":{{"type":"string"}}', "}}}}]}", 4),
    "a loose schema within the limit": _within(_hi, SCHEMA, lambda i: f'"p{i}":{{}}', "}}}}}", 3),
    "an enum within the limit": _within(_hi, SCHEMA + '"p":{"enum":[', lambda i: f'"{i}"', "]}}}}}}", 1),
    "messages within the limit": _within(_chat, ',"messages":[', lambda _: '{"role":"user","content":"a"}', "]}", 6),
    "parts within the limit": _within(
        _chat, ',"messages":[{"role":"user","content":[', lambda _: '{"type":"text","text":"a"}', "]}]}", 6
    ),
    "biases within the limit": _within(_hi, '"logit_bias":{', lambda i: f'"{i}":1', "}}", 2),
    "ids to embed within the limit": _within(
        lambda m: f'{{"model":"{m}",', '"input":[', lambda _: "1", "]}", 1, path="/v1/embeddings"
    ),
    "lists to embed within the limit": _within(
        lambda m: f'{{"model":"{m}",', '"input":[', lambda _: "[" + "1," * 149 + "1]", "]}", 151, path="/v1/embeddings"
    ),
    "ids to continue within the limit": _within(
        lambda m: f'{{"model":"{m}",', '"prompt":[', lambda _: "1", "]}", 1, path="/v1/completions"
    ),
    "a schema that is slow to compile": _slow_schema,
    "a long name": _one('{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"{text}":1}}'),
    "a long role": _one('{{"model":"{model}","messages":[{{"role":"{text}","content":"hi"}}]}}'),
    "a long model": _one('{{"model":"{text}","messages":[{{"role":"user","content":"hi"}}]}}', 404),
    "a long bias": _one(
        '{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"logit_bias":{{"{text}":1}}}}'
    ),
    "a long number": _one('{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"n":1{digits}}}'),
    "a long stop": _one(
        '{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"max_tokens":2,"stop":"{text}"}}', 200
    ),
    "deep": lambda m, size: LargeBody(
        "/v1/chat/completions",
        (_chat(m) + ',"messages":' + "[" * (size // 2) + "]" * (size // 2) + "}").encode(),
        REFUSED,
    ),
    "token ids to embed": _post("/v1/embeddings", lambda m: f'{{"model":"{m}","input":[', "1", "]}"),
    "texts to embed": _post("/v1/embeddings", lambda m: f'{{"model":"{m}","input":[', '"a"', "]}"),
    "token ids to continue": _post("/v1/completions", lambda m: f'{{"model":"{m}","prompt":[', "1", "]}"),
    "a prompt to continue": _prompt("/v1/completions", "prompt"),
    "a text to embed": _prompt("/v1/embeddings", "input"),
    "a prompt to tokenize": _prompt("/tokenize", "prompt"),
    "messages to tokenize": _post(
        "/tokenize", lambda m: f'{{"model":"{m}","messages":[', '{"role":"user","content":"a"}', "]}"
    ),
}
