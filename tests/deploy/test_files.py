"""The files for containers and systemd fit the package: what they copy exists, what they set is a setting."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from antiphon.config import ENV_PREFIX
from antiphon.server.configuration import SECTIONS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
STANDALONE = {"ANTIPHON_HOME", "ANTIPHON_CONFIG"}


def settings() -> set[str]:
    """Every environment variable that is a setting."""
    return STANDALONE | {
        f"{ENV_PREFIX}{section}_{field}".upper()
        for section, kind in SECTIONS.items()
        for field in kind.__struct_fields__
    }


def test_the_images_sources_exist() -> None:
    """Each path that the Dockerfile copies from the context is in the repository."""
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.removeprefix("COPY ").split()
            assert all((ROOT / source).exists() for source in sources), line


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "antiphon.service", "healthcheck.py", "install.sh"])
def test_each_variable_is_a_setting(name: str) -> None:
    """A setting that is renamed cannot be forgotten here: the server would not start."""
    named = set(re.findall(r"\bANTIPHON_[A-Z_]+\b", (DEPLOY / name).read_text()))
    assert named <= settings()


def test_the_compose_file_waits_for_its_stores() -> None:
    """Every service that another waits for has a health check."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    waited = services["antiphon"]["depends_on"]
    assert set(waited) == {"postgres", "redis"}
    assert all("healthcheck" in services[name] for name in waited)


@pytest.mark.parametrize("script", sorted(DEPLOY.glob("*.sh")), ids=lambda path: path.name)
def test_the_shell_scripts_parse(script: Path) -> None:
    """A syntax error shows here and not in a container."""
    subprocess.run(["sh", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd knows every directive (the program is put where this machine has one)."""
    unit = tmp_path / "antiphon.service"
    unit.write_text((DEPLOY / unit.name).read_text().replace("/opt/antiphon/bin/antiphon", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "antiphon.service" in line] == []
