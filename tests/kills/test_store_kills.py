"""Vector stores on a server that is killed while it reads files: each file ends once, and is in the index once."""

import random
import signal
import sqlite3
import threading
from pathlib import Path

import openai
import pytest
from tests.processes import serving
from tests.waiting import wait_until

CONFIG = """
[models]
chat = "none"
embedding = "none"
[gateway]
script = "{home}/script.toml"
"""
SCRIPT = """
models = ["m"]
embedding_models = ["e"]
[[replies]]
first_token_s = 0.02
"""
FILES = 60
KILLS = 4
LONG = "The lighthouse keeper wrote the state of the lamp into his log every evening. " * 60


def _wait_for(client: openai.OpenAI, store_id: str, num_files: int) -> None:
    wait_until(lambda: client.vector_stores.retrieve(store_id).file_counts.completed >= num_files)


@pytest.mark.load
def test_kills_while_files_are_read(tmp_path: Path) -> None:
    """Four kills under sixty files, of which every tenth cannot be read."""
    config = tmp_path / "antiphon.toml"
    config.write_text(CONFIG.format(home=tmp_path))
    (tmp_path / "script.toml").write_text(SCRIPT)
    draw = random.Random(5)
    store_id, names = "", dict[str, str]()
    for number in range(KILLS):
        with (
            serving(tmp_path, "--config", str(config)) as server,
            openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
        ):
            if not store_id:
                for place in range(FILES):
                    content = b"a\0b" if place % 10 == 9 else f"{place} {LONG}".encode()
                    names[client.files.create(file=(f"{place}.txt", content), purpose="assistants").id] = f"{place}.txt"
                store_id = client.vector_stores.create(file_ids=list(names)).id
            wanted = (number + 1) * FILES // (KILLS + 2)
            _wait_for(client, store_id, wanted)
            threading.Event().wait(draw.random() / 20)  # somewhere within the reading of a file
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
    with (
        serving(tmp_path, "--config", str(config)) as server,
        openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as client,
    ):
        wait_until(lambda: client.vector_stores.retrieve(store_id).status == "completed")
        counts = client.vector_stores.retrieve(store_id).file_counts
        assert (counts.completed, counts.failed, counts.total) == (FILES * 9 // 10, FILES // 10, FILES)
        statuses = {file.id: file.status for file in client.vector_stores.files.list(store_id)}
        assert statuses == {
            file_id: "failed" if int(name.removesuffix(".txt")) % 10 == 9 else "completed"
            for file_id, name in names.items()
        }
    with sqlite3.connect(tmp_path / "vector_stores" / f"{store_id}.sqlite") as index:
        held = dict(
            index.execute(
                "SELECT d.name, count(*) FROM chunks c JOIN documents d ON d.id = c.document GROUP BY d.name"
            ).fetchall()
        )
        twice = index.execute(
            "SELECT count(*) FROM (SELECT 1 FROM chunks GROUP BY document, first HAVING count(*) > 1)"
        )
        assert twice.fetchone() == (0,)
    index.close()
    assert held.keys() == {file_id for file_id, status in statuses.items() if status == "completed"}
    assert len(set(held.values())) <= 2, "files of one length have about the same number of chunks"
