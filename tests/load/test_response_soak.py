"""Thousands of small responses against a bounded store: its tables and the server's memory stop growing.

The long run is ``make soak``; a short one is part of ``make test``.
"""

import contextlib
import http.client
import json
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from tests.processes import serving

MODEL = "gpt-4o-mini"
NUM_CLIENTS = 4
SETTINGS = """
[models]
chat = "none"
embedding = "none"
[gateway]
script = "{home}/script.toml"
[responses]
max_bytes = {max_bytes}
"""


class Measured(NamedTuple):
    """After so many responses: bytes of the pages that the responses take, of SQLite's log, and of the server's memory."""

    num_responses: int
    num_bytes: int
    log_bytes: int
    rss_bytes: int


def soak(home: Path, *, num_responses: int, max_bytes: int, num_samples: int = 20) -> list[Measured]:
    """Send ``num_responses`` responses, every second one a continuation of the one before; measure as they go."""
    (home / "script.toml").write_text(f'models = ["{MODEL}"]\n')
    settings = home / "antiphon.toml"
    settings.write_text(SETTINGS.format(home=home, max_bytes=max_bytes))
    samples: list[Measured] = []
    with serving(home, "--config", str(settings)) as server, ThreadPoolExecutor(NUM_CLIENTS) as clients:
        each = num_responses // num_samples // NUM_CLIENTS
        for sample in range(1, num_samples + 1):
            list(clients.map(_ask, [server.url] * NUM_CLIENTS, [each] * NUM_CLIENTS))
            log_bytes = (home / "antiphon.db-wal").stat().st_size
            stored = _stored_bytes(home / "antiphon.db")
            samples.append(Measured(sample * each * NUM_CLIENTS, stored, log_bytes, _rss_bytes(server.pid)))
    return samples


def _ask(url: str, num_responses: int) -> None:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    previous: str | None = None
    for number in range(num_responses):
        body = {"model": MODEL, "input": f"Say {number}.", "stream": number % 4 == 3, "previous_response_id": previous}
        connection.request("POST", "/v1/responses", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        previous = json.loads(text)["id"] if number % 2 == 0 else None
    connection.close()


def _stored_bytes(database: Path) -> int:
    """Return the size of the tables and indexes of responses; the ledger of usage is in the same file, and grows."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%response%'"
        try:
            return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError as error:
            pytest.skip(f"this SQLite cannot measure its tables: {error}")


def _rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def _check(samples: list[Measured], max_bytes: int) -> None:
    """The responses take what is allowed, and nothing is larger in the last quarter than it was in the second."""
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[-quarter:]
    assert max_bytes / 2 < max(sample.num_bytes for sample in after) < 1.25 * max_bytes, samples
    assert max(sample.rss_bytes for sample in after) <= 1.15 * max(sample.rss_bytes for sample in before), samples
    assert max(sample.log_bytes for sample in after) < 64 * 2**20, samples


@pytest.mark.slow
def test_a_small_store_stays_small(tmp_path: Path) -> None:
    """With a bound of 512 KiB, 800 responses leave as much, and each could be continued at once."""
    _check(soak(tmp_path, num_responses=800, max_bytes=2**19, num_samples=8), 2**19)


@pytest.mark.soak
def test_twenty_thousand_responses(tmp_path: Path) -> None:
    """20,000 small responses against a bound of 4 MiB; the numbers are printed."""
    samples = soak(tmp_path, num_responses=20_000, max_bytes=4 * 2**20)
    for sample in samples:
        named = zip(sample[1:], ("stored", "log", "resident"), strict=True)
        sizes = [f"{size / 2**20:6.1f} MiB {what}" for size, what in named]
        sys.stdout.write(f"{sample.num_responses:6d} responses: {', '.join(sizes)}\n")
    _check(samples, 4 * 2**20)
