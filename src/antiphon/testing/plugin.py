"""The pytest plugin: the fixture ``scripted``, the mark ``recorded``, and the option ``--record``.

pytest loads it in every environment with this package, so nothing but pytest is imported before a test asks for it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from antiphon.testing.endpoint import ScriptedEndpoint
    from antiphon.testing.tape import Tape

_TAPE_FIXTURE = "_antiphon_tape"
_HAS_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("antiphon")
    group.addoption(
        "--record", action="store_true", help="send the requests of tests marked 'recorded', and write their tapes anew"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "recorded(tape=None): answer the test's requests from a tape, tapes/MODULE/TEST.json next to its module",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the tape in place before the other fixtures of a recorded test, since these may send requests too."""
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("recorded") is not None:
            item.fixturenames.insert(0, _TAPE_FIXTURE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember how the test's own code ended, for the fixtures that end after it."""
    report = yield
    if report.when == "call":
        item.stash[_HAS_PASSED] = report.passed
    return report


@pytest.fixture
def scripted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[ScriptedEndpoint]:
    """An endpoint that answers what the test says to every client of the process; a key is set if there is none.

    A test that leaves answers over passes; ``scripted.assert_all_used()`` asks for more. A request that no answer was left
    for fails the test, even if the application caught the error.
    """
    from antiphon.testing.endpoint import ScriptedEndpoint  # noqa: PLC0415 - only for tests that use it

    if not os.environ.get("OPENAI_API_KEY"):
        monkeypatch.setenv("OPENAI_API_KEY", "scripted")
    _forget_endpoints()
    endpoint = ScriptedEndpoint()
    with endpoint.installed():
        yield endpoint
    if endpoint.unexpected and _has_passed(request):
        pytest.fail("\n".join(endpoint.unexpected), pytrace=False)


@pytest.fixture(name=_TAPE_FIXTURE)
def tape_of_test(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Generator[Tape]:
    """The tape of a test with the mark ``recorded``: played, or with ``--record`` written."""
    from antiphon.testing.tape import Tape  # noqa: PLC0415 - only for tests that use it

    _forget_endpoints()
    tape = Tape(_tape_path(request))
    if request.config.getoption("--record"):
        with tape.recording():
            yield tape
        # The tape of a test that failed may lack what came after the failure.
        if _has_passed(request):
            tape.write()
        return
    tape.read()
    if tape.base_url is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", tape.base_url)
    else:
        monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if not os.environ.get("OPENAI_API_KEY"):
        monkeypatch.setenv("OPENAI_API_KEY", "recorded")
    with tape.playing():
        yield tape
    if tape.unexpected and _has_passed(request):
        pytest.fail("\n".join(tape.unexpected), pytrace=False)


def _tape_path(request: pytest.FixtureRequest) -> Path:
    module = Path(request.node.path)
    mark = request.node.get_closest_marker("recorded")
    if mark is not None and mark.args:
        return module.parent / mark.args[0]
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    return module.parent / "tapes" / module.stem / f"{name}.json"


def _has_passed(request: pytest.FixtureRequest) -> bool:
    return request.node.stash.get(_HAS_PASSED, False)


def _forget_endpoints() -> None:
    """Let the toolkit ask anew what an endpoint has, so that a test sends the same requests in any order."""
    for name in ("antiphon.toolkit.tokens.context", "antiphon.toolkit.tokens.server_tokens"):
        if name in sys.modules:
            sys.modules[name].forget_endpoints()
    if (forms := sys.modules.get("antiphon.toolkit.calls.forms")) is not None:
        forms.FORMS.forget()
