"""Programs that people really use, pinned, against this server: run by ``make clients``.

They are installed into ``build/clients``, an environment and a Node folder of their own. The model is scripted, so that what
a client does is decided; one test asks the default model.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Generator, Mapping
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.processes import ServerProcess, home_with_models, serving

pytestmark = pytest.mark.clients
HERE = Path(__file__).parent
INSTALLED = HERE.parents[1] / "build" / "clients"
HOSTED_TOOLS = {"ANTIPHON_RESPONSES_HOSTED_TOOLS": "leave-out"}
SCRIPTED = f'[models]\nchat = "none"\nembedding = "none"\n[gateway]\nscript = "{HERE / "script.toml"}"\n'
WEATHER = "It is 12 degrees in Oslo."


@pytest.fixture(scope="session")
def python() -> str:
    """An interpreter with the Python clients."""
    return installed("python", "requirements.txt")


def installed(name: str, requirements: str) -> str:
    """Return the interpreter of an environment with these clients."""
    program = INSTALLED / name / "bin" / "python"
    wanted = (HERE / requirements).read_text()
    mark = INSTALLED / requirements
    if not mark.exists() or mark.read_text() != wanted:
        venv.create(INSTALLED / name, with_pip=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", "-r", HERE / requirements], check=True)
        mark.write_text(wanted)
    return str(program)


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder with the Node clients."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    INSTALLED.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    mark = INSTALLED / "package.json"
    if not mark.exists() or mark.read_text() != wanted:
        mark.write_text(wanted)
        subprocess.run(["npm", "install", "--silent", "--no-package-lock"], cwd=INSTALLED, check=True)
    return INSTALLED


@pytest.fixture(scope="session")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    home = tmp_path_factory.mktemp("scripted")
    settings = home / "antiphon.toml"
    settings.write_text(SCRIPTED)
    with serving(home, "--config", str(settings), **HOSTED_TOOLS) as server:
        yield server


def run(server: ServerProcess, *command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a client against ``server``; return what it printed. Fails with what it said."""
    done = attempt(server, *command, cwd=cwd, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def attempt(server: ServerProcess, *command: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a client against ``server``, however it ends."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPHON_", "OPENAI_", "PYTHON"))}
    environment |= {
        "OPENAI_BASE_URL": server.url,
        "OPENAI_API_KEY": "k",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
        **environ,
    }
    return subprocess.run(
        [*map(str, command)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def lines(output: str) -> Mapping[str, str]:
    return dict(line.split(": ", 1) for line in output.splitlines() if ": " in line)


def test_openai_agents(scripted: ServerProcess, python: str, tmp_path: Path) -> None:
    """Tools, a hand-off, a conversation session and a stream, with default settings."""
    said = lines(run(scripted, python, HERE / "programs/openai_agents.py", cwd=tmp_path))
    assert said == {"tool": WEATHER, "hand-off": "helper", "session": "4", "stream": f"True {WEATHER}"}


def test_pydantic_ai(scripted: ServerProcess, python: str, tmp_path: Path) -> None:
    """A tool, a typed output, a history that is sent again."""
    said = lines(run(scripted, python, HERE / "programs/pydantic_ai_responses.py", cwd=tmp_path))
    assert said == {"tool": WEATHER, "typed": "city='Oslo' degrees=12", "history": "and now?"}


def test_langchain(scripted: ServerProcess, python: str, tmp_path: Path) -> None:
    """A tool, a stream, a typed output over Responses."""
    said = lines(run(scripted, python, HERE / "programs/langchain_responses.py", cwd=tmp_path))
    assert said == {"tool": WEATHER, "stream": "one two three", "typed": "city='Oslo' degrees=12"}


def test_llm(scripted: ServerProcess, python: str, tmp_path: Path) -> None:
    """One prompt on the command line, and a follow-up."""
    program = Path(python).with_name("llm")
    assert "hello" in run(scripted, program, "-m", "gpt-4o-mini", "hello", cwd=tmp_path, LLM_USER_PATH=str(tmp_path))
    assert "again" in run(scripted, program, "-c", "again", cwd=tmp_path, LLM_USER_PATH=str(tmp_path))


def test_the_vercel_ai_sdk(scripted: ServerProcess, node: Path, tmp_path: Path) -> None:
    """generateText, streamText with tools, generateObject with the default provider."""
    program = node / "ai_sdk.mjs"
    shutil.copyfile(HERE / "programs/ai_sdk.mjs", program)
    said = lines(run(scripted, "node", program, cwd=tmp_path))
    assert said == {"text": "hello there", "stream": WEATHER, "object": '{"city":"Oslo","degrees":12}'}


def codex(
    server: ServerProcess, node: Path, work: Path, prompt: str, *, over_websocket: bool = False
) -> subprocess.CompletedProcess[str]:
    home = work / "codex-home"
    home.mkdir()
    (home / "config.toml").write_text(
        'model = "gpt-5"\nmodel_provider = "local"\n[model_providers.local]\nname = "local"\n'
        f'base_url = "{server.url}"\nwire_api = "responses"\nenv_key = "OPENAI_API_KEY"\n'
        f"supports_websockets = {str(over_websocket).lower()}\n"
        f'[mcp_servers.files]\ncommand = "{sys.executable}"\nargs = ["{HERE / "mcp_files.py"}"]\n'
        "required = true\nstartup_timeout_sec = 120\n"
    )
    program = node / "node_modules/.bin/codex"
    options = ("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", prompt)
    return attempt(server, program, *options, cwd=work, CODEX_HOME=str(home))


def num_requests(server: ServerProcess, way: str) -> float:
    """How many requests for responses came that way, and were answered: by POST, or over a WebSocket."""
    told = httpx.get(server.url.removesuffix("/v1") + "/metrics").text
    path = "/v1/responses" if way == "POST" else "/v1/responses (websocket)"
    found = re.search(rf'^antiphon_requests_total{{path="{re.escape(path)}",status="200"}} (\S+)$', told, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


@pytest.mark.parametrize("way", ["POST", "WebSocket"])
def test_codex_runs_a_command(scripted: ServerProcess, node: Path, tmp_path: Path, way: str) -> None:
    """A session with a shell command: Codex understands the call, runs it, and gets its answer."""
    before = num_requests(scripted, way)
    done = codex(scripted, node, tmp_path, "write a file", over_websocket=way == "WebSocket")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The file is written." in done.stdout
    assert (tmp_path / "proof.txt").read_text() == "it ran\n"
    assert num_requests(scripted, way) >= before + 2


@pytest.mark.parametrize("way", ["POST", "WebSocket"])
def test_codex_calls_a_tool_of_an_mcp_server(scripted: ServerProcess, node: Path, tmp_path: Path, way: str) -> None:
    """Codex offers the tool in a namespace, and runs the call that comes back with namespace and name apart."""
    before = num_requests(scripted, way)
    done = codex(scripted, node, tmp_path, "read with the server", over_websocket=way == "WebSocket")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "files/read (completed)" in said
    assert "The server has read it." in done.stdout
    assert num_requests(scripted, way) >= before + 2


def test_codex_is_launched_with_a_profile_of_its_own(node: Path, tmp_path: Path) -> None:
    """``antiphon launch codex`` on a server that refuses hosted tools: the profile leaves them out, and --undo removes it."""
    settings = tmp_path / "antiphon.toml"
    settings.write_text(SCRIPTED)
    home = tmp_path / "codex-home"
    home.mkdir()
    own = home / "config.toml"
    own.write_text('model = "the-users-own"\n')
    environ = {
        "CODEX_HOME": str(home),
        "PATH": f"{node / 'node_modules/.bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    command = (sys.executable, "-m", "antiphon", "launch", "codex")
    with serving(tmp_path, "--config", str(settings)) as server:
        options = ("exec", "--skip-git-repo-check", "--sandbox", "danger-full-access", "write a file")
        said = run(server, *command, *options, cwd=tmp_path, **environ)
        assert "The file is written." in said
        assert (tmp_path / "proof.txt").read_text() == "it ran\n"
        assert num_requests(server, "WebSocket") >= 2
        assert (home / "antiphon.config.toml").exists()
        assert "removed" in run(server, *command, "--undo", cwd=tmp_path, **environ)
    assert not (home / "antiphon.config.toml").exists()
    assert own.read_text() == 'model = "the-users-own"\n'


def test_codex_and_the_default_model_agree_on_the_form(node: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The small model says nothing clever about 10,000 tokens of instructions, but the session ends in order or at a limit."""
    home = home_with_models(tmp_path_factory.mktemp("default"))
    work = tmp_path_factory.mktemp("work")
    settings = {**HOSTED_TOOLS, "ANTIPHON_ENGINE_CONTEXT_SIZE": "32768"}
    with serving(home, **settings) as server:
        done = codex(server, node, work, "Say hello.")
    said = done.stdout + done.stderr
    assert done.returncode == 0 or "context_length_exceeded" in said or "reason: max_output_tokens" in said, said
