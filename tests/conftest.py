"""Fixtures for every test."""

import os
import random
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.installed import HAS_LLAMA
from tests.processes import ServerProcess, home_with_models, serving

# The plugin that the package gives to applications, and pytest's own for tests of a plugin.
pytest_plugins = ["antiphon.testing.plugin", "pytester"]

# Which runtime is faster depends on the moment; tests of OpenVINO name it. Where it is the only one, it serves all of them.
os.environ.setdefault("ANTIPHON_ENGINE_RUNTIME", "llama" if HAS_LLAMA else "openvino")

# The same examples in every run, and no failure because the machine was busy.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the tests' own, with the user's models."""
    return home_with_models(tmp_path_factory.mktemp("antiphon-home"))


@pytest.fixture(scope="session")
def local_process(model_home: Path) -> Generator[ServerProcess]:
    """One server on the default models for the whole run."""
    with serving(model_home) as server:
        yield server


@pytest.fixture(scope="session")
def local_server(local_process: ServerProcess) -> str:
    """The base URL of that server."""
    return local_process.url


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--load-seconds", type=float, default=300, help="how long the load test runs")
    parser.addoption("--engine", action="append", default=[], metavar="NAME=VALUE", help="for the load test's server")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run modules, and the tests of each, in another order")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle for who asks: no test may depend on what ran before it."""
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    chance = random.Random(seed)
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    shuffled = list(modules.values())
    for tests in (shuffled, *shuffled):
        chance.shuffle(tests)
    items[:] = [item for tests in shuffled for item in tests]


def pytest_unconfigure() -> None:
    """Close what llama-cpp-python opens when it is imported, and never closes."""
    if opened := sys.modules.get("llama_cpp._utils"):
        opened.outnull_file.close()
        opened.errnull_file.close()
