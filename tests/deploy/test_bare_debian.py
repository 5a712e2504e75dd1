"""The container's own steps in a bare Debian root, where no container daemon is at hand. Run by ``make container-test``.

Needs root, ``debootstrap`` and ``ip``. The root gets Python and libgomp alone; ``deploy/install.sh`` and ``deploy/entrypoint.sh`` do
the rest, the latter as an unprivileged user in a network namespace that reaches nothing but itself.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root"),
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed"),
]
ROOT = Path(__file__).parents[2]
USE = """
set -eu
cd /var/lib/antiphon
sh /source/deploy/entrypoint.sh serve > /tmp/out 2> /tmp/err & server=$!
for attempt in $(seq 1 900); do
    if python3 /source/deploy/healthcheck.py 2>/dev/null; then break; fi
    kill -0 $server || { cat /tmp/out /tmp/err; exit 1; }
    sleep 0.5
done
python3 /source/deploy/healthcheck.py
python3 - <<'PY'
import json, re, urllib.request
key = re.search(r"sk-\\S+", open("/tmp/out").read())[0]
def ask(path, body):
    request = urllib.request.Request("http://127.0.0.1:8787/v1/" + path, json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer " + key})
    return json.load(urllib.request.urlopen(request))
chat = ask("chat/completions", {"model": "gpt-4o-mini", "max_tokens": 8,
    "messages": [{"role": "user", "content": "Say hello."}]})
vector = ask("embeddings", {"model": "text-embedding-3-small", "input": "hello"})
print("ANSWERED", chat["usage"]["completion_tokens"], len(vector["data"][0]["embedding"]))
PY
kill -TERM $server
wait $server || true
"""


def mirror() -> str:
    """The Debian mirror that this machine uses."""
    sources = [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    lines = "\n".join(path.read_text() for path in sources).splitlines()
    found = re.search(r"https?://\S+/debian\b", "\n".join(line for line in lines if not line.startswith("#")))
    assert found, "no Debian mirror is configured"
    return found[0]


def test_the_images_steps_give_a_server_that_answers_offline(tmp_path: Path) -> None:
    """Install, drop privileges, cut the network, serve: chat and embeddings answer with a key made at the first start."""
    root = tmp_path / "root"
    packages = "python3,python3-venv,ca-certificates,libgomp1"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root), mirror()], check=True
    )
    ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "*.egg-info", "results")
    shutil.copytree(ROOT, root / "source", ignore=ignored, symlinks=True)
    _lend_package_settings(root)
    chroot = ["chroot", str(root)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANTIPHON_", "OPENAI_", "PYTHON"))}
    environment["PATH"] = "/opt/antiphon/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    install = ["sh", "/source/deploy/install.sh", "/source", "/opt/antiphon", "/var/lib/antiphon"]
    subprocess.run([*chroot, *install], env=environment, check=True)
    assert shutil.which("cc", path=str(root / "usr/bin")) is None, "the test means to show that no compiler is needed"
    subprocess.run([*chroot, "chown", "-R", "10001", "/var/lib/antiphon"], env=environment, check=True)
    offline = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "offline"]
    used = {"ANTIPHON_HOME": "/var/lib/antiphon", "ANTIPHON_SERVER_HOST": "0.0.0.0", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*offline, "chroot", "--userspec=10001:10001", str(root), "sh", "-c", USE],
        env=environment | used, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"ANSWERED \d+ 1536", done.stdout), done.stdout + done.stderr


def _lend_package_settings(root: Path) -> None:
    """Let the root's pip use what this machine's pip is told to use: indexes, certificates, local wheels."""
    for path in ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/resolv.conf", "/etc/hosts"):
        if Path(path).exists():
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / path[1:])
    user = Path.home() / ".config/pip/pip.conf"
    if user.exists():
        (root / "root/.config/pip").mkdir(parents=True)
        shutil.copyfile(user, root / "root/.config/pip/pip.conf")
