"""Engine settings: a value out of range is refused by the setting's name."""

from pathlib import Path
from typing import Any

import pytest

from antiphon.engine.settings import EngineSettings, from_json, to_json
from antiphon.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_size", 0),
        ("threads", -1),
        ("max_queue", 0),
        ("gpu_layers", -1),
        ("num_sequences", 129),
        ("draft_tokens", 33),
        ("draft_tokens", -1),
        ("step_timeout_s", 0.0),
        ("weight_format", "q8_0"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    """The message names the setting and what was given."""
    with pytest.raises(ConfigError, match=rf"{name}.*{value}"):
        EngineSettings(model_path=Path("m.gguf"), **{name: value})


def test_the_old_name_of_the_weight_format_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """`layout` sets `weight_format` and is reported once; two different values are refused."""
    settings = EngineSettings(model_path=Path("m.gguf"), layout="as-is")
    assert (settings.weight_format, settings.layout) == ("as-is", None)
    assert from_json(to_json(settings)) == settings
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "weight_format" in caplog.text
    with pytest.raises(ConfigError, match=r"weight_format 'bf16' and layout 'as-is' disagree"):
        EngineSettings(model_path=Path("m.gguf"), cache_directory=Path("/c"), weight_format="bf16", layout="as-is")


def test_settings_reach_the_process_as_they_are() -> None:
    """What is written for the process is read there as the same."""
    settings = EngineSettings(
        model_path=Path("/m.gguf"), gpu_layers=0, cache_directory=Path("/c"), weight_format="bf16"
    )
    assert from_json(to_json(settings)) == settings
