"""A request for a response: what it means, what is refused, and how its items become a conversation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.protocol.chat import JsonSchemaFormat, Message, ToolChoice
from antiphon.protocol.errors import ApiError, completion_too_long
from antiphon.protocol.responses import messages_of, parse_response, with_ids
from antiphon.protocol.responses.errors import own_words
from antiphon.protocol.responses.item_fields import FOREIGN_CALLS, FOREIGN_OUTPUTS
from antiphon.protocol.responses.tool_fields import HOSTED_TOOLS

BASE = {"model": "m", "input": "hi"}
STRICT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
LOOSE = {"type": "object", "properties": {"a": {"type": "string"}}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "done"}


def unseal(token: str) -> str:
    return f"unsealed {token}"


def messages(*items: dict[str, Any]) -> tuple[Message, ...]:
    return messages_of(items, unseal, {})


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, **fields}


@pytest.mark.parametrize(
    ("schema", "given_strict", "expected"),
    [(STRICT, {}, True), (LOOSE, {}, False), (STRICT, {"strict": None}, True), (STRICT, {"strict": False}, False), (None, {}, False)],
)  # fmt: skip
def test_strict_left_out_means_if_the_schema_allows_it(
    schema: dict[str, Any] | None, given_strict: dict[str, Any], expected: bool
) -> None:
    """Chat's default is false; here it follows from the schema, and the echo says which it was."""
    request = parse_response(BASE | {"tools": [function("f", parameters=schema, **given_strict)]})
    assert request.chat.tools[0].strict is expected
    assert request.echo["tools"][0]["strict"] is expected


def test_the_tools_of_a_namespace_are_told_apart_and_come_back_under_their_own_names() -> None:
    """Two namespaces may have a tool of the same name; the model sees both, the client gets namespace and name apart."""
    spaces = [{"type": "namespace", "name": n, "description": "", "tools": [function("f")]} for n in ("a", "b")]
    request = parse_response(BASE | {"tools": [*spaces, function("f")]})
    assert [tool.name for tool in request.chat.tools] == ["a__f", "b__f", "f"]
    assert [request.names.of(tool.name) for tool in request.chat.tools] == [("a", "f"), ("b", "f"), (None, "f")]
    with pytest.raises(ApiError, match="duplicate tool name"):
        parse_response(BASE | {"tools": [spaces[0], function("a__f")]})


@pytest.mark.parametrize("kind", HOSTED_TOOLS)
def test_hosted_tools_are_refused_by_name_or_left_out_audibly(kind: str) -> None:
    """The default's error names the setting; with it the tool is missing from the model's tools and from the echo."""
    body = BASE | {"tools": [{"type": kind, "anything": {"of": "theirs"}}, function("f")]}
    with pytest.raises(ApiError, match=r"hosted_tools = \"leave-out\"") as caught:
        parse_response(body)
    assert caught.value.param == "tools[0]"
    request = parse_response(body, hosted_tools="leave-out")
    assert request.left_out == (kind,)
    assert [tool["type"] for tool in request.echo["tools"]] == ["function"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolChoice("auto")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "f"}, ToolChoice("required", ("f",))),
        ({"type": "function", "name": "g", "namespace": "ns"}, ToolChoice("required", ("ns__g",))),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}, ToolChoice("auto", ("f",))),
    ],
)  # fmt: skip
def test_every_form_of_tool_choice_is_read(choice: Any, expected: ToolChoice) -> None:
    """A mode, a named tool, one of a namespace, and a list of allowed ones."""
    tools = [function("f"), {"type": "namespace", "name": "ns", "description": "", "tools": [function("g")]}]
    assert parse_response(BASE | {"tools": tools, "tool_choice": choice}).chat.tool_choice == expected


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"previous_response_id": "a", "conversation": "b"}, None),
        ({"background": True, "store": False}, "background"),
        ({"background_options": {"completion_window": "soonest"}}, "background_options"),
        ({"background": True, "background_options": {"completion_window": "2h"}}, "background_options.completion_window"),
        ({"image": {"context_compression": "enabled"}}, "image.context_compression"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"max_output_tokens": 15}, "max_output_tokens"),
        ({"input": [{"type": "no_such_item"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "x"}] * 2049}, "input"),
        ({"input": [{"type": "compaction_trigger"}, {"role": "user", "content": "x"}]}, "input[0].type"),
        ({"input": [{"type": "configuration_update"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": LOOSE, "strict": True}}}, "text.format"),
        ({"safety_identifier": "x" * 129}, "safety_identifier"),
        ({"include": ["nothing"]}, "include[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_a_400_that_names_it(change: dict[str, Any], param: str | None) -> None:
    """Nothing is silently ignored."""
    with pytest.raises(ApiError) as caught:
        parse_response(BASE | change)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_what_a_store_is_needed_for_is_refused_without_one() -> None:
    """With [responses] store = "off" a request that says nothing is answered and not kept; one that insists is refused."""
    assert parse_response(BASE, can_store=False).store is False
    for change in ({"store": True}, {"background": True}):
        with pytest.raises(ApiError):
            parse_response(BASE | change, can_store=False)


def test_null_fields_are_as_if_left_out() -> None:
    """LlamaIndex sends every field, most of them null."""
    names = (
        "instructions", "previous_response_id", "conversation", "store", "background", "stream", "include", "tools",
        "tool_choice", "parallel_tool_calls", "max_tool_calls", "max_output_tokens", "temperature", "top_p", "top_logprobs",
        "text", "reasoning", "truncation", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "prompt",
        "context_management", "moderation", "client_metadata",
    )  # fmt: skip
    request = parse_response(BASE | dict.fromkeys(names))
    assert request == parse_response(BASE)


def test_a_format_is_chats_structured_output() -> None:
    """The flat form of text.format means what response_format means."""
    wanted = {"type": "json_schema", "name": "x", "schema": STRICT, "strict": True}
    assert parse_response(BASE | {"text": {"format": wanted}}).chat.response_format == JsonSchemaFormat(
        "x", STRICT, None, True
    )


def test_consecutive_items_of_the_model_are_one_message() -> None:
    """Reasoning, text and calls make one assistant message; the result follows it, its parts joined."""
    said = messages(
        {"role": "user", "content": "hi"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "think"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I call."}]},
        CALL,
        OUTPUT | {"output": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    )
    assert [message.role for message in said] == ["user", "assistant", "tool"]
    assert (said[1].reasoning_content, said[1].content) == ("think", "I call.")
    assert said[1].tool_calls[0].function.name == "f"
    assert (said[2].tool_call_id, said[2].content) == ("c1", "ab")


@given(st.permutations(["c1", "c2", "c3"]))
def test_results_follow_their_calls_in_the_order_of_the_calls(order: list[str]) -> None:
    """Whatever the order in which a client sends results, the conversation is the same."""
    calls = [CALL | {"call_id": call_id} for call_id in ("c1", "c2", "c3")]
    outputs = [OUTPUT | {"call_id": call_id, "output": f"of {call_id}"} for call_id in order]
    said = messages(*calls, *outputs, {"role": "user", "content": "next"})
    assert [message.tool_call_id for message in said] == [None, "c1", "c2", "c3", None]
    assert [message.content for message in said[1:4]] == ["of c1", "of c2", "of c3"]


def test_calls_and_results_must_match() -> None:
    """OpenAI's two errors: a call that nobody answered, an answer that nobody asked for."""
    with pytest.raises(ApiError, match="No tool output found for function call c1"):
        messages(CALL, {"role": "user", "content": "next"})
    with pytest.raises(ApiError, match="No tool call found for function call output with call_id c1"):
        messages(OUTPUT)


@pytest.mark.parametrize("kind", FOREIGN_CALLS)
def test_what_hosted_tools_did_elsewhere_is_a_call_and_a_result(kind: str) -> None:
    """People change models in the middle of a conversation: no kind of item breaks it, and its content reaches the model."""
    item = {"type": kind, "id": "x_1", "status": "completed", "action": {"query": "otters"}, "output": "found them"}
    call, result = messages(item)
    assert "otters" in call.tool_calls[0].function.arguments
    assert "found them" in (result.content or "")
    parse_response(BASE | {"input": [item]})


@pytest.mark.parametrize("kind", FOREIGN_OUTPUTS)
def test_results_of_hosted_tools_as_items_of_their_own_belong_to_their_calls(kind: str) -> None:
    """A shell's output, say, that a client ran."""
    call = {"type": "shell_call", "call_id": "c1", "action": {"commands": ["ls"]}}
    said = messages(call, {"type": kind, "call_id": "c1", "output": [{"stdout": "README.md"}]})
    assert "README.md" in (said[1].content or "")


def test_a_result_without_a_call_id_belongs_to_the_call_before_it() -> None:
    """OpenAI's own tool search names neither; the model sees what was found."""
    found = [{"type": "function", "name": "get_weather"}]
    search = {
        "type": "tool_search_call",
        "id": "tsc_1",
        "call_id": None,
        "execution": "server",
        "arguments": {"q": "rain"},
    }
    output = {"type": "tool_search_output", "id": "tso_1", "call_id": None, "execution": "server", "tools": found}
    call, result = messages(search, output)
    assert "rain" in call.tool_calls[0].function.arguments
    assert "get_weather" in (result.content or "")
    with pytest.raises(ApiError, match="No tool call found"):
        messages(output)


def test_sealed_thinking_is_opened() -> None:
    """A reasoning item without its text is read through its seal; without that, through its summary."""
    sealed = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "X"}
    summed = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "short"}]}
    answer = {"type": "message", "role": "assistant", "content": "a"}
    assert messages(sealed, answer)[0].reasoning_content == "unsealed X"
    assert messages(summed, answer)[0].reasoning_content == "short"


def test_late_and_several_developer_messages_stay_where_they_are() -> None:
    """Moving one to the beginning would change the prompt's prefix, and its meaning."""
    said = messages(
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": "c"},
        {"role": "user", "content": "d"},
    )
    assert [message.role for message in said] == ["system", "user", "developer", "user"]


def test_items_get_ids_with_their_prefixes() -> None:
    """Ids that a client gave stay; the others begin as OpenAI's do."""
    kept = with_ids([{"role": "user", "content": "x"}, CALL, OUTPUT, CALL | {"id": "fc_mine"}])
    assert [item["id"].partition("_")[0] for item in kept] == ["msg", "fc", "fco", "fc"]
    assert kept[3]["id"] == "fc_mine"
    assert kept[0]["content"] == [{"type": "input_text", "text": "x"}]


def test_a_reference_names_a_kept_item() -> None:
    """What is not kept is a 404 that says so."""
    kept = {"msg_1": {"type": "message", "role": "user", "content": "earlier", "id": "msg_1"}}
    assert messages_of([{"id": "msg_1"}], unseal, kept)[0].content == "earlier"
    with pytest.raises(ApiError, match="msg_2"):
        messages_of([{"type": "item_reference", "id": "msg_2"}], unseal, kept)


@pytest.mark.parametrize(
    ("error", "param", "message"),
    [
        (completion_too_long(8192, 100, 9000), "input", "in the input, 9000"),
        (ApiError(400, "max_tokens is too large: 9", param="max_tokens"), "max_output_tokens", "max_output_tokens is"),
        (ApiError(400, "Invalid schema", param="tools[0].function.parameters"), "tools[0].parameters", "Invalid"),
        (ApiError(400, "x", param="messages[2].content"), "input[2].content", "x"),
        (ApiError(404, "messages", param="messages"), "messages", "messages"),
    ],
)
def test_errors_name_the_parameters_of_this_endpoint(error: ApiError, param: str, message: str) -> None:
    """What prompting, engine and schemas refuse is said of the fields that the client sent."""
    said = own_words(error)
    assert (said.param, said.code, said.status) == (param, error.code, error.status)
    assert message in said.message
