"""Settings that contradict each other, do nothing, or would be a secret in a log are refused at the start."""

from pathlib import Path

import pytest

from antiphon.errors import ConfigError
from antiphon.server.configuration import load_configuration

UPSTREAM = '[[gateway.upstreams]]\nname = "a"\nbase_url = "http://h/v1"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[cache]\nstore = 'memory'\nttl_s = nan", "ttl_s"),
        ("[cache]\nstore = 'redis'\nredis_url = 'localhost'", "redis_url"),
        ("[server]\nshutdown_grace_s = inf", "shutdown_grace_s"),
        ("[server]\nlog_prompts = true", "log_level"),
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
