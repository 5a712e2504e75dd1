"""A batch on a server that is killed: each line is answered and charged once, at half the price.

The small version kills the server of a script. ``make batch-kills`` kills server and engines of the default models ten times
(``ANTIPHON_KILLS``) under 2,000 embeddings and 200 chats.
"""

import os
from pathlib import Path

import pytest
from tests.kills.batches import begin, check_answers, run_with_kills
from tests.processes import home_with_models

SCRIPTED = """
[models]
chat = "none"
embedding = "none"
[gateway]
script = "{home}/script.toml"
[batches]
lease_s = 0.5
concurrency = 4
[accounts.prices]
m = {{ input = 2.0, output = 4.0 }}
e = {{ input = 2.0, output = 4.0 }}
"""
SCRIPT = """
models = ["m"]
embedding_models = ["e"]
[[replies]]
first_token_s = 0.02
"""
REAL = """
[batches]
lease_s = 2.0
[accounts.prices]
gpt-4o-mini = { input = 2.0, output = 4.0 }
text-embedding-3-small = { input = 2.0, output = 4.0 }
"""


@pytest.mark.slow
def test_kills_under_a_scripted_batch(tmp_path: Path) -> None:
    """Three kills under 120 chats and 120 embeddings."""
    config = tmp_path / "antiphon.toml"
    config.write_text(SCRIPTED.format(home=tmp_path))
    (tmp_path / "script.toml").write_text(SCRIPT)
    chats = [{"model": "m", "messages": [{"role": "user", "content": f"number {n}"}]} for n in range(120)]
    texts = [{"model": "e", "input": f"number {n}"} for n in range(120)]
    batches = run_with_kills(
        tmp_path,
        config,
        3,
        lambda client: [begin(client, "/v1/chat/completions", chats), begin(client, "/v1/embeddings", texts)],
        seed=1,
    )
    check_answers(tmp_path, config, batches, [len(chats), len(texts)])


@pytest.mark.load
def test_kills_under_batches_of_the_default_models(tmp_path: Path) -> None:
    """Ten kills of server and engines under 2,000 embeddings and 200 chats."""
    home = home_with_models(tmp_path)
    config = tmp_path / "antiphon.toml"
    config.write_text(REAL)
    chats = [
        {"model": "gpt-4o-mini", "max_tokens": 8, "messages": [{"role": "user", "content": f"Say the number {n}."}]}
        for n in range(200)
    ]
    texts = [{"model": "text-embedding-3-small", "input": f"a text about the number {n}"} for n in range(2000)]
    batches = run_with_kills(
        home,
        config,
        int(os.environ.get("ANTIPHON_KILLS", "10")),
        lambda client: [begin(client, "/v1/chat/completions", chats), begin(client, "/v1/embeddings", texts)],
        seed=int(os.environ.get("ANTIPHON_SEED", "7")),
    )
    check_answers(home, config, batches, [len(chats), len(texts)])
