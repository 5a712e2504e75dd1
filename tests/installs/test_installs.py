"""Each extra, installed from the built wheel into an empty environment, does what it promises and no more.

Run by ``make installs``: it builds and downloads packages. The constraints are the repository's own.
"""

import os
import subprocess
import sys
import venv
from collections.abc import Generator
from pathlib import Path

import httpx2 as httpx
import pytest
from tests.processes import ServerProcess, home_with_models, serving

from antiphon.extras import EXTRA_OF

pytestmark = pytest.mark.installs
ROOT = Path(__file__).parents[2]

CHAT = """
from antiphon import Chat
chat = Chat(model="gpt-4o-mini", max_completion_tokens=8, temperature=0)
reply = chat.send("Say hello.")
assert reply.text and reply.usage.completion_tokens, reply
import sys
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"starlette", "uvicorn", "sqlalchemy", "llguidance"}, loaded
print(reply.model)
"""


class Installed:
    """An environment of its own with the wheel and one extra in it."""

    def __init__(self, folder: Path, wheel: Path, extra: str) -> None:
        venv.create(folder, with_pip=True)
        self.python = str(folder / "bin" / "python")
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        self.run("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), wanted)

    def run(self, *arguments: str, **environ: str) -> str:
        """Run this environment's Python outside the repository; return what it printed. Fails with what it said."""
        done = self.attempt(*arguments, **environ)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def attempt(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPHON_", "OPENAI_", "PYTHON"))}
        return subprocess.run(
            [self.python, *arguments], env=clean | environ, cwd="/", capture_output=True, text=True, check=False
        )

    def has(self, module: str) -> bool:
        return self.attempt("-c", f"import {module}").returncode == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("installs")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    (built,) = folder.glob("antiphon-*.whl")
    return built


@pytest.fixture(scope="module")
def toolkit(folder: Path, wheel: Path) -> Installed:
    return Installed(folder / "toolkit", wheel, "")


@pytest.fixture(scope="module")
def server(folder: Path, wheel: Path) -> Installed:
    return Installed(folder / "server", wheel, "server")


@pytest.fixture(scope="module")
def stores(folder: Path, wheel: Path) -> Installed:
    return Installed(folder / "stores", wheel, "redis,postgres,mcp,bucket,files")


@pytest.fixture(scope="module")
def local(folder: Path, wheel: Path) -> Installed:
    return Installed(folder / "local", wheel, "local")


@pytest.fixture(scope="module")
def local_server(folder: Path, local: Installed) -> Generator[ServerProcess]:
    home = home_with_models(folder / "home")
    with serving(home, python=local.python, PYTHONPATH="") as running:
        yield running


def test_the_bare_install_has_the_toolkit_and_names_the_extra_for_the_rest(toolkit: Installed) -> None:
    """`antiphon` alone answers --help and counts tokens; what needs an extra says which, in one line."""
    assert not any(toolkit.has(module) for module in ("starlette", "sqlalchemy", "llguidance", "jinja2"))
    assert "serve" in toolkit.run("-m", "antiphon", "--help")
    assert "qwen3-4b" in toolkit.run("-m", "antiphon", "models", "list")
    for command in (("serve",), ("keys", "list"), ("usage",)):
        refused = toolkit.attempt("-m", "antiphon", *command)
        assert refused.returncode == 1
        assert "antiphon[server]" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_each_extra_brings_the_modules_that_it_is_named_for(
    server: Installed, stores: Installed, local: Installed
) -> None:
    """The table behind the hint is true: installing the named extra ends the complaint."""
    installed = {
        "server": server,
        "redis": stores,
        "postgres": stores,
        "mcp": stores,
        "bucket": stores,
        "files": stores,
    }
    installed |= dict.fromkeys(("local", "llama", "openvino"), local)
    for module, extra in EXTRA_OF.items():
        if extra in installed:
            assert installed[extra].has(module), (module, extra)
    assert not any(server.has(module) for module in ("llguidance", "llama_cpp", "xllamacpp", "gguf"))


def test_the_toolkit_talks_to_a_local_server(toolkit: Installed, local_server: ServerProcess) -> None:
    """[local] serves a model; the bare install's Chat uses it and loads nothing of the server."""
    told = toolkit.run("-c", CHAT, OPENAI_BASE_URL=local_server.url, OPENAI_API_KEY="k")
    assert told.strip() == "smollm2-135m-instruct"


def test_a_gateway_needs_no_engine(
    folder: Path, toolkit: Installed, server: Installed, local_server: ServerProcess
) -> None:
    """[server] alone relays to another server, without a grammar compiler or llama.cpp installed."""
    home = folder / "gateway"
    home.mkdir()
    settings = home / "antiphon.toml"
    settings.write_text(
        '[models]\nchat = "none"\nembedding = "none"\n'
        f'[[gateway.upstreams]]\nname = "other"\nbase_url = "{local_server.url}"\n'
        '[[gateway.routes]]\nmodel = "*"\ntargets = [{ backend = "other" }]\n'
    )
    with serving(home, "--config", str(settings), python=server.python, PYTHONPATH="") as gateway:
        console = gateway.url.removesuffix("/v1") + "/console"
        for name in ("", "/main.js", "/vendor/htm-preact-3.1.1.js"):
            assert httpx.get(console + name).status_code == 200, "the console's pages are in the wheel"
        told = toolkit.run("-c", CHAT, OPENAI_BASE_URL=gateway.url, OPENAI_API_KEY="k")
    assert told.strip() == "smollm2-135m-instruct"


def test_keys_work_without_an_engine(folder: Path, server: Installed) -> None:
    """[server] manages keys: the migrations and scripts that they need are in the wheel."""
    home = folder / "keys"
    home.mkdir()
    assert "sk-" in server.run("-m", "antiphon", "keys", "create", "--name", "first", ANTIPHON_HOME=str(home))
    assert "first" in server.run("-m", "antiphon", "keys", "list", ANTIPHON_HOME=str(home))
