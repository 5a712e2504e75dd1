"""The console over a real engine: what the model saw, what it said, and with which probability."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest
from openai import OpenAI
from playwright.sync_api import expect
from tests.console.browser import Tab, chromium
from tests.processes import ServerProcess, home_with_models, serving

pytestmark = [pytest.mark.model, pytest.mark.slow]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    home = home_with_models(tmp_path_factory.mktemp("console-home"))
    with serving(home, ANTIPHON_CONSOLE_CAPTURE="true") as started:
        yield started


def test_prompt_grammar_and_probabilities_of_a_request(server: ServerProcess) -> None:
    """The page of a request has the rendered prompt with its control tokens, the grammar, and alternatives of each token."""
    with OpenAI(base_url=server.url, api_key="any") as client:
        answered = client.chat.completions.with_raw_response.create(
            model="gpt-4o-mini",
            messages=[{"role": "user", "content": "Name a city as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}},
            temperature=0,
            max_tokens=30,
        )
    completion = answered.parse()
    assert completion.choices[0].logprobs is None, "what was captured is not what the client asked for"
    request_id = answered.headers["x-request-id"]
    with chromium() as browser:
        tab = Tab(browser, server.url.removesuffix("/v1"))
        page = tab.open(f"requests/{request_id}")
        for phase in ("Receive and plan", "Queue", "Prefill", "Decode"):
            expect(page.get_by_role("rowheader", name=phase)).to_be_visible()
        tokens = page.get_by_role("group", name=re.compile("Answer, token by token")).get_by_role("button")
        text = completion.choices[0].message.content
        assert "".join(tokens.all_text_contents()).replace("\u21b5", "").strip().startswith((text or "")[:10])
        tokens.nth(1).click()
        chosen = page.locator(".alternatives .chosen")
        expect(chosen).to_contain_text("%")
        assert page.locator(".alternatives tbody tr").count() >= 5
        tokens.nth(1).press("ArrowRight")
        expect(tokens.nth(2)).to_have_attribute("aria-pressed", "true")
        page.get_by_role("tab", name="Prompt as rendered").click()
        expect(page.locator("mark").first).to_have_text("<|im_start|>")
        expect(page.get_by_role("region", name="Prompt as rendered")).to_contain_text("Name a city as JSON.")
        page.get_by_role("tab", name="Grammar").click()
        expect(page.get_by_role("region", name="Grammar")).to_contain_text("city")
        page.get_by_role("link", name="Engine").click()
        expect(page.get_by_role("region", name="smollm2-135m-instruct")).to_contain_text("Cache hit rate")
        page.get_by_role("link", name="Models").click()
        expect(page.get_by_role("region", name="smollm2-135m-instruct")).to_contain_text("Weights in memory")
        expect(page.get_by_role("region", name="smollm2-135m-instruct")).to_contain_text(
            re.compile("Computed by(OpenVINO|llama.cpp)")
        )
        problems = tab.accessibility_problems()
        tab.close()
    assert not problems
    assert "Name a city" not in server.log.read_text()


def test_the_ready_lines_name_the_console(server: ServerProcess) -> None:
    """The link stands on standard error, so that the lines to copy on standard output stay as they are."""
    assert f"In a browser: {server.url.removesuffix('/v1')}/console" in server.log.read_text()


def test_the_home_keeps_no_prompt(server: ServerProcess) -> None:
    """Captured contents are in memory alone: no file of the server's home has them."""
    with OpenAI(base_url=server.url, api_key="any") as client:
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "xylophone-zebra"}], max_tokens=2
        )
    home = server.log.parent
    files = [path for path in home.iterdir() if path.is_file()]
    assert files
    assert not [path for path in files if b"xylophone-zebra" in Path(path).read_bytes()]
