"""Every ```toml example of the pages on routing and scale-out is a configuration (or script) that the server accepts."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from antiphon.backends.routing import BreakerSettings, RetrySettings, RouteSettings, TargetSettings
from antiphon.backends.scripted.script import read_script
from antiphon.backends.upstream import Timeouts, UpstreamModel, UpstreamSettings
from antiphon.server.configuration import load_configuration

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r"^```toml(?P<kind>[^\n`]*)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL)


def examples() -> Iterator[object]:
    for page in ("routing.md", "scale-out.md"):
        for number, fence in enumerate(FENCE.finditer((DOCS / page).read_text())):
            yield pytest.param(fence["kind"].strip(), fence["body"], id=f"{page}-{number}")


@pytest.mark.parametrize(("kind", "text"), list(examples()))
def test_an_example_is_accepted(kind: str, text: str, tmp_path: Path) -> None:
    """What a reader copies works, every key of it."""
    path = tmp_path / "example.toml"
    path.write_text(text)
    if kind == "script":
        assert read_script(path).replies
    else:
        load_configuration(file=path, environ={"ANTIPHON_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "settings",
    [UpstreamSettings, UpstreamModel, Timeouts, RouteSettings, TargetSettings, RetrySettings, BreakerSettings],
)
def test_every_key_of_the_gateway_is_documented(settings: type[msgspec.Struct]) -> None:
    """The page on routing names each setting."""
    page = (DOCS / "routing.md").read_text()
    words = set(re.findall(r"[a-z_]+", page))
    assert {field.name for field in msgspec.structs.fields(settings)} <= words
