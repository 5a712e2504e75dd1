"""The commands of the toolkit, in process, against the real server over a scripted backend."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.serving import Running, running

from antiphon.backends.scripted.backend import ScriptedBackend
from antiphon.backends.scripted.script import Pattern, Reply, Script
from antiphon.cli.root import main

CHAT, EMBEDDING = "gpt-4o-mini", "text-embedding-3-small"


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    review = '{"product": "lamp", "stars": 4, "pros": ["bright"]}'
    replies = (
        Reply(match=Pattern(last_message="bright lamp"), text=review),
        Reply(match=Pattern(last_message="price unknown"), text='{"price": null}'),
        Reply(match=Pattern(last_message="Ann is 31"), text='{"name": "Ann", "age": 31, "email": null}'),
        Reply(match=Pattern(last_message="odd names"), text='{"json": "a", "from": "b", "_id": "c"}'),
    )
    script = Script(models=(CHAT, "gpt-4o"), embedding_models=(EMBEDDING,), replies=replies)
    with running(ScriptedBackend(script), tmp_path_factory.mktemp("home")) as up:
        yield up


@pytest.fixture
def antiphon(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("ANTIPHON_HOME", str(tmp_path / "home"))

    def run(*words: str, stdin: str = "") -> Ended:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main(words)
        printed = capsys.readouterr()
        return Ended(int(ended.value.code or 0), printed.out, printed.err)

    return run


def test_ask_prints_the_answer(antiphon: Command) -> None:
    """The echoing model says the question again, and nothing else is on standard output."""
    assert antiphon("ask", "hello", "there") == (0, "hello there\n", "")


def test_ask_reads_the_pipe(antiphon: Command) -> None:
    """What is piped in stands below the question."""
    assert antiphon("ask", "Summarise:", stdin="a text\n").out == "Summarise:\n\na text\n\n"


def test_ask_as_json(antiphon: Command) -> None:
    """One object with text, usage and finish reason."""
    told = json.loads(antiphon("ask", "--json", "hello").out)
    assert (told["text"], told["finish_reason"]) == ("hello", "stop")
    assert told["usage"]["prompt_tokens"] > 0
    assert told["cost"] is None


def test_a_cut_answer_has_its_own_status(antiphon: Command) -> None:
    """A script can tell a cut answer from a whole one."""
    ended = antiphon("ask", "--max-tokens", "2", "one two three four five six seven eight nine ten")
    assert ended.status == 3
    assert "--max-tokens" in ended.err


def test_errors_are_one_line_with_the_fix(antiphon: Command, server: Running) -> None:
    """No traceback: what happened, and what to do."""
    nobody = antiphon("ask", "--base-url", "http://127.0.0.1:9/v1", "hello")
    assert nobody.status == 1
    assert nobody.err.startswith("antiphon: cannot reach http://127.0.0.1:9/v1 - ")
    assert nobody.err.endswith("antiphon doctor --base-url http://127.0.0.1:9/v1\n")
    wrong = antiphon("ask", "--model", "no-such", "hello")
    assert wrong.status == 1
    assert wrong.err.count("\n") == 1
    assert "no-such" in wrong.err
    # Which of the servers it was is said: without it the doctor would look at another one.
    assert f"antiphon doctor --base-url {server.url} " in wrong.err
    assert antiphon("ask").err.startswith("antiphon: no question given - ")


def test_chat_goes_on_after_an_error(antiphon: Command, server: Running) -> None:
    """What the API refuses is one line with the fix; without a server there is nothing to go on with."""
    assert antiphon("chat", stdin="hello there\n/quit\n") == (0, "hello there\n", "")
    refused = antiphon("chat", "--model", "no-such", stdin="hello\nagain\n")
    assert (refused.status, refused.err.count("\n"), refused.err.count("--base-url")) == (0, 2, 2)
    nobody = antiphon("chat", "--base-url", "http://127.0.0.1:9/v1", stdin="hello\n")
    assert (nobody.status, nobody.err.count("\n")) == (1, 1)
    assert "cannot reach http://127.0.0.1:9/v1 - " in nobody.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("embed a b --similarity --json", "exclusive"),
        ("usage --json --csv", "exclusive"),
        ("usage --until 2020-01-01", "--until 2020-01-01 is not after --since 30d"),
        ("search . --answer", "--answer without a question"),
        ("search . --where {}", "--where without a question"),
        ("search . --limit 3", "--limit without a question"),
        ("search . --mode bm25", "--mode without a question"),
        ("search . --model gpt-4o question", "--model without --answer"),
        ("search . --max-tokens 0 question", "--max-tokens without --answer"),
        ("doctor --max-tokens 5", "--max-tokens belongs to --answer"),
        ("doctor --answer a.json --model gpt-4o", "--answer asks no server"),
        ("doctor --timeout 0", "--timeout is 0"),
        ("tour --steps 9-99", "no such steps: '9-99'"),
        ("keys create --name a --budget-period day", "--budget-period without a budget"),
        ("keys create --name a --budget-usd nan", "--budget-usd is 'nan'"),
        ("extract --field a --field a:int text", "the field 'a' is named twice"),
        ("tokens --messages [1]", "not a JSON list of messages"),
        ("bulk in.jsonl out.jsonl --batch --flex", "--batch and --flex are two ways"),
        ("bulk in.jsonl out.jsonl --rest-now", "--rest-now without --batch or --flex"),
        ("bulk in.jsonl out.jsonl --no-wait", "--no-wait without --batch"),
        ("bulk in.jsonl out.jsonl --batch --rpm 5", "A batch takes no rpm"),
        ("files delete", "no file named"),
        ("models pull gpt-4o-mini --kind embedding", "gpt-4o-mini has a name and a kind already"),
        ("models pull gpt-4o-mini --name mine", "gpt-4o-mini has a name and a kind already"),
        ("chat -c --system brief", "keeps its system message"),
        ("ask --save a --temperature 1 hi", "a template does not keep --temperature"),
        ("ask --save a --max-tokens 0 hi", "a template does not keep --max-tokens"),
        ("ask --save a -t b -p c=d --tool t.py --mcp u hi", "not keep --template, --param, --tool, --mcp"),
        ("ask --save a -a b.png -c --conversation d hi", "not keep --attachment, --continue, --conversation"),
        ("ask --save a --json --stats hi", "not keep --json, --stats"),
        ("log --limit -3", "--limit must be at least 1, not -3"),
        ("ask --schema , hi", "no field is named"),
        ("ask --schema age:intt hi", "write 'name, age int'"),
        ('ask --schema {"required":1} hi', "the schema is not a JSON Schema"),
        ("eval in.toml --model m --baseline none.json", "none.json"),
        ("eval in.toml --model m --out none/out.json", "there is no folder none for --out"),
        ("eval in.toml --model m --at-least 2", "--at-least is 2"),
        ("bulk in.jsonl out.jsonl --concurrency 0", "concurrency must be at least 1, not 0"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    antiphon: Command, words: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever gives an option means something by it; it is never passed over in silence."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.toml").write_text('cases = "c.jsonl"\nscores = []\n')
    ended = antiphon(*words.split())
    assert ended.status in {1, 2}
    assert ended.out == ""
    assert told in ended.err


def test_extract_takes_any_name(antiphon: Command) -> None:
    """Also names that mean something else in Python or pydantic, and no warning beside the answer."""
    ended = antiphon("extract", "--field", "json", "--field", "from", "--field", "_id", "odd names")
    assert ended == (0, '{"json": "a", "from": "b", "_id": "c"}\n', "")


def test_embed_prints_a_line_for_each_text(antiphon: Command) -> None:
    """Lines in, lines out, in order; the second time they come from the disk."""
    first = antiphon("embed", stdin="alpha\nbeta\n")
    assert [json.loads(line)["text"] for line in first.out.splitlines()] == ["alpha", "beta"]
    again = json.loads(antiphon("embed", "--json", "alpha").out)
    assert (again["num_cached"], len(again["vectors"])) == (1, 1)


def test_only_a_line_feed_ends_a_text(antiphon: Command) -> None:
    """Text from a PDF has form feeds, and text from the web other separators; neither makes two texts of one."""
    made = antiphon("embed", stdin="one\x0cpage\u2028line\x85\nbeta\n").out.split("\n")
    assert [json.loads(line)["text"] for line in made if line] == ["one\x0cpage\u2028line\x85", "beta"]


@pytest.mark.parametrize("command", ["ask", "embed", "tokens", "extract --field a"])
def test_what_is_not_text_is_refused_in_one_line(
    antiphon: Command, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """In every locale: some decode strictly, others pass the bytes on as lone surrogates."""
    for errors in ("strict", "surrogateescape"):
        piped = io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8", errors=errors)
        monkeypatch.setattr("io.StringIO", lambda _, piped=piped: piped)
        ended = antiphon(*command.split())
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("antiphon: what was piped in is not text in UTF-8 - convert it")


def test_embed_compares(antiphon: Command) -> None:
    """A text is as close to itself as can be."""
    assert antiphon("embed", "--similarity", "alpha", "beta").out.splitlines()[0] == " 1.0000  alpha"


def test_search_indexes_and_finds(antiphon: Command, tmp_path: Path) -> None:
    """A folder is indexed, kept up to date and searched."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "apples.md").write_text("# Apples\n\nCider is made of apples.")
    (folder / "pears.md").write_text("# Pears\n\nPerry is made of pears.")
    assert "2 added" in antiphon("search", str(folder)).out
    assert "2 unchanged" in antiphon("search", str(folder)).out
    found = antiphon("search", str(folder), "perry", "--limit", "1", "--mode", "bm25").out
    assert found.startswith("1. pears.md:")
    told = json.loads(antiphon("search", str(folder), "cider", "--json", "--where", '{"suffix": ".rst"}').out)
    assert told == {"hits": []}
    assert antiphon("search", str(folder), "cider", "--where", "nonsense").status == 1


def test_search_answers(antiphon: Command, tmp_path: Path) -> None:
    """The answer comes with the places it may rest on."""
    (tmp_path / "apples.md").write_text("# Apples\n\nCider is made of apples.")
    ended = antiphon("search", str(tmp_path), "What is cider?", "--answer")
    assert "*[1] apples.md:" in ended.out
    assert "prompt tokens" in ended.err
    cut = antiphon("search", str(tmp_path), "What is cider?", "--answer", "--max-tokens", "2")
    assert (cut.status, cut.err.count("cut at the token limit - raise --max-tokens")) == (3, 1)
    assert ".py" not in cut.err


def test_bulk_runs_a_file(antiphon: Command, tmp_path: Path) -> None:
    """A batch file in, a batch file out; a failed line has its own exit status."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}]}
    (tmp_path / "in.jsonl").write_text(json.dumps({**line, "body": body}) + "\n")
    assert antiphon("bulk", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")).status == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["custom_id"] == "a"
    bad = json.dumps({**line, "body": {**body, "model": "no-such"}})
    (tmp_path / "bad.jsonl").write_text(bad + "\n")
    ended = antiphon("bulk", str(tmp_path / "bad.jsonl"), str(tmp_path / "out2.jsonl"), "--json")
    assert (ended.status, json.loads(ended.out)["statistics"]["num_failed"]) == (3, 1)


def test_tokens_counts(antiphon: Command) -> None:
    """The count says how exact it is."""
    told = json.loads(antiphon("tokens", "--json", stdin="Hello there").out)
    assert told["tokens"] > 0
    assert told["quality"] in {"exact", "estimate"}
    assert antiphon("tokens", "--messages", stdin='[{"role": "user", "content": "hi"}]').status == 0


def test_doctor_tells_scripts(antiphon: Command, tmp_path: Path) -> None:
    """Status 0 when calls work, 1 when they cannot; JSON for programs."""
    sound = antiphon("doctor", "--json", "--model", CHAT)
    assert (sound.status, json.loads(sound.out)["healthy"]) == (0, True)
    broken = antiphon("doctor", "--base-url", "http://127.0.0.1:9/v1")
    assert broken.status == 1
    assert "fix: antiphon serve" in broken.out
    (tmp_path / "a.json").write_text('{"choices": [{"finish_reason": "length"}], "usage": {"completion_tokens": 5}}')
    assert (
        "max_completion_tokens=5" in antiphon("doctor", "--answer", str(tmp_path / "a.json"), "--max-tokens", "5").out
    )


PAGE = Path(__file__).parents[2] / "docs" / "toolkit" / "commands.md"
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_works(
    antiphon: Command, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of docs/toolkit/commands.md, with the files they name, end well; what jq reads is JSON with that key."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "keys.md").write_text("# Keys\n\nRotate a key with one command. Keep backups.")
    (tmp_path / "notes.txt").write_text("A first note.\nA second note.\n")
    (tmp_path / "review.txt").write_text("A bright lamp, four stars.")
    (tmp_path / "report.txt").write_text("Sales rose.")
    (tmp_path / "letter.txt").write_text("Dear Ann")
    (tmp_path / "weather.py").write_text('def weather(city: str) -> str:\n    "Tell."\n    return "sunny"\n')
    for before in ("log on", "ask hello", "ask --save translate '$language: $input'"):
        antiphon(*shlex.split(before))
    body = {"model": EMBEDDING, "input": "a text"}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")
    words = shlex.split(line)
    stdin, jq = "", ""
    if words[0] == "cat":
        stdin, words = Path(words[1]).read_text(), words[3:]
    if "jq" in words:
        words, jq = words[: words.index("|")], words[-1]
    ended = antiphon(*words[1:], stdin=stdin)
    assert ended.status == 0, ended.err
    assert ended.out
    if jq:
        assert jq.strip(".") in json.loads(ended.out)
