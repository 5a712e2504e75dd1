"""``antiphon launch``: other people's tools against this server, with a profile of their own where they need one."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import openai
from cyclopts import Parameter

from antiphon.cli.connection import Server
from antiphon.cli.profile_file import ProfileFile
from antiphon.errors import AntiphonError


class Profile(msgspec.Struct, frozen=True):
    """A tool's settings file, and what it says for a server and a model."""

    file: Callable[[], ProfileFile]
    content: Callable[[Server, str], str]


class Tool(msgspec.Struct, frozen=True):
    """A program and what makes it talk to this server.

    ``model`` is asked for unless the user names one. ``environ`` and ``options`` say how the tool is started. ``profile`` is
    None for a tool that needs no file.
    """

    program: str
    install: str
    model: str
    environ: Callable[[Server, str], Mapping[str, str]]
    options: Callable[[str], tuple[str, ...]]
    profile: Profile | None = None


def launch(
    tool: Annotated[str, Parameter(help="codex, llm, aider or opencode.")],
    /,
    *arguments: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Passed on to the tool; after -- even options of this command.")
    ],
    model: Annotated[
        str | None, Parameter(help="Model that the tool asks for. [default: gpt-5 or gpt-4o-mini]")
    ] = None,
    undo: Annotated[
        bool, Parameter(negative="", help="Remove what an earlier launch wrote, and start nothing.")
    ] = False,
    server: Server | None = None,
) -> int:
    """Start a tool so that it talks to this server, with the arguments that follow.

    Codex gets a profile of its own, which ``codex --profile antiphon`` finds later too; the user's own settings are not
    changed. ``antiphon launch codex --undo`` removes it.
    """
    chosen = TOOLS.get(tool)
    if chosen is None:
        raise AntiphonError(f"cannot launch {tool!r}", hint=f"one of: {', '.join(TOOLS)}")
    if undo:
        print(f"{tool}: {_undo(chosen)}")
        return 0
    program = shutil.which(chosen.program)
    if program is None:
        raise AntiphonError(f"{chosen.program} is not installed", hint=f"install it with: {chosen.install}")
    given = server or Server()
    name = _checked(given, model or chosen.model)
    if chosen.profile is not None:
        chosen.profile.file().write(chosen.profile.content(given, name))
    environ = {**os.environ, **chosen.environ(given, name)}
    return _become([program, *chosen.options(name), *arguments], environ)


def _become(command: list[str], environ: Mapping[str, str]) -> NoReturn:
    """Replace this process, so that signals and the exit status are the tool's own."""
    os.execve(command[0], command, environ)  # noqa: S606 - a program that the user named


def _undo(tool: Tool) -> str:
    return "it has no file of its own, nothing to remove" if tool.profile is None else tool.profile.file().undo()


def _checked(server: Server, model: str) -> str:
    """Return the model's name. Raises ``AntiphonError`` if the server is away or does not answer to it."""
    with server.client() as client:
        try:
            client.models.retrieve(model)
        except openai.NotFoundError:
            names = ", ".join(listed.id for listed in client.models.list().data[:8])
            raise AntiphonError(
                f"{server.base_url} has no model {model!r}", hint=f"name one with --model: {names}"
            ) from None
    return model


def _openai_environ(server: Server, model: str) -> Mapping[str, str]:  # noqa: ARG001 - the same for every model
    return {
        "OPENAI_API_KEY": server.api_key,
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_BASE": server.base_url,
    }


def _codex_profile() -> ProfileFile:
    """Return the profile's file: Codex reads ``NAME.config.toml`` of its home for ``--profile NAME``, from 0.134 on."""
    named = os.environ.get("CODEX_HOME")
    home = Path(named).expanduser() if named else Path.home() / ".codex"
    return ProfileFile(home / "antiphon.config.toml", "antiphon launch codex")


def _codex_content(server: Server, model: str) -> str:
    return (
        f"model = {_toml(model)}\n"
        'model_provider = "antiphon"\n'
        "\n"
        "[model_providers.antiphon]\n"
        'name = "Antiphon"\n'
        f"base_url = {_toml(server.base_url)}\n"
        'wire_api = "responses"\n'
        "# Codex sends its instructions ahead over the connection, and afterwards only what is new.\n"
        "supports_websockets = true\n"
        'env_key = "OPENAI_API_KEY"\n'
        "# Codex names hosted tools in every request, which this server does not run.\n"
        'http_headers = { "x-antiphon-hosted-tools" = "leave-out" }\n'
    )


def _toml(text: str) -> str:
    """Return a basic string of TOML; its escapes include those of JSON."""
    return msgspec.json.encode(text).decode()


def _opencode_environ(server: Server, model: str) -> Mapping[str, str]:
    """Return settings in the environment, which opencode merges with those of its files."""
    provider: dict[str, Any] = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Antiphon",
        "options": {"baseURL": server.base_url, "apiKey": "{env:OPENAI_API_KEY}"},
        "models": {model: {}},
    }
    settings = {"provider": {"antiphon": provider}, "model": f"antiphon/{model}"}
    return {**_openai_environ(server, model), "OPENCODE_CONFIG_CONTENT": msgspec.json.encode(settings).decode()}


TOOLS: Mapping[str, Tool] = {
    "codex": Tool(
        "codex",
        "npm install --global @openai/codex",
        "gpt-5",
        _openai_environ,
        lambda _: ("--profile", "antiphon"),
        Profile(_codex_profile, _codex_content),
    ),
    "llm": Tool("llm", "pip install llm", "gpt-4o-mini", _openai_environ, lambda model: ("--model", model)),
    "aider": Tool(
        "aider", "pip install aider-chat", "gpt-4o-mini", _openai_environ, lambda model: ("--model", f"openai/{model}")
    ),
    "opencode": Tool("opencode", "npm install --global opencode-ai", "gpt-4o-mini", _opencode_environ, lambda _: ()),
}
