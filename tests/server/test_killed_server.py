"""``kill -9`` of a server at work: the ledger opens again, and what it owes is there."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tests.processes import ServerProcess, serving
from tests.waiting import PATIENCE_S, wait_until

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "hello there"}]}
CONFIG = """
[models]
chat = "none"
embedding = "none"

[gateway]
script = "{script}"
"""


class Load:
    """Clients that ask until the server is gone, and note which requests were answered."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self._url = server.url
        self.answered: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while True:
                try:
                    response = client.post("/chat/completions", json=BODY)
                except httpx2.TransportError:
                    return
                assert response.status_code == 200
                self.answered.append(response.headers["x-request-id"])

    def run_until_killed(self, server: ServerProcess, ledger: Path) -> set[str]:
        """Kill the server, still under load, when its ledger has the first hundred answers; return those."""
        for thread in self._threads:
            thread.start()
        wait_until(lambda: len(self.answered) >= 100)
        owed = set(self.answered)
        wait_until(lambda: owed <= written(ledger))
        server.process.kill()
        for thread in self._threads:
            thread.join()
        return owed


def written(ledger: Path) -> set[str]:
    with closing(sqlite3.connect(ledger, timeout=PATIENCE_S)) as database:
        return {request_id for (request_id,) in database.execute("SELECT request_id FROM usage")}


@pytest.mark.slow
def test_rows_that_were_written_survive(tmp_path: Path) -> None:
    """Under the load of eight clients rows are written as it goes; killed and started again, the server has them all."""
    script = tmp_path / "script.toml"
    script.write_text('models = ["scripted"]\n')
    config = tmp_path / "antiphon.toml"
    config.write_text(CONFIG.format(script=script))
    with serving(tmp_path, "--config", str(config)) as server:
        load = Load(server, clients=8)
        owed = load.run_until_killed(server, tmp_path / "antiphon.db")
    with serving(tmp_path, "--config", str(config)) as server:
        assert httpx2.post(f"{server.url}/chat/completions", json=BODY).status_code == 200
    saved = written(tmp_path / "antiphon.db")
    assert owed <= saved
    assert saved - set(load.answered), "the request after the restart has its row"
