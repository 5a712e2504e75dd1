"""The settings give a model a chat template in place of the one in its file."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.backends.local.chat import LocalChat
from antiphon.errors import ConfigError
from antiphon.server.configuration import load_configuration
from antiphon.server.process.server_parts import ModelFile, choose_models, make_local

EXTRA = '[[models.extra]]\nsource = "/models/a.gguf"\nid = "a"\n'


def templates(text: str, home: Path) -> dict[str, str | None]:
    """Return the template that each chat model is given under these settings."""
    file = home / "antiphon.toml"
    file.write_text(text)
    configuration = load_configuration(file=file, environ={"ANTIPHON_HOME": str(home)})
    entries = choose_models(configuration)[1]
    models: Any = make_local(configuration, [ModelFile(entry, home / f"{entry.id}.gguf") for entry in entries])._names
    return {model.name: model._chat_template for model in models.values() if isinstance(model, LocalChat)}


def test_each_model_has_its_own(tmp_path: Path) -> None:
    """A template is for the model that it was set for; the others keep their own."""
    (tmp_path / "b.jinja").write_text("Größe {{ messages }}", "utf-8")
    text = (
        f'[models]\nchat_template = "main"\nembedding = "none"\n{EXTRA}chat_template_file = "{tmp_path / "b.jinja"}"\n'
        '[[models.extra]]\nsource = "/models/c.gguf"\nid = "c"\n'
    )
    made = templates(text, tmp_path)
    assert (made.pop("a"), made.pop("c")) == ("Größe {{ messages }}", None)
    assert list(made.values()) == ["main"]


@pytest.mark.parametrize("name", ["missing.jinja", "latin.jinja", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """The error names the model and the file."""
    (tmp_path / "latin.jinja").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"cannot read the chat template of 'a', '.*" + name) as caught:
        templates(f'{EXTRA}chat_template_file = "{tmp_path / name}"\n', tmp_path)
    assert "chat_template_file" in caught.value.hint


@pytest.mark.parametrize("section", ["[models]\n", EXTRA])
def test_two_templates_for_one_model(section: str, tmp_path: Path) -> None:
    """A template and a file of one contradict each other."""
    with pytest.raises(ConfigError, match="set only one of them"):
        templates(f'{section}chat_template = "a"\nchat_template_file = "b"\n', tmp_path)
