"""A gateway needs no native code: it runs where llguidance, llama.cpp and gguf are not installed."""

import os
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from tests.processes import serving

NATIVE = ("llguidance", "llama_cpp", "gguf")
SOURCES = Path(__file__).parents[2] / "src"


@pytest.fixture
def without_native_code(tmp_path: Path) -> str:
    """A PYTHONPATH under which importing native code fails as it does where it is not installed."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in NATIVE:
        (blocked / f"{name}.py").write_text("raise ModuleNotFoundError(__name__)\n")
    return os.pathsep.join([str(blocked), str(SOURCES)])


@pytest.mark.parametrize("module", ["prompting", "backends.upstream", "backends.local.backend", "server", "engine"])
def test_importing(module: str, without_native_code: str) -> None:
    """Every folder that an API process imports can be imported."""
    subprocess.run(
        [sys.executable, "-c", f"import antiphon.{module}"],
        env={**os.environ, "PYTHONPATH": without_native_code},
        check=True,
    )


def test_a_gateway(tmp_path: Path, without_native_code: str) -> None:
    """``antiphon serve`` without models of its own starts and answers."""
    script = tmp_path / "script.toml"
    script.write_text('[[replies]]\ntext = "Hello."\n')
    config = tmp_path / "antiphon.toml"
    config.write_text(f'[models]\nchat = "none"\nembedding = "none"\n[gateway]\nscript = "{script}"\n')
    with serving(tmp_path, "--config", str(config), PYTHONPATH=without_native_code) as server:
        with openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
            answer = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello."
