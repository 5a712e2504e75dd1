"""Run the public conformance suites against a server. See docs/conformance.md.

    python -m tests.conformance.run [SUITE ...] [--minutes 5]

Suites: client (the official client's own tests), schemathesis, llm-comply, compatcanary; all of them if you name none.
Each tool is installed once under ``build/conformance`` by pip or npm, at the version that docs/conformance.md speaks of.
The first two ask a scripted model, because they look at the wire alone; the last two the default model.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx
from tests.conformance.placeholders import with_objects
from tests.processes import home_with_models, serving

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "conformance"
BIN = BUILD / "venv" / "bin"
OPENAI = "openai==3.57.0"
PACKAGES = ("schemathesis==4.32.5", "llm-comply==0.5.0", "pytest>=9", "pytest-asyncio>=1.4", "rich", "aiohttp", "respx")
CANARY = "compatcanary@0.2.2"

CLIENT_TESTS = (
    "test_models", "test_completions", "test_embeddings", "chat/test_completions", "chat/completions/test_messages",
    "test_responses", "responses/test_input_items", "responses/test_input_tokens", "test_conversations",
    "conversations/test_items", "test_files", "test_uploads", "uploads/test_parts", "test_batches",
    "test_vector_stores", "vector_stores/test_files", "vector_stores/test_file_batches",
)  # fmt: skip
CHAT_MODELS = ("gpt-4o-mini", "gpt-6-astra", "gpt-3.5-turbo-instruct")
EMBEDDING_MODELS = ("text-embedding-3-small",)


class Target(NamedTuple):
    """A server and what to ask it with."""

    url: str
    key: str

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")


def run(*command: str | Path, cwd: Path = BUILD, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a tool and keep what it says."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environ,
        text=True,
        capture_output=True,
        check=False,
    )


def install() -> None:
    """Bring the tools to ``build/conformance``; a second call does nothing."""
    done = BUILD / "installed"
    if done.exists():
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    python = BIN / "python"
    steps = (
        (sys.executable, "-m", "venv", BUILD / "venv"),
        (python, "-m", "pip", "install", "--quiet", OPENAI, *PACKAGES),
        (python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", BUILD, OPENAI),
        ("npm", "install", "--no-audit", "--no-fund", CANARY),
    )
    for step in steps:
        finished = run(*step)
        if finished.returncode:
            raise SystemExit(f"{' '.join(map(str, step))} failed:\n{finished.stderr}")
    with tarfile.open(next(BUILD.glob("openai-*.tar.gz"))) as source:
        source.extractall(BUILD, filter="data")
    done.touch()


@contextmanager
def scripted_server() -> Generator[Target]:
    """A server with a key, whose models repeat their prompt."""
    home = BUILD / "home-scripted"
    shutil.rmtree(home, ignore_errors=True)  # with the key of an earlier run
    home_with_models(home)
    script = home / "script.toml"
    script.write_text(f"models = {list(CHAT_MODELS)}\nembedding_models = {list(EMBEDDING_MODELS)}\n")
    config = home / "config.toml"
    config.write_text(f'[models]\nchat = "none"\nembedding = "none"\n[gateway]\nscript = "{script}"\n')
    created = run(
        sys.executable, "-m", "antiphon", "keys", "create", "--name", "suite", "--admin", cwd=ROOT,
        ANTIPHON_HOME=str(home),
    )  # fmt: skip
    if created.returncode:
        raise SystemExit(created.stderr)
    with serving(home, "--config", str(config)) as server:
        yield Target(server.url, created.stdout.strip())


@contextmanager
def local_server() -> Generator[Target]:
    """A server on the default models, open to this machine."""
    with serving(home_with_models(BUILD / "home-local")) as server:
        yield Target(server.url, "any")


def official_client(target: Target) -> str:
    """The official client's tests of the resources that this server has."""
    source = next(path for path in BUILD.glob("openai-*") if path.is_dir())
    # The suite has its own idea of a key.
    conftest = source / "tests" / "conftest.py"
    conftest.write_text(
        re.sub(r'^api_key = ".*"$', f'api_key = "{target.key}"', conftest.read_text(), flags=re.MULTILINE)
    )
    report: list[str] = []
    with with_objects(target.url, target.key) as url:
        for name in CLIENT_TESTS:
            finished = run(
                BIN / "python", "-m", "pytest", "-o", "addopts=", "-q", "--tb=line", "-p", "no:cacheprovider",
                f"tests/api_resources/{name}.py", cwd=source, TEST_API_BASE_URL=url,
            )  # fmt: skip
            report += [f"{name}: {finished.stdout.strip().splitlines()[-1]}", *_reasons(finished.stdout)]
    return "\n".join(report)


def _reasons(output: str) -> list[str]:
    """Count failures by what the server said."""
    said = re.findall(r"^(?:E   )?\S*?(?:Error: )(Error code: .*|Data returned.*)$", output, re.MULTILINE)
    return [f"  {said.count(reason)} x {reason}" for reason in sorted(set(said), key=said.count, reverse=True)]


def schemathesis(target: Target, minutes: float) -> str:
    """Requests made from our own document, with the models' names filled in so that they reach the models."""
    document = httpx.get(f"{target.root}/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name, models in (
        ("ChatCompletionRequest", CHAT_MODELS),
        ("CompletionRequest", CHAT_MODELS),
        ("EmbeddingRequest", EMBEDDING_MODELS),
    ):
        schemas[name]["properties"]["model"] = {"type": "string", "enum": list(models)}
    described = BUILD / "openapi.json"
    described.write_text(json.dumps(document))
    finished = run(
        BIN / "schemathesis", "run", described, "--url", target.root, "--header", f"Authorization: Bearer {target.key}",
        "--max-time", str(int(minutes * 60)), "--continue-on-failure", "--no-color", "--warnings", "off",
        # What JSON Schema cannot say - fields that need one another, results that match calls - is refused all the same.
        "--exclude-checks", "positive_data_acceptance",
    )  # fmt: skip
    return finished.stdout[-6000:]


def llm_comply(target: Target) -> str:
    """BatchShapes of chat completions, by OpenAI's document."""
    return run(
        BIN / "llm-comply", "--format", "openai-chat", "-u", target.url, "-k", target.key, "-m", "gpt-4o-mini"
    ).stdout


def compatcanary(target: Target) -> str:
    """What frameworks rely on."""
    return run(
        BUILD / "node_modules" / ".bin" / "compatcanary", "scan", "--base-url", target.url, "--model", "gpt-4o-mini",
        "--api-key", target.key, "--profile", "chat", "--timeout", "600",
    ).stdout  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.run", description=__doc__)
    wire = {"client": official_client, "schemathesis": schemathesis}
    model: dict[str, Callable[[Target], str]] = {"llm-comply": llm_comply, "compatcanary": compatcanary}
    parser.add_argument("suites", nargs="*", choices=[*wire, *model, []])
    parser.add_argument("--minutes", type=float, default=5, help="how long schemathesis looks (default: 5)")
    given = parser.parse_args()
    wanted = given.suites or [*wire, *model]
    install()
    if wire.keys() & wanted:
        with scripted_server() as target:
            if "client" in wanted:
                show("client", official_client(target))
            if "schemathesis" in wanted:
                show("schemathesis", schemathesis(target, given.minutes))
    if model.keys() & wanted:
        with local_server() as target:
            for name, suite in model.items():
                if name in wanted:
                    show(name, suite(target))


def show(name: str, report: str) -> None:
    sys.stdout.write(f"== {name}\n{report}\n\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
