"""Settings that contradict each other, do nothing, or would be a secret in a log are refused at the start; names of models."""

from pathlib import Path

import pytest

from antiphon.errors import ConfigError
from antiphon.server.configuration import load_configuration
from antiphon.server.process.server_parts import ModelFile, ServerParts, choose_models

UPSTREAM = '[[gateway.upstreams]]\nname = "a"\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cache]\nstore = 'memory'\nttl_s = nan", "ttl_s"),
        ("[cache]\nstore = 'redis'\nredis_url = 'localhost'", "redis_url"),
        ("[server]\nshutdown_grace_s = inf", "shutdown_grace_s"),
        ("[server]\nlog_prompts = true", "log_level"),
        ("[models]\ndefault_max_tokens = -1", "default_max_tokens"),
        ("[models.aliases]\na = 'a'", "another name"),
        ("[models.aliases]\na = ''", "another name"),
        ("[faults]\nstatus = 503\nretry_after_s = nan", "retry_after_s"),
        ("[gateway.retry]\ntotal_s = nan", "times"),
        ("[gateway.breaker]\nmax_cooldown_s = inf", "breaker"),
        ("[[gateway.routes]]\nmodel = 'a'\ntargets = [{ backend = 'local', weight = inf }]", "weight"),
        (UPSTREAM + "keepalive_s = nan", "intervals"),
        (UPSTREAM + "timeouts = { first_byte_s = nan }", "timeouts"),
        (UPSTREAM + 'headers = { "x-a" = "1\\r\\nx-b: 2" }', "x-a"),
        (UPSTREAM + 'headers = { "x a" = "1" }', "x a"),
        (UPSTREAM + 'headers = { "Content-Length" = "1" }', "Content-Length"),
    ],
)
def test_settings_that_cannot_be_meant(text: str, says: str, tmp_path: Path) -> None:
    """The error names the setting."""
    file = tmp_path / "antiphon.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_configuration(file=file, environ={"ANTIPHON_HOME": str(tmp_path)})


def test_a_key_in_the_place_of_a_variables_name_is_not_shown(tmp_path: Path) -> None:
    """The commonest slip with ``api_key_env`` does not put the key into a log."""
    file = tmp_path / "antiphon.toml"
    file.write_text(UPSTREAM + 'api_key_env = "sk-proj-secret"')
    with pytest.raises(ConfigError, match="not a key") as raised:
        load_configuration(file=file, environ={"ANTIPHON_HOME": str(tmp_path)})
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "served", "unknown"),
    [
        (
            "",
            ("gpt-4o", "gpt-5-mini", "o3-mini", "text-embedding-ada-002", "text-embedding-4"),
            ("other", "opus", "fast"),
        ),
        (
            "[models]\nopenai_names = ['gpt-4o*']",
            ("gpt-4o", "gpt-4o-2026"),
            ("gpt-5-mini", "o3-mini", "text-embedding-3-small"),
        ),
        (
            "[models]\nopenai_names = []",
            ("smollm2-135m-instruct", "all-minilm-l6-v2"),
            ("gpt-4o", "text-embedding-3-small"),
        ),
        ("[models]\nchat = 'none'", ("text-embedding-ada-002",), ("gpt-4o", "gpt-5-mini")),
        (
            "[models.aliases]\nfast = 'smollm2-135m-instruct'\nvectors = 'text-embedding-3-small'",
            ("fast", "vectors"),
            ("slow",),
        ),
    ],
)
@pytest.mark.anyio
async def test_names_that_a_configuration_serves(
    text: str, served: tuple[str, ...], unknown: tuple[str, ...], tmp_path: Path
) -> None:
    """OpenAI's names out of the box, fewer when the setting narrows them, and aliases for any model."""
    file = tmp_path / "antiphon.toml"
    file.write_text(text)
    configuration = load_configuration(file=file, environ={"ANTIPHON_HOME": str(tmp_path)})
    entries = choose_models(configuration)[1]
    parts = await ServerParts.open(configuration, [ModelFile(entry, tmp_path / "model.gguf") for entry in entries])
    try:
        assert [name for name in (*served, *unknown) if parts.router.serves(name)] == list(served)
    finally:
        await parts.aclose()
