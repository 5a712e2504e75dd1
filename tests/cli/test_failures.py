"""A damaged database, a home that cannot be written, a full disk, a path to a device: one line with what to do."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError

import antiphon
from antiphon.cli.failures import explained
from antiphon.cli.root import describe, main

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command that fails, and return its one line on standard error."""

    def run(home: Path | str, *words: str) -> str:
        monkeypatch.setenv("ANTIPHON_HOME", str(home))
        with pytest.raises(SystemExit) as caught:
            main(words)
        said = capsys.readouterr().err
        assert (caught.value.code, said.count("\n")) == (1, 1), said
        for raw in ("Traceback", "[SQL", "sqlalche", "Error:", "--debug", "[Errno"):
            assert raw not in said
        assert " - " in said
        return said

    return run


COMMANDS = [
    ("keys", "list"),
    ("keys", "create", "--name", "b"),
    ("usage",),
    ("serve", "--model", "none", "--embedding-model", "none", "--port", "0"),
]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database has a key; tests damage copies of it."""
    home = tmp_path_factory.mktemp("used") / "home"
    code = "import sys; from antiphon.cli.root import main; main(['keys', 'create', '--name', 'a'])"
    source = str(Path(antiphon.__file__).parents[1])
    environment = {**os.environ, "ANTIPHON_HOME": str(home), "PYTHONPATH": source}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return home


@pytest.fixture
def home(used: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(used, tmp_path / "home"))


def overwrite(database: Path, start: int, end: int | None = None) -> None:
    """Destroy a part of the file."""
    data = bytearray(database.read_bytes())
    for place in range(start, min(end or len(data), len(data))):
        data[place] = data[place] * 7 + 13 & 255
    database.write_bytes(data)
    for name in ("-wal", "-shm"):
        database.with_name(database.name + name).unlink(missing_ok=True)


@pytest.mark.parametrize("damage", [(0, 100), (100, 4096), (4096, None)])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_damaged_database_is_named(
    run: Run, home: Path, command: tuple[str, ...], damage: tuple[int, int | None]
) -> None:
    """Its header, its table of tables or its rows: the line names the file and says what can be saved."""
    overwrite(home / "antiphon.db", *damage)
    said = run(home, *command)
    assert str(home / "antiphon.db") in said
    assert "damaged" in said


def damaged_table(home: Path, table: str) -> None:
    """Destroy the pages of one table."""
    path = home / "antiphon.db"
    connection = sqlite3.connect(path)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    overwrite(path, (page - 1) * size, page * size)


@pytest.mark.parametrize(
    ("table", "command"),
    [
        ("keys", COMMANDS[0]),
        ("keys", COMMANDS[1]),
        ("keys", COMMANDS[3]),
        ("key_state", COMMANDS[1]),
        ("key_state", COMMANDS[3]),
        ("usage_by_time", COMMANDS[2]),
    ],
)
def test_a_damaged_table_is_named(run: Run, home: Path, table: str, command: tuple[str, ...]) -> None:
    """A database that opens and breaks later is explained in the same words, without any SQL."""
    damaged_table(home, table)
    assert "damaged" in run(home, *command)


@pytest.mark.parametrize("home", ["/dev/null", "/dev/full", "/proc/antiphon", "/dev/null/below"])
@pytest.mark.parametrize("command", [*COMMANDS, ("models", "pull", "gpt-4o"), ("serve", "--port", "0")], ids=" ".join)
def test_a_home_that_cannot_be_written_is_named(run: Run, home: str, command: tuple[str, ...]) -> None:
    """A file, a device, a file system that the kernel keeps: the line names the place and the variable that helps."""
    said = run(home, *command)
    assert home in said
    assert "ANTIPHON_HOME" in said


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "/dev/zero", "/dev", "/dev/null/x.db"])
def test_a_database_that_is_not_a_file_is_named(run: Run, tmp_path: Path, path: str) -> None:
    """SQLite's own words, and what to check."""
    assert path in run(tmp_path, "keys", "list", "--database-url", f"sqlite:///{path}")


@pytest.mark.parametrize(
    "command",
    [
        ("bulk", "/dev", "out.jsonl"),
        ("bulk", "requests.jsonl", "/dev/null/out.jsonl"),
        ("search", "/dev/null", "question"),
        ("search", ".", "question", "--index", "/dev/full"),
        ("search", ".", "question", "--index", "/dev"),
        ("doctor", "--answer", "/dev"),
        ("serve", "--config", "/dev"),
        ("serve", "--config", "/dev/null/x.toml"),
    ],
    ids=" ".join,
)
def test_a_device_where_a_file_is_wanted_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Commands of the toolkit and configuration files: the line names the path, without the number of the error."""
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text(
        '{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}\n'
    )
    Path("text.md").write_text("# Text")
    assert "/dev" in run(tmp_path / "home", *command)


def test_a_secret_that_cannot_be_read_is_named(run: Run, home: Path) -> None:
    """The key secret is a file; a folder in its place is said."""
    (home / "key-secret").unlink()
    (home / "key-secret").mkdir()
    assert "key-secret" in run(home, "keys", "create", "--name", "b")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ENXIO, errno.EMFILE])
def test_an_error_of_the_system_is_one_line(code: int) -> None:
    """What failed, where, and what to do; never the number or the class of the error."""
    line = describe(OSError(code, os.strerror(code), "/a/file"))
    assert line.startswith(f"antiphon: /a/file: {os.strerror(code)} - ")
    assert "Errno" not in line


def test_an_error_of_sqlite_comes_without_its_statement() -> None:
    """SQLAlchemy's text has the SQL, its values and a link; people need what the database said."""
    said = sqlite3.DatabaseError("database disk image is malformed")
    line = describe(DatabaseError("SELECT secret FROM keys", {"a": 1}, said))
    assert line.startswith("antiphon: SQLite: database disk image is malformed - The file is damaged")
    assert explained(ValueError("x")) is None
