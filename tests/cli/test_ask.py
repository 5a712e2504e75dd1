"""``antiphon ask`` with all that goes into a question and all that is kept of it, in process, by scripted answers."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from antiphon.cli.log_file import Log, log_path, turn_on
from antiphon.cli.root import main
from antiphon.testing import ScriptedEndpoint, answer, calls

PNG = b"\x89PNG\r\n\x1a\n"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def antiphon(
    scripted: ScriptedEndpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """A command line in an empty folder, with a home of its own."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://scripted.test/v1")
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, stdin: str = "") -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


def content(scripted: ScriptedEndpoint) -> Any:
    return scripted.requests[-1]["messages"][-1]["content"]


def test_nothing_is_kept_before_the_log_is_on(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """And what needs it says how to turn it on."""
    scripted.answers("one")
    assert antiphon("ask", "hi").out == "one\n"
    assert not log_path().exists()
    for words in (["ask", "-c", "and?"], ["log"]):
        assert (
            antiphon(*words).err == "antiphon: nothing is logged on this machine - turn the log on: antiphon log on\n"
        )


def test_a_conversation_continues_with_its_tools(antiphon: Command, scripted: ScriptedEndpoint, tmp_path: Path) -> None:
    """The latest one, or the one that is named; the log shows and searches both."""
    (tmp_path / "weather.py").write_text('def weather(city: str) -> str:\n    "Tell."\n    return "sunny"\n')
    antiphon("log", "on")
    scripted.answers(calls("weather", city="Oslo"), "Sunny in Oslo.", "Blue.", "Also sunny.")
    assert antiphon("ask", "--tool", "weather.py", "Weather in Oslo?").out == "Sunny in Oslo.\n"
    first = json.loads(antiphon("log", "--json").out)["conversation"]
    antiphon("ask", "Which colour has the sea?")
    assert antiphon("ask", "--conversation", first, "--tool", "weather.py", "And in Rome?").out == "Also sunny.\n"
    roles = [message["role"] for message in scripted.requests[-1]["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]
    scripted.answers("Yes.")
    antiphon("ask", "-c", "Sure?")
    assert len(scripted.requests[-1]["messages"]) == 7
    found = [json.loads(line) for line in antiphon("log", "--search", "sea: colour", "--json").out.splitlines()]
    assert [(each["prompt"], each["answer"]) for each in found] == [("Which colour has the sea?", "Blue.")]
    shown = antiphon("log", "--limit", "1").out
    assert "gpt-4o-mini" in shown
    assert "> Sure?\n\nYes." in shown
    assert "tokens, cost unknown" in shown
    assert log_path().stat().st_mode & 0o077 == 0
    antiphon("log", "off")
    assert not log_path().exists()


def test_a_conversation_keeps_its_model_and_its_system_message(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """Another model can be named, in ``ask`` and ``chat`` alike; another system message is refused."""
    antiphon("log", "on")
    scripted.answers(*["ok"] * 6)
    antiphon("ask", "--model", "gpt-4o", "--system", "Be brief.", "one")
    antiphon("ask", "-c", "two")
    antiphon("chat", "-c", stdin="three\n/reset\nfour\n")
    assert [request["model"] for request in scripted.requests] == ["gpt-4o"] * 4
    assert [message["content"] for message in scripted.requests[-1]["messages"]] == ["Be brief.", "four"]
    antiphon("ask", "-c", "--model", "gpt-4o-mini", "five")
    antiphon("chat", "-c", "--model", "gpt-4o", stdin="six\n")
    assert [request["model"] for request in scripted.requests[4:]] == ["gpt-4o-mini", "gpt-4o"]
    antiphon("ask", "--save", "terse", "--system", "Be terse.", "$input")
    for words in (["--system", "Be long."], ["-t", "terse"]):
        assert "keeps its system message" in antiphon("ask", "-c", *words, "seven").err


def test_json_is_one_document(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """With a schema too; the text is then the object that was asked for."""
    scripted.answers('{"n": 3}', '{"n": 4}')
    for schema in ("n int", '{"type": "object", "properties": {"n": {"type": "integer"}}}'):
        told = json.loads(antiphon("ask", "--json", "--schema", schema, "hi").out)
        assert json.loads(told["text"])["n"] in {3, 4}


@pytest.mark.parametrize(
    ("schema", "said", "is_kept"),
    [
        ('{"type": "array", "items": {"type": "integer"}}', "[1, 2]", True),
        ('{"type": "array", "items": {"type": "integer"}}', '["a"]', False),
        ('{"enum": ["red", "blue"]}', '"red"', True),
        ('{"enum": ["red", "blue"]}', '"green"', False),
        ('{"type": "object"}', "", False),
        ('{"type": "object"}', "[]", False),
    ],
)
def test_every_kind_of_schema_is_checked(
    antiphon: Command, scripted: ScriptedEndpoint, schema: str, said: str, is_kept: bool
) -> None:
    """Also one that is not of an object, and an answer without text."""
    scripted.answers(said)
    ended = antiphon("ask", "--schema", schema, "hi")
    assert (ended.status, ended.out) == ((0, f"{said}\n") if is_kept else (1, ""))
    assert ("does not keep to the schema" in ended.err) == (not is_kept)


def test_an_answer_that_is_not_of_the_schema_is_an_error(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """Nothing is printed that is not what was asked for."""
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}'
    scripted.answers("hello", '{"n": "x"}', '{"n": 3}')
    for told in ("does not keep to the schema", "n: 'x' is not of type 'integer'"):
        ended = antiphon("ask", "--schema", schema, "hi")
        assert (ended.status, ended.out) == (1, "")
        assert told in ended.err
    assert antiphon("ask", "--schema", schema, "hi").out == '{"n": 3}\n'


def test_a_search_of_the_log_reads_its_index_alone(antiphon: Command) -> None:
    """Not the texts: the time does not grow with them."""
    turn_on()
    with Log.opened() as log:
        statements: list[str] = []
        log._database.set_trace_callback(statements.append)
        log.answers(search="it")
        log._database.set_trace_callback(None)
        query = next(each for each in statements if "MATCH" in each)
        plan = log._database.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()
    steps = [row[3] for row in plan]
    assert steps[0].startswith("SCAN words VIRTUAL TABLE INDEX")
    assert steps[1:] == ["SEARCH answers USING INTEGER PRIMARY KEY (rowid=?)"]
    assert isinstance(log._database, sqlite3.Connection)


ROWS = """
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
INSERT INTO answers (conversation, at, model, prompt, answer, seconds)
SELECT 'c', i, 'm', 'how do I retry request number ' || i || '?',
  'Wait, then send it again. ' || replace(hex(zeroblob(20)), '00', 'word' || (i % 997) || ' ')
  || iif((i % 50000) = 7, 'zebra', ''), 1.0 FROM n
"""


def test_a_log_of_a_hundred_thousand_answers_is_searched_in_a_fraction_of_reading_it(antiphon: Command) -> None:
    """For words of all answers, of some, of one, of none, and several; reading them all takes some 10 ms on one core."""
    turn_on()

    def least_s(work: Callable[[], object]) -> float:
        def once() -> float:
            begun = time.process_time()
            work()
            return time.process_time() - begun

        return min(once() for _ in range(5))

    with Log.opened() as log:
        log._database.executescript(f"BEGIN; {ROWS}; COMMIT")
        reading = least_s(lambda: log._database.execute("SELECT sum(length(answer)) FROM answers").fetchall())
        for words, num_found in {
            "retry": 10,
            "word5": 10,
            "zebra": 2,
            "number 77777": 1,
            "absent": 0,
            "retry zebra": 2,
        }.items():
            assert len(log.answers(search=words)) == num_found
            assert least_s(lambda words=words: log.answers(search=words)) < reading / 2


def test_a_template_keeps_a_question(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """With its system message, model and parameters; a missing or unknown parameter is named."""
    scripted.answers("ok", "ok")
    antiphon("ask", "--save", "translate", "--system", "Be exact.", "--model", "gpt-4o", "To $language: $input")
    assert antiphon("ask", "-t", "translate", "-p", "language=French", "good", "day").out == "ok\n"
    assert scripted.sent() == [("system", "Be exact."), ("user", "To French: good day")]
    assert scripted.requests[-1]["model"] == "gpt-4o"
    antiphon("ask", "-t", "translate", "-p", "language=French", "--model", "gpt-4o-mini", stdin="piped")
    assert (content(scripted), scripted.requests[-1]["model"]) == ("To French: piped", "gpt-4o-mini")
    assert "needs a value for $language" in antiphon("ask", "-t", "translate", "x").err
    assert "has no $lang" in antiphon("ask", "-t", "translate", "-p", "lang=x", "-p", "language=y", "x").err
    assert "there is no template 'other' - there are: translate" in antiphon("ask", "-t", "other", "x").err
    assert "--param without a template" in antiphon("ask", "-p", "a=b", "x").err
    assert antiphon("templates").out == "translate: To $language: $input\n"
    assert json.loads(antiphon("templates", "show", "translate").out)["template"]["model"] == "gpt-4o"
    antiphon("templates", "remove", "translate")
    assert antiphon("templates").out == ""


def test_fragments_and_attachments_go_before_the_question(
    antiphon: Command, scripted: ScriptedEndpoint, tmp_path: Path
) -> None:
    """Text as text; an image, a PDF and a recording as the parts that the API has for them."""
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.png").write_bytes(PNG)
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.7")
    scripted.answers("ok")
    antiphon("ask", "-f", "a.txt", "what?", stdin="below")
    assert content(scripted) == "first\n\nwhat?\n\nbelow"
    scripted.replies = [lambda _: answered()]
    antiphon("ask", "-a", "c.png", "-a", "d.pdf", "-a", "https://example.com/e.jpg", "what?")
    parts = content(scripted)
    assert [part["type"] for part in parts] == ["image_url", "file", "image_url", "text"]
    assert parts[0]["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert parts[1]["file"]["filename"] == "d.pdf"
    assert parts[2]["image_url"]["url"] == "https://example.com/e.jpg"
    assert "is not text - images, PDF and audio are attachments" in antiphon("ask", "-f", "c.png", "x").err
    assert "is of no known kind" in antiphon("ask", "-a", "a.txt", "x").err
    assert "missing.txt" in antiphon("ask", "-f", "missing.txt", "x").err


def answered() -> Any:
    """A stream that says ok, for requests with parts that a text model does not take."""
    import httpx2  # noqa: PLC0415

    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    said = {"index": 0, "delta": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}
    body = f"data: {json.dumps({**chunk, 'choices': [said]})}\n\ndata: [DONE]\n\n"
    return httpx2.Response(200, text=body, headers={"content-type": "text/event-stream"})


def test_an_answer_in_a_shape(antiphon: Command, scripted: ScriptedEndpoint, tmp_path: Path) -> None:
    """Fields in one line, or a JSON Schema, as text or as a file; only the JSON is printed."""
    scripted.answers('{"name": "Ann", "age": 3}', '{"a": 1}', '{"a": 2}')
    assert antiphon("ask", "--schema", "name, age int", "who?").out == '{"name": "Ann", "age": 3}\n'
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert antiphon("ask", "--schema", json.dumps(schema), "which?").out == '{"a": 1}\n'
    (tmp_path / "s.json").write_text(json.dumps(schema))
    assert antiphon("ask", "--schema", "s.json", "which?").out == '{"a": 2}\n'
    assert scripted.requests[-1]["response_format"]["json_schema"]["schema"] == schema
    assert "cannot read the field" in antiphon("ask", "--schema", "name text", "x").err
    assert "not JSON" in antiphon("ask", "--schema", "{", "x").err


GUARDED = """
import antiphon

@antiphon.tool(needs_approval=True)
def delete(path: str) -> str:
    "Delete a file."
    return "deleted"

def helper(): ...
"""


def test_a_tool_that_needs_approval_is_not_run_in_a_pipe(
    antiphon: Command, scripted: ScriptedEndpoint, tmp_path: Path
) -> None:
    """Nobody can be asked there; --yes allows it. Standard output has the answer alone."""
    (tmp_path / "tools.py").write_text(GUARDED)
    scripted.answers(calls("delete", path="a"), "no", calls("delete", path="a"), "done")
    refused = antiphon("ask", "--tool", "tools.py", "delete a")
    assert refused.out == "no\n"
    assert "delete was not run" in refused.err
    allowed = antiphon("ask", "--tool", "tools.py", "--yes", "delete a")
    assert (allowed.out, scripted.sent()[-1][1]) == ("done\n", "deleted")
    assert antiphon("tools", "--tool", "tools.py").out == "* delete(path)  Delete a file.\n"
    assert json.loads(antiphon("tools", "--tool", "tools.py", "--json").out)[0]["function"]["name"] == "delete"
    assert "no tools named" in antiphon("tools").err
    (tmp_path / "broken.py").write_text("1/0")
    assert "ZeroDivisionError" in antiphon("tools", "--tool", "broken.py").err
    (tmp_path / "empty.py").write_text("")
    assert "defines no functions" in antiphon("tools", "--tool", "empty.py").err


SERVER = """
from mcp.server import MCPServer
server = MCPServer("command")

@server.tool()
def forecast(city: str) -> str:
    "Tell the weather."
    return f"sunny in {city}"

server.run()
"""


def test_tools_of_a_server_are_listed_and_called(antiphon: Command, scripted: ScriptedEndpoint, tmp_path: Path) -> None:
    """A command here; a URL has ``://`` in it."""
    import sys  # noqa: PLC0415

    (tmp_path / "server.py").write_text(SERVER)
    command = f"{sys.executable} server.py"
    listed = antiphon("tools", "--mcp", command)
    assert listed.err == ""
    assert listed.out == "* forecast(city)  Tell the weather.\n"
    scripted.answers(calls("forecast", city="Oslo"), "done")
    assert antiphon("ask", "--mcp", command, "--yes", "weather?").out == "done\n"
    assert scripted.sent()[-1][1] == "sunny in Oslo"
    assert "antiphon: The tools of" in antiphon("ask", "--mcp", "antiphon-no-such-command", "x").err


def test_an_answer_that_is_cut_and_one_with_reasoning(antiphon: Command, scripted: ScriptedEndpoint) -> None:
    """Reasoning is for a terminal's standard error; a pipe gets the answer's bytes."""
    scripted.answers(answer("half", finish_reason="length"), answer("**a**\n\n- b", reasoning="hm"))
    assert antiphon("ask", "x").status == 3
    assert antiphon("ask", "x") == (0, "**a**\n\n- b\n", "")
