"""The playground, by clicking and typing."""

import base64
import json
from pathlib import Path

import openai
from playwright.sync_api import Page, expect
from tests.console.conftest import OpenTab, Scripted
from tests.waiting import wait_until

from antiphon.toolkit.chat.chat import Chat

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def say(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def last_request(page: Page) -> dict[str, object]:
    """The body of the newest request, from its page."""
    page.get_by_text("see the request").last.click()
    page.get_by_role("tab", name="Request", exact=True).click()
    shown = page.get_by_role("region", name="Request as sent").inner_text()
    body: dict[str, object] = json.loads(shown[shown.index("\n{") :])
    return body


def test_two_clicks_lead_from_the_ready_line_to_a_streamed_answer(captured: Scripted, open_tab: OpenTab) -> None:
    """The link opens the playground, and one click on a question there gets an answer."""
    page = open_tab(captured.server).open()
    page.get_by_role("button", name="Explain in two sentences").click()
    expect(page.get_by_role("log")).to_contain_text("Alpha says so.")
    expect(page.get_by_role("log")).to_contain_text("tokens in")


def test_an_answer_grows_while_it_streams_and_can_be_stopped(captured: Scripted, open_tab: OpenTab) -> None:
    """The first words show before the last ones exist; stopping keeps what was said."""
    captured.gate.is_open = False
    page = open_tab(captured.server).open()
    log = page.get_by_role("log")
    say(page, "slowly")
    expect(log).to_contain_text("First")
    assert "second" not in log.inner_text()
    assert log.get_attribute("aria-busy") == "true"
    captured.gate.open(captured.server)
    expect(log).to_contain_text("First half, second half.")
    expect(log).to_have_attribute("aria-busy", "false")
    captured.gate.is_open = False
    say(page, "slowly again")
    expect(page.locator(".message.assistant .text")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(log).to_contain_text("stopped by you")
    wait_until(lambda: captured.server.service.backend.statistics()[0].values.running == 0)  # type: ignore[attr-defined]


def test_settings_reach_the_model(captured: Scripted, open_tab: OpenTab) -> None:
    """System prompt, numbers, tools and schema are in the request; without streaming the answer comes whole."""
    page = open_tab(captured.server).open()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Max tokens").fill("9")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Insert an example").last.click()
    page.get_by_role("button", name="Insert an example").first.click()
    page.get_by_label("Stream the answer").uncheck()
    say(page, "hello")
    expect(page.get_by_role("log")).to_contain_text("Alpha says so.")
    body = last_request(page)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert (body["temperature"], body["max_completion_tokens"], body["seed"]) == (0.5, 9, 7)
    assert body["tools"][0]["function"]["name"] == "get_weather"  # type: ignore[index]
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["title", "year"]  # type: ignore[index]
    assert "stream" not in body


def test_wrong_json_is_reported_where_it_is(captured: Scripted, open_tab: OpenTab) -> None:
    """A schema that is not JSON is marked at once, and sending says which field is wrong."""
    page = open_tab(captured.server).open()
    page.get_by_label("Answer as JSON of this schema").fill("{")
    expect(page.get_by_label("Answer as JSON of this schema")).to_have_attribute("aria-invalid", "true")
    say(page, "hello")
    expect(page.get_by_role("alert")).to_contain_text("The schema is not JSON")


def test_a_tool_call_is_shown_and_its_result_typed_in(captured: Scripted, open_tab: OpenTab) -> None:
    """The model's call shows its arguments; what is typed as its result goes back to the model, with both APIs."""
    page = open_tab(captured.server).open()
    for api in ("chat", "responses"):
        page.get_by_label("API").select_option(api)
        page.get_by_label("Tools").fill('{"name": "get_weather", "parameters": {"type": "object"}}')
        say(page, "What is the weather?")
        expect(page.get_by_role("log")).to_contain_text('"city": "Lisbon"')
        page.get_by_label("Result of get_weather").fill("18 degrees")
        page.get_by_role("button", name="Send the result").click()
        expect(page.get_by_role("log")).to_contain_text("It is mild in Lisbon.")
        page.get_by_role("button", name="Clear").click()


def test_the_responses_api_streams_too(captured: Scripted, open_tab: OpenTab) -> None:
    """The same conversation goes through /v1/responses, with instructions in place of a system message."""
    page = open_tab(captured.server).open()
    page.get_by_label("API").select_option("responses")
    page.get_by_label("System prompt").fill("Be brief.")
    say(page, "hello")
    expect(page.get_by_role("log")).to_contain_text("Alpha says so.")
    body = last_request(page)
    assert body["instructions"] == "Be brief."
    assert body["input"] == [{"role": "user", "content": "hello"}]


def test_two_models_answer_together(captured: Scripted, open_tab: OpenTab) -> None:
    """With two models, one message gets an answer of each, and their conversations go on separately."""
    page = open_tab(captured.server).open()
    page.get_by_label("Compare two models").check()
    page.get_by_label("Second model").select_option("beta")
    say(page, "hello")
    expect(page.get_by_role("log", name="Conversation with alpha")).to_contain_text("Alpha says so.")
    expect(page.get_by_role("log", name="Conversation with beta")).to_contain_text("Beta says so.")


def test_an_error_is_shown_and_can_be_tried_again(captured: Scripted, open_tab: OpenTab) -> None:
    """The server's own words appear in the conversation."""
    page = open_tab(captured.server).open()
    say(page, "please fail")
    expect(page.get_by_role("alert")).to_contain_text("The model broke.")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert")).to_contain_text("The model broke.")


def test_an_image_is_attached(captured: Scripted, open_tab: OpenTab) -> None:
    """A chosen image goes with the message as a data URL; models of this machine read text alone, and offer no such button."""
    page = open_tab(captured.server).open()
    page.get_by_label("Image", exact=True).set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": PIXEL})
    expect(page.get_by_role("button", name="Remove image 1")).to_be_visible()
    say(page, "What is it?")
    expect(page.get_by_alt_text("Attached by you")).to_be_visible()


def test_a_conversation_is_saved_for_the_toolkit_and_opened_again(
    captured: Scripted, open_tab: OpenTab, tmp_path: Path
) -> None:
    """The saved file is one that ``Chat.load`` reads, and that the playground opens."""
    page = open_tab(captured.server).open()
    page.get_by_label("System prompt").fill("Be brief.")
    say(page, "hello")
    expect(page.get_by_role("log")).to_contain_text("tokens in")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save", exact=True).click()
    saving.value.save_as(tmp_path / "chat.json")
    with openai.OpenAI(base_url=captured.server.url, api_key="any") as client:
        chat = Chat.load(tmp_path / "chat.json", client=client)
        assert chat.model == "alpha"
        assert chat.messages == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Alpha says so."},
        ]
        assert chat.send("again").text == "Alpha says so."
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("log")).not_to_contain_text("Alpha")
    page.get_by_label("Saved chat").set_input_files(tmp_path / "chat.json")
    expect(page.get_by_role("log")).to_contain_text("Alpha says so.")
    page.get_by_label("Saved chat").set_input_files({"name": "x.json", "mimeType": "text/plain", "buffer": b"{}"})
    expect(page.get_by_role("alert")).to_contain_text("x.json is not a saved chat")


def test_the_equivalent_code_runs(captured: Scripted, open_tab: OpenTab) -> None:
    """The Python that the playground shows is a program that gets the same answer; curl and Node are one tab away."""
    page = open_tab(captured.server).open()
    page.get_by_label("Stream the answer").uncheck()
    say(page, "quotes \" and ' and\nlines")
    expect(page.get_by_role("log")).to_contain_text("Alpha says so.")
    page.get_by_role("button", name="Code", exact=True).click()
    code = page.get_by_role("region", name="Code").inner_text()
    said: list[object] = []
    exec(code.replace('/v1")', '/v1", api_key="any")'), {"print": said.append})
    assert said[0].content == "Alpha says so."  # type: ignore[attr-defined]
    page.get_by_role("tab", name="curl").click()
    expect(page.get_by_role("region", name="Code")).to_contain_text("curl http")
    page.get_by_role("tab", name="curl").press("ArrowRight")
    expect(page.get_by_role("region", name="Code")).to_contain_text("new OpenAI")
    page.get_by_role("button", name="Copy the code").click()
    assert "new OpenAI" in page.evaluate("navigator.clipboard.readText()")
