"""Takes the pictures of the docs: ``make screenshots``. Look at each afterwards."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from playwright.sync_api import Page, expect
from tests.console.browser import Tab, chromium
from tests.console.example_data import fill
from tests.processes import ServerProcess, home_with_models, serving

pytestmark = [pytest.mark.screenshots, pytest.mark.model]
IMAGES = Path(__file__).parents[2] / "docs" / "images"
SIZE = {"width": 1240, "height": 700}
MOST_BYTES = 150_000
CONFIG = """
[console]
capture = true
[gateway]
script = "{script}"
[accounts.prices]
"smollm2-135m-instruct" = {{ input = 0.01, output = 0.02 }}
"qwen3-4b" = {{ input = 0.05, output = 0.2 }}
"""
SCRIPT = """
models = ["qwen3-4b", "gpt-4o-mini"]
embedding_models = []
[[replies]]
text = "It keeps the keys and values that attention has computed for earlier tokens, so that each new token needs one \
step and not the whole prompt again. It trades memory for time."
token_s = 0.02
first_token_s = 0.15
"""
PLACES = ("Lisbon", "Porto", "Braga", "Coimbra", "Faro", "Evora")
GUIDE = "You are a guide who answers in one or two short sentences and knows every town of Portugal well. "
QUESTION = "What is the sea like at night? Answer in two sentences."


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[ServerProcess, str]]:
    home = home_with_models(tmp_path_factory.mktemp("pictures"))
    key = fill(home)
    (home / "script.toml").write_text(SCRIPT)
    (home / "antiphon.toml").write_text(CONFIG.format(script=home / "script.toml"))
    with serving(home, "--config", str(home / "antiphon.toml")) as server:
        yield server, key


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures(served: tuple[ServerProcess, str], scheme: str) -> None:
    """Every page as a user sees it, in both colour schemes."""
    server, key = served
    with chromium() as browser:
        tab = Tab(browser, server.url.removesuffix("/v1"), color_scheme=scheme, viewport=SIZE)
        page = tab.open()
        page.get_by_label("Admin key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        _playground(page, scheme)
        _request(page, scheme)
        for name in ("requests", "usage", "keys", "models", "engine"):
            page.get_by_role("navigation").get_by_role("link", name=name.title()).click()
            expect(page.get_by_role("heading", level=1, name=name.title())).to_be_visible()
            expect(page.locator(".state .spinner")).to_have_count(0)
            if name == "engine":
                _use(server, key)
            _take(page, name, scheme)
        tab.close()


def _use(server: ServerProcess, key: str) -> None:
    """Keep the engine busy with a few conversations at once, so that its page has something to show."""
    with OpenAI(base_url=server.url, api_key=key) as client, ThreadPoolExecutor(6) as threads:
        threads.map(lambda place: _converse(client, place), PLACES)


def _converse(client: OpenAI, place: str) -> None:
    messages: list[Any] = [{"role": "user", "content": f"{GUIDE}What should I see in {place}?"}]
    for more in ("And where do I eat?", "Thank you. One more tip?"):
        answer = client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=60, temperature=0)
        messages += [answer.choices[0].message, {"role": "user", "content": more}]


def _playground(page: Page, scheme: str) -> None:
    page.get_by_label("Compare two models").check()
    page.get_by_label("Second model").select_option("qwen3-4b")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("System prompt").fill("You are a helpful assistant. Be brief.")
    page.get_by_label("Message").fill("Explain in two sentences what a KV cache is.")
    page.get_by_label("Message").press("Enter")
    expect(page.get_by_text("see the request")).to_have_count(2)
    _take(page, "playground", scheme)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Compare two models").uncheck()


def _request(page: Page, scheme: str) -> None:
    page.get_by_label("Message").fill(QUESTION)
    page.get_by_label("Message").press("Enter")
    page.get_by_text("see the request").click()
    tokens = page.locator(".token-text .token")
    expect(tokens.first).to_be_visible()
    tokens.nth(6).click()
    page.set_viewport_size({"width": SIZE["width"], "height": 990})
    _take(page, "request", scheme)


def _take(page: Page, name: str, scheme: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    page.mouse.move(0, 0)
    if name == "models":  # much text, and more of the same below
        page.set_viewport_size({"width": SIZE["width"], "height": 560})
    picture = IMAGES / f"console-{name}-{scheme}.png"
    page.screenshot(path=picture, animations="disabled")
    page.set_viewport_size(SIZE)
    assert picture.stat().st_size < MOST_BYTES
