"""The pages of the console, by clicking and typing."""

import asyncio
import time
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.console.browser import PHONE
from tests.console.conftest import OpenTab, Scripted, scripted
from tests.models.hub_double import running_hub
from tests.models.tiny import tiny_gguf
from tests.serving import Running
from tests.waiting import wait_until

from antiphon.accounts.usage import UsageRow, new_row_id
from antiphon.accounts.usage_table import write_rows

PAGES = ("playground", "requests", "usage", "keys", "models", "engine")


@pytest.fixture
def plain(tmp_path: Path) -> Generator[Scripted]:
    """A server of the test's own, without keys and without capture."""
    with scripted(tmp_path) as up:
        yield up


def ask(server: Running, text: str = "hello", key: str = "any", model: str = "alpha") -> str:
    """Send a chat and return its request id."""
    answered = httpx.post(
        f"{server.url}/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        json={"model": model, "messages": [{"role": "user", "content": text}]},
    )
    return answered.headers["x-request-id"]


def rows_of(page: Page) -> Locator:
    return page.get_by_role("table", name="Requests").locator(".body").get_by_role("row")


def test_a_request_appears_in_the_list_as_it_happens(captured: Scripted, open_tab: OpenTab) -> None:
    """The list follows the server without being loaded again; a filter holds for what comes, too."""
    captured.gate.is_open = False
    page = open_tab(captured.server).open("requests")
    expect(page.get_by_role("heading", name="Requests")).to_be_visible()
    first = ask(captured.server)
    expect(page.locator(f'a[href="#/requests/{first}"]')).to_be_visible()
    page.get_by_label("Status").select_option("error")
    failed = ask(captured.server, "please fail")
    expect(page.locator(f'a[href="#/requests/{failed}"]')).to_be_visible()
    expect(page.locator(f'a[href="#/requests/{first}"]')).to_have_count(0)


def test_a_request_in_flight_is_listed_and_its_page_follows_it(captured: Scripted, open_tab: OpenTab) -> None:
    """What runs shows as running, and its page turns into that of a request that is over."""
    captured.gate.is_open = False
    page = open_tab(captured.server).open()
    page.get_by_label("Message").fill("slowly")
    page.get_by_label("Message").press("Enter")
    page.get_by_role("link", name="Requests").click()
    expect(page.locator(".row.is-live")).to_contain_text("run")
    page.locator(".row.is-live a").click()
    expect(page.get_by_text("in flight")).to_be_visible()
    captured.gate.open(captured.server)
    expect(page.locator(".page-head").get_by_text("200")).to_be_visible()


def test_the_page_of_a_request_shows_times_cost_and_contents(captured: Scripted, open_tab: OpenTab) -> None:
    """A captured request has its waterfall, its body, its answer, its program; sent again it is a new request."""
    request_id = ask(captured.server, "a question")
    page = open_tab(captured.server).open(f"requests/{request_id}")
    expect(page.get_by_role("rowheader", name="Answer")).to_be_visible()
    expect(page.get_by_role("region", name="Text of the answer")).to_have_text("Alpha says so.")
    page.get_by_role("tab", name="Request", exact=True).click()
    expect(page.get_by_role("region", name="Request as sent")).to_contain_text("a question")
    page.get_by_role("tab", name="As code").click()
    for language, words in (
        ("python", "client.chat.completions.create("),
        ("curl", "curl http"),
        ("node", "new OpenAI"),
    ):
        page.get_by_label("Language").select_option(language)
        expect(page.get_by_role("region", name="The same request as code")).to_contain_text(words)
    page.get_by_role("button", name="Send again").click()
    page.get_by_role("link", name="see the new request").click()
    expect(page.get_by_role("region", name="Text of the answer")).to_have_text("Alpha says so.")
    assert request_id not in page.url
    page.get_by_role("button", name="Open in the playground").click()
    expect(page.get_by_role("log")).to_contain_text("a question")


def test_a_failed_request_says_why(captured: Scripted, open_tab: OpenTab) -> None:
    """The code and the message of an error are on its page."""
    page = open_tab(captured.server).open(f"requests/{ask(captured.server, 'please fail')}")
    expect(page.get_by_role("heading", name="It failed: server_error")).to_be_visible()
    expect(page.get_by_text("The model broke.").first).to_be_visible()


def test_without_capture_the_page_says_how_to_turn_it_on(plain: Scripted, open_tab: OpenTab) -> None:
    """No contents are there, and the setting is named."""
    page = open_tab(plain.server).open(f"requests/{ask(plain.server, 'a secret question')}")
    expect(page.get_by_text("Contents were not kept")).to_be_visible()
    expect(page.get_by_text("capture = true")).to_be_visible()
    assert "a secret question" not in page.content()
    page.goto(f"{plain.server.root}/console#/requests/req_none")
    expect(page.get_by_role("alert")).to_contain_text("No request has the id")


def test_nothing_of_a_prompt_is_in_a_url(captured: Scripted, open_tab: OpenTab) -> None:
    """Prompts travel in bodies: addresses, which logs and histories keep, hold ids alone."""
    tab = open_tab(captured.server)
    page = tab.open()
    page.get_by_label("System prompt").fill("zebra system")
    page.get_by_label("Message").fill("zebra question")
    page.get_by_label("Message").press("Enter")
    page.get_by_text("see the request").click()
    page.get_by_role("button", name="Send again").click()
    page.get_by_role("link", name="see the new request").click()
    expect(page.get_by_role("heading", name="Contents")).to_be_visible()
    assert not [url for url in [*tab.urls, page.url] if "zebra" in url]


def test_a_key_is_created_used_and_revoked(plain: Scripted, open_tab: OpenTab) -> None:
    """A key is shown once, works at once, and is refused once it is revoked; the first one turns keys on."""
    page = open_tab(plain.server).open("keys")
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("me")
    page.get_by_role("button", name="Create", exact=True).click()
    admin = page.locator("#new-key").inner_text()
    page.get_by_role("button", name="I have kept it").click()
    expect(page.get_by_role("rowheader", name="me admin")).to_be_visible()
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("app")
    page.get_by_label("Requests per minute").fill("3")
    page.get_by_label("Budget in dollars").fill("5")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("button", name="Copy the key").click()
    key: str = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="I have kept it").click()
    assert key not in page.content()
    with openai.OpenAI(base_url=plain.server.url, api_key=key, max_retries=0) as client:
        client.models.list()
        page.get_by_role("button", name="Limits of app").click()
        page.get_by_label("Requests per minute").fill("4")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_role("cell", name="4 requests/min")).to_be_visible()
        page.get_by_role("button", name="Revoke app").click()
        page.get_by_role("button", name="Revoke", exact=True).click()
        expect(page.get_by_role("cell", name="revoked")).to_be_visible()
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert admin.startswith("sk-")


def test_signing_in_and_out(plain: Scripted, open_tab: OpenTab) -> None:
    """With keys, a browser signs in with an admin's key; another browser is another session; a wrong key says so."""
    first = open_tab(plain.server)
    page = first.open("keys")
    page.get_by_role("button", name="Create a key").click()
    page.get_by_label("Name").fill("me")
    page.get_by_role("button", name="Create", exact=True).click()
    key = page.locator("#new-key").inner_text()
    page.get_by_role("button", name="I have kept it").click()
    other = open_tab(plain.server).open("usage")
    expect(other.get_by_role("heading", name="Sign in to the console")).to_be_visible()
    other.get_by_label("Admin key").fill("sk-antip-wrong")
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("alert")).to_contain_text("Incorrect API key")
    other.get_by_label("Admin key").fill(key)
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_role("heading", name="Usage")).to_be_visible()
    assert other.evaluate("document.cookie") == ""
    other.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", name="Sign in to the console")).to_be_visible()
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="Served names")).to_be_visible()


def test_two_tabs_see_the_same_requests(captured: Scripted, open_tab: OpenTab) -> None:
    """Whoever looks sees a request, and a tab that is hidden stops listening until it is looked at again."""
    pages = [open_tab(captured.server).open("requests") for _ in range(2)]
    request_id = ask(captured.server)
    for page in pages:
        expect(page.locator(f'a[href="#/requests/{request_id}"]')).to_be_visible()
    feed = captured.server.service.console.feed
    wait_until(lambda: feed.num_listeners == 2)
    hide = "Object.defineProperty(document, 'visibilityState', {value: '%s', configurable: true});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    pages[0].evaluate(hide % "hidden" + tell)
    wait_until(lambda: feed.num_listeners == 1)
    missed = ask(captured.server)
    pages[0].evaluate(hide % "visible" + tell)
    expect(pages[0].locator(f'a[href="#/requests/{missed}"]')).to_be_visible()


def test_usage_and_budgets_add_up(plain: Scripted, open_tab: OpenTab) -> None:
    """The page has the sums by model and by key, a chart, and what a budget has left."""
    with httpx.Client(base_url=plain.server.root) as client:
        admin = client.post("/console/api/keys", json={"name": "me"}).json()["key"]
        own = {"authorization": f"Bearer {admin}"}
        client.cookies.clear()
        app = client.post("/console/api/keys", headers=own, json={"name": "app", "budget_usd": 2}).json()["key"]
    for _ in range(3):
        ask(plain.server, key=app)
    ask(plain.server, key=admin, model="beta")
    page = open_tab(plain.server).open("usage")
    page.get_by_label("Admin key").fill(admin)
    page.get_by_role("button", name="Sign in").click()
    sums = page.get_by_role("region", name="Sums")
    expect(sums.get_by_role("row").filter(has_text="alpha").get_by_role("cell").first).to_have_text("3")
    page.get_by_label("Group").select_option("key")
    expect(sums.get_by_role("row").filter(has_text="app").get_by_role("cell").first).to_have_text("3")
    page.get_by_label("Measure").select_option("cost")
    page.get_by_label("Period").select_option("1")
    expect(page.get_by_role("img", name="Cost by key")).to_be_visible()
    expect(page.locator(".budgets")).to_contain_text("left of $2.00 in all")


def test_a_model_is_fetched_with_its_progress(
    plain: Scripted, open_tab: OpenTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that is typed in is fetched, and the page says how to serve it; an unknown one is refused."""
    page = open_tab(plain.server).open("models")
    page.get_by_label("Fetch a model").fill("no-such-model")
    page.get_by_role("button", name="Fetch", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no-such-model")
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.files["tiny.gguf"] = tiny_gguf(context_length=512)
        page.get_by_label("Fetch a model").fill("hf:org/repo/tiny.gguf")
        page.get_by_role("button", name="Fetch", exact=True).click()
        expect(page.get_by_text("tiny is here.")).to_be_visible()
        expect(page.get_by_role("row").filter(has_text="tiny")).to_contain_text("on disk")
        page.get_by_label("Fetch a model").fill("hf:org/repo/gone.gguf")
        page.get_by_role("button", name="Fetch", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("gone was not fetched")


def test_a_server_that_restarts_is_found_again(tmp_path: Path, open_tab: OpenTab) -> None:
    """While the server is away the page says so and keeps what it has; when it is back, the page goes on by itself."""
    with scripted(tmp_path) as up:
        page = open_tab(up.server).open("requests")
        kept = ask(up.server)
        expect(page.locator(f'a[href="#/requests/{kept}"]')).to_be_visible()
        port = int(up.server.root.rsplit(":", 1)[1])
    expect(page.get_by_role("status").filter(has_text="Server away")).to_be_visible()
    expect(page.locator(f'a[href="#/requests/{kept}"]')).to_be_visible()
    with scripted(tmp_path, port=port) as up:
        expect(page.get_by_role("status").filter(has_text="Ready")).to_be_visible()
        new = ask(up.server)
        expect(page.locator(f'a[href="#/requests/{new}"]')).to_be_visible()


def usage_row(number: int) -> UsageRow:
    at_ms = int(time.time() * 1000) - 1000 * number
    return UsageRow(
        id=new_row_id(at_ms), at_ms=at_ms, request_id=f"req_{number}", key_id=None, kind="chat", model_asked="alpha",
        model_answered="alpha", status=200, error_code=None, prompt_tokens=number, completion_tokens=1, cached_tokens=0,
        reasoning_tokens=0, cache=None, ttft_s=0.1, duration_s=0.2, compute_s=None, usd=None, saved_usd=None,
    )  # fmt: skip


def test_ten_thousand_requests_are_a_short_page(plain: Scripted, open_tab: OpenTab) -> None:
    """Of a long list only what is in view is drawn; the keys reach the oldest request, and Enter opens it."""
    rows = [usage_row(number) for number in range(10_000)]
    writing = write_rows(plain.server.service.accounts.engine, rows, is_retry=False)
    asyncio.run_coroutine_threadsafe(writing, plain.server.loop).result()
    page = open_tab(plain.server).open("requests")
    expect(rows_of(page).first).to_be_visible()
    assert rows_of(page).count() < 60
    page.locator('.row a[tabindex="0"]').focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator('a[href="#/requests/req_1"]')).to_be_focused()
    last = page.locator('a[href="#/requests/req_9999"]')
    wait_until(lambda: (page.keyboard.press("End"), last.count() > 0)[1])
    assert rows_of(page).count() < 60
    expect(last).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_text("9,999")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(captured: Scripted, open_tab: OpenTab, scheme: str) -> None:
    """Every page passes axe: names, roles, structure, and contrast in both colour schemes."""
    request_id = ask(captured.server)
    failed = ask(captured.server, "please fail")
    rules = ["color-contrast"] if scheme == "dark" else None
    tab = open_tab(captured.server, color_scheme=scheme)
    page = tab.open()
    page.get_by_role("button", name="Write a haiku").click()
    expect(page.get_by_role("log")).to_contain_text("tokens in")
    found: dict[str, list[str]] = {"playground": tab.accessibility_problems(rules=rules)}
    for place in (*PAGES[1:], f"requests/{request_id}", f"requests/{failed}"):
        page.evaluate("place => { location.hash = `#/${place}` }", place)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        found[place] = tab.accessibility_problems(rules=rules)
    page.goto(f"{captured.server.root}/console#/keys")
    page.get_by_role("button", name="Create a key").click()
    found["dialog"] = tab.accessibility_problems(rules=rules)
    problems = [f"{place}: {problem}" for place, found_there in found.items() for problem in found_there]
    assert not problems, "\n".join(problems)


# A phone's innerWidth grows with what is too wide; its clientWidth does not.
FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_no_page_is_wider_than_the_window(captured: Scripted, open_tab: OpenTab, width: int) -> None:
    """What is hidden for the eye takes no room either, inside a table that scrolls and outside."""
    ask(captured.server)
    page = open_tab(captured.server, viewport={"width": width, "height": 900}).open()
    for name in PAGES:
        page.get_by_role("link", name=name.title(), exact=True).click()
        expect(page.get_by_role("heading", level=1, name=name.title())).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        assert page.evaluate(FITS), name


def test_a_phone_shows_every_page_without_scrolling_sideways(captured: Scripted, open_tab: OpenTab) -> None:
    """At 390 pixels nothing is wider than the screen, and every page can be reached."""
    request_id = ask(captured.server)
    page = open_tab(captured.server, viewport=PHONE, is_mobile=True, has_touch=True).open()
    for name in PAGES:
        page.get_by_role("link", name=name.title(), exact=True).tap()
        expect(page.get_by_role("heading", level=1, name=name.title())).to_be_visible()
        expect(page.locator(".state .spinner")).to_have_count(0)
        assert page.evaluate(FITS), name
    page.goto(f"{captured.server.root}/console#/requests/{request_id}")
    expect(page.get_by_role("heading", name="Where the time went")).to_be_visible()
    assert page.evaluate(FITS)


def test_the_keyboard_is_enough(captured: Scripted, open_tab: OpenTab) -> None:
    """Tab reaches a link past the navigation, Escape closes a dialog, and the focus returns to what opened it."""
    page = open_tab(captured.server).open("keys")
    expect(page.get_by_role("heading", name="No key yet")).to_be_visible()
    page.locator("body").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Create a key")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Create a key")).to_be_focused()


def test_the_policy_blocks_what_a_page_does_not_need(captured: Scripted, open_tab: OpenTab) -> None:
    """Inline code, foreign scripts and foreign requests are blocked: the policy is in force, not only sent."""
    tab = open_tab(captured.server)
    page = tab.open("usage")
    page.evaluate(
        """async () => {
            const script = document.createElement("script");
            try { script.textContent = "window.wasRun = true"; } catch {}
            document.head.append(script);
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:1/x.png";
            document.body.append(image);
            await fetch("http://127.0.0.1:1/").catch(() => {});
        }"""
    )
    assert page.evaluate("window.wasRun") is None
    wait_until(lambda: len(tab.violations()) >= 2)
    page.evaluate("window.violations.length = 0")
    tab.faults.clear()
    tab.urls.clear()
