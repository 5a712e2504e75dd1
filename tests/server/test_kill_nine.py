"""``kill -9`` of a server at work: the ledger opens again, and what it owes is there."""

import sqlite3
import threading
import time
from pathlib import Path

import httpx2
import pytest
from tests.processes import ServerProcess, serving

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "hello there"}]}
CONFIG = """
[models]
chat = "none"
embedding = "none"

[gateway]
script = "{script}"
"""


class Load:
    """Clients that ask until the server is gone, and note when which request was answered."""

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self._url = server.url
        self.answered: list[tuple[float, str]] = []
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=30) as client:
            while True:
                try:
                    response = client.post("/chat/completions", json=BODY)
                except httpx2.TransportError:
                    return
                assert response.status_code == 200
                self.answered.append((time.time(), response.headers["x-request-id"]))
                if len(self.answered) > 100 and self.answered[-1][0] - self.answered[0][0] > 2.5:
                    self._enough.set()

    def run_until_killed(self, server: ServerProcess) -> float:
        """Kill the server after a hundred answers and two and a half seconds; return when."""
        for thread in self._threads:
            thread.start()
        assert self._enough.wait(60)
        killed_at = time.time()
        server.process.kill()
        for thread in self._threads:
            thread.join()
        return killed_at


@pytest.mark.slow
def test_rows_of_answers_more_than_a_second_old_survive(tmp_path: Path) -> None:
    """Killed under the load of eight clients and started again, the server knows every answer but the last second's."""
    script = tmp_path / "script.toml"
    script.write_text('models = ["scripted"]\n')
    config = tmp_path / "antiphon.toml"
    config.write_text(CONFIG.format(script=script))
    with serving(tmp_path, "--config", str(config)) as server:
        load = Load(server, clients=8)
        killed_at = load.run_until_killed(server)
    owed = {request_id for at, request_id in load.answered if at < killed_at - 1.0}
    assert len(owed) > 20
    with serving(tmp_path, "--config", str(config)) as server:
        assert httpx2.post(f"{server.url}/chat/completions", json=BODY).status_code == 200
    database = sqlite3.connect(tmp_path / "antiphon.db")
    saved = {request_id for (request_id,) in database.execute("SELECT request_id FROM usage")}
    database.close()
    assert owed <= saved
    assert len(saved - {request_id for _, request_id in load.answered}) >= 1
