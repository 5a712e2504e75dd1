"""Private instances of Redis and PostgreSQL on Unix sockets, for as long as the tests run."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


def binary(name: str, *folders: str) -> str:
    """Return the path of a program; skip without it on a developer's machine, fail in CI."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    found = shutil.which(name, path=path)
    if found is None:
        reason = f"{name} is not installed (Debian: apt-get install redis-server postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def running(command: list[str], ready: str, stop: signal.Signals) -> Iterator[None]:
    """Run a server from the moment it says ``ready`` until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f"{command[0]} did not start: {''.join(said)}")
        yield
    finally:
        process.send_signal(stop)
        process.communicate()


class Restartable:
    """A server that a test can end, as a crash does, and start again with what it has on its disk."""

    def __init__(self, command: list[str], ready: str, stop: signal.Signals) -> None:
        self._command = command
        self._ready = ready
        self._stop = stop
        self._running = ExitStack()

    def start(self) -> None:
        """Return when it accepts connections."""
        self._running.enter_context(running(self._command, self._ready, self._stop))

    def end(self) -> None:
        """Return when it has ended; nothing happens if it has already."""
        self._running.close()


@contextmanager
def redis_server() -> Iterator[str]:
    """Yield the URL of an empty Redis."""
    with restartable_redis() as (_, url):
        yield url


@contextmanager
def restartable_redis() -> Iterator[tuple[Restartable, str]]:
    """Yield a running, empty Redis and its URL. It forgets all when it ends."""
    with tempfile.TemporaryDirectory(prefix="antiphon-redis-") as folder:
        socket = f"{folder}/redis.sock"
        command = [binary("redis-server"), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        with _kept(Restartable(command, "eady to accept connections", signal.SIGKILL)) as server:
            yield server, f"unix://{socket}"


@contextmanager
def _kept(server: Restartable) -> Iterator[Restartable]:
    server.start()
    try:
        yield server
    finally:
        server.end()


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the folder of the socket of an empty PostgreSQL, whose superuser is ``antiphon``."""
    with restartable_postgres() as (_, folder):
        yield folder


@contextmanager
def restartable_postgres() -> Iterator[tuple[Restartable, str]]:
    """Yield a running, empty PostgreSQL and the folder of its socket; its superuser is ``antiphon``."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    initdb, postgres = binary("initdb", *folders), binary("postgres", *folders)
    with tempfile.TemporaryDirectory(prefix="antiphon-pg-") as folder:
        as_user = _as_ordinary_user(folder)
        data = f"{folder}/data"
        setup = [*as_user, initdb, "-D", data, "-U", "antiphon", "-A", "trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(setup, check=True, capture_output=True, cwd=folder)
        # SIGQUIT ends it as a crash does: without a last checkpoint.
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50"]
        command = [*as_user, postgres, "-D", data, "-k", folder, *options]
        with _kept(Restartable(command, "ready to accept connections", signal.SIGQUIT)) as server:
            yield server, folder


def _as_ordinary_user(folder: str) -> list[str]:
    # PostgreSQL refuses to run as root, and its Debian package brings a user of its own.
    if os.geteuid() != 0:
        return []
    account = pwd.getpwnam("postgres")
    os.chown(folder, account.pw_uid, account.pw_gid)
    return [binary("setpriv"), f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
