from pathlib import Path
from typing import Literal

import msgspec
import pytest

from antiphon.config import build, home_directory, read_layers
from antiphon.errors import ConfigError


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8787
    is_open: bool = False
    origins: tuple[str, ...] = ()
    data: Path | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError(f"port must not be negative, got {self.port}")


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    threads: int | None = None


SECTIONS = {"server": Server, "engine": Engine, "engine_embedding": Engine}


def read(
    toml: str | None = None, environ: dict[str, str] | None = None, tmp_path: Path | None = None, **options: object
) -> dict[str, dict[str, object]]:
    file = None
    if toml is not None:
        assert tmp_path is not None
        file = tmp_path / "antiphon.toml"
        file.write_text(toml)
    return read_layers(SECTIONS, file=file, environ=environ or {}, options={"server": options})


def test_the_later_layer_wins(tmp_path: Path) -> None:
    """Options go before the environment, the environment before the file."""
    toml = "[server]\nport = 1\nhost = 'file'\nis_open = true\n"
    layers = read(toml, {"ANTIPHON_SERVER_PORT": "2", "ANTIPHON_SERVER_HOST": "env"}, tmp_path, port=3)
    assert layers["server"] == {"port": 3, "host": "env", "is_open": True}


def test_an_option_that_was_not_given_changes_nothing() -> None:
    """None stands for an option left out."""
    assert read(port=None)["server"] == {}


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("ANTIPHON_SERVER_PORT", "9000", "port", 9000),
        ("ANTIPHON_SERVER_IS_OPEN", "true", "is_open", True),
        ("ANTIPHON_SERVER_ORIGINS", "a, b", "origins", ("a", "b")),
        ("ANTIPHON_SERVER_ORIGINS", '["a"]', "origins", ("a",)),
        ("ANTIPHON_SERVER_DATA", "/x", "data", Path("/x")),
    ],
)
def test_text_of_the_environment_becomes_the_fields_type(name: str, value: str, key: str, expected: object) -> None:
    """Numbers, truth values, lists and paths are read from text."""
    assert read(environ={name: value})["server"] == {key: expected}


def test_the_longest_section_owns_a_variable() -> None:
    """A section whose name begins with another's keeps its own settings."""
    assert read(environ={"ANTIPHON_ENGINE_EMBEDDING_THREADS": "2"})["engine_embedding"] == {"threads": 2}


@pytest.mark.parametrize(
    ("toml", "environ", "needles"),
    [
        ("[server]\nprot = 1\n", {}, ["antiphon.toml", "prot", "port"]),
        ("[sever]\nport = 1\n", {}, ["antiphon.toml", "sever", "server"]),
        ("port = 1\n[server]\n", {}, ["antiphon.toml", "port"]),
        ("server = 1\n", {}, ["outside a table"]),
        ("[server]\nport = 'x'\n", {}, ["antiphon.toml", "[server] port", "'x'"]),
        ("[server\n", {}, ["antiphon.toml", "not valid TOML"]),
        (None, {"ANTIPHON_SERVER_PRT": "1"}, ["ANTIPHON_SERVER_PRT", "port"]),
        (None, {"ANTIPHON_PORT": "1"}, ["ANTIPHON_PORT"]),
        (None, {"ANTIPHON_SERVER_PORT": "many"}, ["ANTIPHON_SERVER_PORT", "'many'"]),
        (None, {"ANTIPHON_SERVER_ORIGINS": "[1"}, ["ANTIPHON_SERVER_ORIGINS"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    toml: str | None, environ: dict[str, str], needles: list[str], tmp_path: Path
) -> None:
    """An unknown key or a bad value fails, and the message says which and where."""
    with pytest.raises(ConfigError) as caught:
        read(toml, environ, tmp_path)
    for needle in needles:
        assert needle in f"{caught.value.message} {caught.value.hint}"


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """A file that was named must be there."""
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        read_layers(SECTIONS, file=tmp_path / "absent.toml", environ={})


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    """ANTIPHON_CONFIG stands in for the option."""
    file = tmp_path / "a.toml"
    file.write_text("[engine]\nthreads = 1\n")
    assert read_layers(SECTIONS, environ={"ANTIPHON_CONFIG": str(file)})["engine"] == {"threads": 1}


def test_a_sections_own_check_names_the_section() -> None:
    """What a section refuses itself is a ConfigError too."""
    with pytest.raises(ConfigError, match=r"\[server\] port must not be negative"):
        build(Server, {"port": -1}, "server")


def test_home_is_where_the_environment_says() -> None:
    """ANTIPHON_HOME wins over the platform's folder; empty is a mistake."""
    assert home_directory({"ANTIPHON_HOME": "/data"}) == Path("/data")
    assert home_directory({}).name == "antiphon"
    with pytest.raises(ConfigError, match="ANTIPHON_HOME"):
        home_directory({"ANTIPHON_HOME": " "})


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backend: str
    weight: float | None = None
    balance: Literal["least", "prefix"] | None = None


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    targets: tuple[Target, ...]


class Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    routes: tuple[Route, ...] = ()
    prices: dict[str, Target] | None = None
    level: Literal["debug", "info"] = "info"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("level = 'verbose'", "[nested] level: 'verbose' is not one of 'debug', 'info'"),
        ("routes = [{target = []}]", "unknown setting: {file}: [nested] routes[0] target - did you mean 'targets'?"),
        (
            "routes = [{targets = []}, {targets = [{backend = 'a', wait = 1}]}]",
            "unknown setting: {file}: [nested] routes[1].targets[0] wait - did you mean 'weight'?",
        ),
        (
            "routes = [{targets = [{backend = 'a', balance = 'most'}]}]",
            "[nested] routes[0].targets[0].balance: 'most' is not one of 'least', 'prefix'",
        ),
        ("prices = {x = {zzz = 'a'}}", "[nested] prices[...] zzz - known here: backend, balance, weight"),
        ("routes = [{targets = [{}]}]", "[nested] routes[0].targets[0]: Object missing required field `backend`"),
        ("routes = 3", "[nested] routes: Expected `array`, got `int`; got 3"),
    ],
)
def test_a_mistake_within_a_table_is_placed_and_explained(tmp_path: Path, toml: str, words: str) -> None:
    """A wrong key or value at any depth is named with its place, and with what is possible there."""
    file = tmp_path / "antiphon.toml"
    file.write_text(f"[nested]\n{toml}\n")
    with pytest.raises(ConfigError) as caught:
        read_layers({"nested": Nested}, file=file, environ={})
    said = f"{caught.value.message} - {caught.value.hint}"
    assert words.format(file=file) in said


def test_a_wrong_choice_in_the_environment_lists_the_choices() -> None:
    """The environment's text is judged like the file's."""
    with pytest.raises(ConfigError, match="ANTIPHON_NESTED_LEVEL: 'all' is not one of 'debug', 'info'"):
        read_layers({"nested": Nested}, environ={"ANTIPHON_NESTED_LEVEL": "all"})
