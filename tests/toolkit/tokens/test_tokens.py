"""Counting tokens."""

import hashlib

import pytest
from openai import OpenAI
from tests.toolkit.scripted_endpoint import Endpoint, error, json_route

from antiphon.toolkit.chat.chat import Chat
from antiphon.toolkit.errors import TokenizerError
from antiphon.toolkit.tokens import ranks
from antiphon.toolkit.tokens.count import TokenCount, count_tokens
from antiphon.toolkit.tokens.text_estimate import estimate_text

# The examples of "How to count tokens with tiktoken" in OpenAI's cookbook, with what the API itself counted.
JARGON = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]
WEATHER = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]
UNIT = {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": UNIT,
            },
            "required": ["location"],
        },
    },
}


@pytest.fixture(autouse=True)
def no_base_url(monkeypatch: pytest.MonkeyPatch, rank_files: None) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gpt-3.5-turbo", 129), ("gpt-4", 129), ("gpt-4o", 124), ("gpt-4o-mini", 124), ("gpt-4o-2024-08-06", 124)],
)
def test_a_chat_counts_as_openai_counts_it(model: str, expected: int) -> None:
    """Roles, names, separators and the start of the answer are in it, exactly."""
    counted = count_tokens(JARGON, model=model)
    assert (counted.tokens, counted.quality) == (expected, "exact")


@pytest.mark.parametrize(("model", "expected"), [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101)])
def test_tools_count_as_openai_counts_them(model: str, expected: int) -> None:
    """The definition of a tool is part of the prompt."""
    counted = count_tokens(WEATHER, model=model, tools=[TOOL])
    assert (counted.tokens, counted.quality) == (expected, "exact")


@pytest.mark.parametrize(("model", "expected"), [("gpt-4", 6), ("gpt-4o", 6), ("text-embedding-3-small", 6)])
def test_a_text_counts_by_itself(model: str, expected: int) -> None:
    """A plain text has no overhead, and special tokens in it are text."""
    assert count_tokens("tiktoken is great!", model=model).tokens == expected
    assert count_tokens("<|endoftext|>", model=model).tokens > 1


def test_what_openai_does_not_document_is_an_estimate() -> None:
    """Newer models, calls of tools, images and nested parameters are counted in the same manner, and say so."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    nested = {"type": "array", "items": {"type": "string"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": nested}}}}
    assert count_tokens(JARGON, model="gpt-5").quality == "estimate"
    assert (
        count_tokens([{"role": "assistant", "content": None, "tool_calls": [call]}], model="gpt-4o").quality
        == "estimate"
    )
    assert count_tokens([{"role": "user", "content": image}], model="gpt-4o").tokens > 700
    assert count_tokens(WEATHER, model="gpt-4o", tools=[tool]).quality == "estimate"


def test_a_model_without_a_known_tokenizer_is_estimated_and_says_why() -> None:
    """An estimate carries its reason."""
    counted = count_tokens("four characters a token", model="mystery")
    assert counted.quality == "estimate"
    assert "mystery" in counted.counted_by
    assert (estimate_text(""), estimate_text("a"), estimate_text("日本語")) == (0, 1, 3)


def test_ranks_that_cannot_be_had_make_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no pip: counting goes on, labelled."""

    def unavailable(name: str) -> None:
        raise TokenizerError("no ranks here")

    monkeypatch.setattr("antiphon.toolkit.tokens.count.load_encoding", unavailable)
    counted = count_tokens("hello", model="gpt-4o")
    assert counted == TokenCount(2, "estimate", "characters; no ranks here")


def test_a_vllm_server_counts_texts_and_chats(endpoint: Endpoint) -> None:
    """Its own tokenizer is exact, whatever the model is called."""
    endpoint.routes = {"/tokenize": json_route({"count": 42, "tokens": [1]})}
    counted = count_tokens(WEATHER, model="gpt-4o", client=endpoint.client(), tools=[TOOL])
    assert (counted.tokens, counted.quality) == (42, "exact")
    assert "/tokenize" in counted.counted_by


def test_a_llama_cpp_server_counts_the_rendered_chat(endpoint: Endpoint) -> None:
    """It renders the model's template first."""
    endpoint.routes = {"/tokenize": json_route({"tokens": [1, 2, 3]}), "/apply-template": json_route({"prompt": "x"})}
    client = endpoint.client()
    assert count_tokens(WEATHER, model="any", client=client).tokens == 3
    assert count_tokens("hello", model="any", client=client).is_exact
    assert endpoint.asked == ["/tokenize", "/apply-template", "/tokenize", "/tokenize"]


def test_a_server_that_does_not_tell_is_asked_once(endpoint: Endpoint) -> None:
    """Without a route there is an estimate, and no second question."""
    client = endpoint.client()
    assert count_tokens("hello", client=client).quality == "estimate"
    assert count_tokens("hello", client=client).quality == "estimate"
    assert endpoint.asked == ["/tokenize"]


def test_an_unknown_model_does_not_hide_the_tokenizer_from_others(endpoint: Endpoint) -> None:
    """That a server has a route is not forgotten because it refused a misspelt name there; and that it did is said."""
    endpoint.routes = {"/tokenize": error(404, "model_not_found", message="no model `my-modle`")}
    misspelt = count_tokens("a text", model="my-modle", client=endpoint.client())
    assert (misspelt.quality, "my-modle" in misspelt.counted_by) == ("estimate", True)
    endpoint.routes = {"/tokenize": json_route({"count": 42})}
    assert count_tokens("a text", model="my-model", client=endpoint.client()).tokens == 42


def test_a_failing_tokenizer_makes_an_estimate_that_says_so(endpoint: Endpoint) -> None:
    """A 500 is not taken for a missing route."""
    endpoint.routes = {"/tokenize": error(500, message="broken")}
    assert "failed" in count_tokens("hello", client=endpoint.client()).counted_by


def test_openais_own_endpoint_is_not_asked(endpoint: Endpoint) -> None:
    """tiktoken is exact there, and needs no network."""
    client = OpenAI(api_key="k", base_url="https://api.openai.com/v1")
    assert count_tokens("tiktoken is great!", client=client, model="gpt-4").counted_by == "tiktoken cl100k_base"


def test_counts_add_up_to_the_weaker_quality() -> None:
    """An exact count and an estimate make an estimate."""
    total = TokenCount(1, "exact", "a") + TokenCount(2, "estimate", "b")
    assert (int(total), str(total)) == (3, "3 tokens (estimate: a; b)")


def test_rank_files_are_checked_by_hash(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """What comes with another hash is not used, and the message names the sources tried."""
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setattr(ranks, "_from_package", lambda file: b"something else")
    with pytest.raises(TokenizerError, match=r"no network in tests; .* another hash"):
        ranks._folder_with(ranks.RANK_FILES["o200k_base"])


def test_a_damaged_rank_file_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """The store is checked each time it is read."""
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path))
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    good = b"ranks"
    file = ranks.RankFile("http://x.test/y.tiktoken", hashlib.sha256(good).hexdigest())
    monkeypatch.setattr(ranks, "_from_package", lambda _: good)
    folder = ranks._folder_with(file)
    (folder / file.name).write_bytes(b"damaged")
    assert (ranks._folder_with(file) / file.name).read_bytes() == good


@pytest.mark.usefixtures("rank_files")
def test_azure_counts_as_openai_does(endpoint: Endpoint) -> None:
    """Nothing is asked of it in vain; the name of a deployment that is no model's gets an estimate."""
    endpoint.base_url = "https://mine.openai.azure.com/v1"
    client = endpoint.client()
    assert count_tokens("tiktoken is great!", model="gpt-4o", client=client) == TokenCount(
        6, "exact", "tiktoken o200k_base"
    )
    assert count_tokens("tiktoken is great!", model="my-deployment", client=client).quality == "estimate"
    Chat(client=client, model="gpt-4o").send("hi")
    assert endpoint.asked == []
